"""The reference of a model that learns by adapters: the same weights with the adapters off."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from agents.policies.transformers.cache import HFCache, HFPrefix
from mmenv.models.folders import installed

if TYPE_CHECKING:
    from agents.policies.transformers.network import HFNetwork


class Unadapted(nn.Module):
    """A network as it was before training: adapters off, and the few other weights that learn as copies.

    It shares the model, and has no parameters that a device or an optimiser should see twice.
    """

    def __init__(self, network: HFNetwork) -> None:
        super().__init__()
        self._shared, self.config = (network,), network.config  # in a tuple: no submodule of this one
        self.projector = None if network.eyes is None else copy.deepcopy(network.eyes.projector).requires_grad_(False)
        self.value_head = copy.deepcopy(network.value_head).requires_grad_(False)

    @property
    def never(self) -> tuple[int, ...]:
        return self._shared[0].never

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """None."""
        return iter(())

    def frozen(self) -> Unadapted:
        """Itself: nothing changes it."""
        return self

    def encode(self, observations: Mapping[str, Tensor]) -> HFPrefix:
        return self._shared[0].encode(observations)

    def start(self, prefix: HFPrefix, budget: int) -> tuple[Tensor, HFCache]:
        with self._before_training() as network:
            return network.start(prefix, budget)

    def step(self, tokens: Tensor, cache: HFCache) -> Tensor:
        with self._before_training() as network:
            return network.step(tokens, cache)

    def forward(self, prefix: HFPrefix, responses: Tensor, contexts: Tensor | None = None) -> Tensor:
        with self._before_training() as network:
            return network(prefix, responses, contexts)

    def logits(self, hidden: Tensor) -> Tensor:
        with self._before_training() as network:
            return network.logits(hidden)

    def value(self, hidden: Tensor) -> Tensor:
        return self.value_head(hidden.float())[..., 0]

    @contextlib.contextmanager
    def _before_training(self) -> Iterator[HFNetwork]:
        """The shared network with its adapters off, for no gradient's sake."""
        network = self._shared[0]
        layers = [
            m for m in network.model.modules() if isinstance(m, installed("peft").tuners.tuners_utils.BaseTunerLayer)
        ]
        eyes = network.eyes
        now = None if eyes is None else eyes.projector
        for layer in layers:
            layer.enable_adapters(False)
        if eyes is not None:
            eyes.projector = self.projector
        try:
            with torch.no_grad():
                yield network
        finally:
            for layer in layers:
                layer.enable_adapters(True)
            if eyes is not None:
                eyes.projector = now
