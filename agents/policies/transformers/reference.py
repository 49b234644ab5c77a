"""The reference of a model that learns by adapters: the same weights with the adapters off."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from agents.policies.protocol import PolicyNetwork
from agents.policies.transformers.adapters import without_adapters
from agents.policies.transformers.cache import HFCache, HFPrefix
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.vision import Vision


class Adapted(PolicyNetwork[HFPrefix, HFCache], Protocol):
    """What the reference needs of the network that learns, an ``HFNetwork``."""

    config: HFConfig
    model: Any
    vision: Vision | None
    value_head: nn.Linear


class Unadapted(nn.Module):
    """A network as it was before training: its adapters switched off, its other trained weights as copies.

    It shares the model without registering it, so that a device or an optimiser never sees the parameters twice.
    """

    def __init__(self, network: Adapted) -> None:
        super().__init__()
        self._shared = (network,)  # a tuple, since an attribute would register a submodule
        self.config = network.config
        projector = None if network.vision is None else network.vision.projector
        self.projector = None if projector is None else copy.deepcopy(projector).requires_grad_(False)
        self.value_head = copy.deepcopy(network.value_head).requires_grad_(False)

    @property
    def forbidden_token_ids(self) -> tuple[int, ...]:
        """Those of the network."""
        return self._shared[0].forbidden_token_ids

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """None."""
        return iter(())

    def trained_state(self) -> dict[str, Tensor]:
        """The copies."""
        return self.state_dict()

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the copies back."""
        self.load_state_dict(state)

    def frozen(self) -> Unadapted:
        """Itself: it never changes."""
        return self

    def encode(self, observations: Mapping[str, Tensor]) -> HFPrefix:
        """As ``HFNetwork.encode``, which no trained weight takes part in."""
        return self._shared[0].encode(observations)

    def start(self, prefix: HFPrefix, budget: int) -> tuple[Tensor, HFCache]:
        """As ``HFNetwork.start``."""
        with self._before_training() as network:
            return network.start(prefix, budget)

    def step(self, tokens: Tensor, cache: HFCache) -> Tensor:
        """As ``HFNetwork.step``."""
        with self._before_training() as network:
            return network.step(tokens, cache)

    def forward(self, prefix: HFPrefix, responses: Tensor, contexts: Tensor | None = None) -> Tensor:
        """As ``HFNetwork.forward``."""
        with self._before_training() as network:
            return network.forward(prefix, responses, contexts)

    def logits(self, hidden: Tensor) -> Tensor:
        """As ``HFNetwork.logits``."""
        with self._before_training() as network:
            return network.logits(hidden)

    def value(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (...)."""
        values: Tensor = self.value_head(hidden.float())
        return values[..., 0]

    @contextlib.contextmanager
    def _before_training(self) -> Iterator[Adapted]:
        """The shared network with adapters off and the copied projector in place, under no_grad."""
        network = self._shared[0]
        vision = network.vision
        trained = None if vision is None else vision.projector
        with torch.no_grad(), without_adapters(network.model):
            if vision is not None and self.projector is not None:
                vision.projector = self.projector
            try:
                yield network
            finally:
                if vision is not None and trained is not None:
                    vision.projector = trained
