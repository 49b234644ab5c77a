"""Networks of a policy satisfy one protocol: ours, models of transformers, and their references."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from agents.policies import protocol
from agents.policies.nucleus import PairedCache
from agents.policies.protocol import PolicyNetwork
from agents.policies.token_policy import TokenPolicy
from agents.policies.transformers.cache import HFCache, HFPrefix
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.network import HFNetwork
from agents.policies.transformers.reference import Unadapted
from mmenv.models.cache import Cache
from mmenv.models.transformer import Network, NetworkConfig, Prefix

SATISFIED = {
    protocol.PolicyNetwork: (Network, HFNetwork, Unadapted),
    protocol.Prefix: (Prefix, HFPrefix),
    protocol.Cache: (Cache, HFCache, PairedCache),
}


def checked_by_mypy(
    own: Network, model: HFNetwork, reference: Unadapted, shape: NetworkConfig, model_shape: HFConfig
) -> tuple[PolicyNetwork[Prefix, Cache], list[PolicyNetwork[HFPrefix, HFCache]], list[protocol.Shape]]:
    """Never called: mypy, which reads this file too, checks that these classes satisfy the protocols."""
    return own, [model, reference], [shape, model_shape]


def members(cls: type) -> dict[str, Any]:
    """Functions and properties that a protocol asks for."""
    return {
        name: member
        for name, member in vars(cls).items()
        if inspect.isfunction(member) or isinstance(member, property)
        if not name.startswith("_") or name == "__call__"
    }


@pytest.mark.parametrize(("asked", "cls"), [(p, c) for p, classes in SATISFIED.items() for c in classes])
def test_a_class_has_the_protocols_members_with_their_signatures(asked: type, cls: type) -> None:
    for name, member in members(asked).items():
        if isinstance(member, property):
            continue  # may be an attribute of instances
        method = getattr(cls, name)
        if method is getattr(torch.nn.Module, name, None):
            continue  # inherited: ``parameters`` and the like
        expected, actual = (list(inspect.signature(f).parameters.values()) for f in (member, method))
        assert [p.name for p in actual[: len(expected)]] == [p.name for p in expected], name
        assert all(p.default is not p.empty for p in actual[len(expected) :]), name


def test_instances_have_the_protocols_properties() -> None:
    network = Network(NetworkConfig(vocab_size=20, width=16, layers=1, heads=2))
    for owner, asked in ((network, protocol.PolicyNetwork), (network.config, protocol.Shape)):
        for name, member in members(asked).items():
            if isinstance(member, property):
                assert hasattr(owner, name), name


def test_a_policy_leaves_requires_grad_of_its_network_as_it_was() -> None:
    network = Network(NetworkConfig(vocab_size=20, width=16, layers=1, heads=2))
    encoders = list(network.encoder_parameters())
    for train_encoder in (False, True):
        policy = TokenPolicy(network, 4, train_encoder=train_encoder)
        assert all(p.requires_grad for p in network.parameters())
        trained = {id(p) for p in policy.trainable_parameters()}
        assert all((id(p) in trained) is train_encoder for p in encoders)
        assert len(trained) == sum(1 for _ in network.parameters()) - (0 if train_encoder else len(encoders))
    frozen = network.frozen()
    TokenPolicy(frozen, 4, train_encoder=True)
    assert not any(p.requires_grad for p in frozen.parameters())
