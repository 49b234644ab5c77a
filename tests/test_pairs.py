"""Pairs of responses: to one context, of one policy or of two that differ."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import mmenv  # noqa: F401
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.pairs import as_pairs, sample_pairs
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.tokenizer import normalise
from mmenv.worlds.vocabulary import world_tokenizer


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network(NetworkConfig(world_tokenizer().vocab_size, width=32, layers=1, heads=2))


def policy(network, seed=0, temperature=1.0):
    return TokenPolicy(network, 16, temperature, generator=torch.Generator().manual_seed(seed))


def make_env(env_id="mmenv/VQA-v0", lanes=16):
    return gym.make_vec(env_id, num_envs=lanes, reward="gold", autoreset_mode="Disabled", copy=False).unwrapped


def test_in_a_dialogue_both_heard_the_same(network):
    env = make_env("mmenv/SpokenDialogue-v0")
    found = sample_pairs([policy(network)], env, "train", 12, np.random.default_rng(0))
    assert all(a.sample.prompt == b.sample.prompt and a.sample.id == b.sample.id for a, b in found)
    # An untrained policy never says the same twice, so that only the first turn is heard by both.
    assert {a.sample.turn for a, _ in found} == {0}


def test_pairs_differ_in_more_than_spelling_and_the_first_policy_is_in_each(network):
    policies = [policy(network), policy(network, 1)]
    found = sample_pairs(policies, make_env(), "train", 40, np.random.default_rng(0))
    assert len(found) == 40
    assert all(normalise(a.response.text) != normalise(b.response.text) for a, b in found)
    assert all(a.sample.id == b.sample.id for a, b in found)
    assert all(0 in (a.policy, b.policy) for a, b in found)
    assert any(1 in (a.policy, b.policy) for a, b in found)
    first = np.mean([a.policy for a, _ in found])
    assert 0.05 < first < 0.95, "which of them stands first is drawn"
    assert as_pairs(found).gold.shape == (40, 2)


def test_policies_that_never_differ_are_named(network):
    silent = policy(network)
    silent.logit_bias = torch.full_like(silent.logit_bias, float("-inf"))
    silent.logit_bias[1] = 0.0  # the end token alone
    with pytest.raises(ValueError, match="ask for fewer labels"):
        sample_pairs([silent], make_env(), "train", 4, np.random.default_rng(0))
