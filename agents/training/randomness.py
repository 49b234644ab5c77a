"""The random generators that training draws from: their states go into checkpoints, one pair for each process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.distributed import processes

States = tuple[Tensor, Mapping[str, Any]]


class Randomness:
    """The generators of this process.

    Args:
        device: of the policy.
        seed: of the run on this process.

    Attributes:
        generator: samples tokens.
        rng: draws contexts and the order of minibatches.
    """

    def __init__(self, device: str, seed: int) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.seed = seed

    def states(self) -> States:
        """States of both generators."""
        return self.generator.get_state(), self.rng.bit_generator.state

    def set(self, states: States) -> None:
        """Put ``states`` back."""
        self.generator.set_state(states[0])
        self.rng.bit_generator.state = states[1]

    @contextlib.contextmanager
    def replaced(self, seed: int) -> Iterator[None]:
        """Draw from another seed; afterwards the generators are as they were."""
        states = self.states()
        self.generator.manual_seed(seed)
        self.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        try:
            yield
        finally:
            self.set(states)

    def gather(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """States of all processes: tensors for safetensors, and what goes to JSON."""
        (generator, rng), *others = processes.gather(self.states())
        tensors = {"state": generator, **{f"state.{i}": state for i, (state, _) in enumerate(others, 1)}}
        return tensors, {**rng, "others": [state for _, state in others]} if others else dict(rng)

    def restore(self, tensors: Mapping[str, Tensor], rngs: Mapping[str, Any], updates: int) -> int:
        """Put what ``gather`` gave back; on another number of processes each takes a fresh seed.

        Returns:
            the number of processes that had saved it.
        """
        others, rank = rngs.get("others", []), processes.rank()
        if len(others) + 1 == processes.size():
            rng = others[rank - 1] if rank else {name: value for name, value in rngs.items() if name != "others"}
            self.set((tensors[f"state.{rank}" if rank else "state"], rng))
        else:
            seed = processes.rank_seed(self.seed, updates, processes.size())
            self.generator.manual_seed(seed)
            self.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        return len(others) + 1
