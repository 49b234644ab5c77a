"""The random generators that training draws from: their states go into checkpoints, of each process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.distributed import processes
from agents.rollouts.rollout import context_generator

States = tuple[Tensor, Mapping[str, Any]]


class Randomness:
    """The generators of this process.

    Contexts have a generator of their own, so that all algorithms see the same ones at a seed, whatever else they draw.

    Args:
        device: of the policy.
        seed: of the run on this process.

    Attributes:
        generator: samples tokens.
        contexts: draws contexts.
        rng: draws the order of minibatches and whatever else is random.
    """

    def __init__(self, device: str, seed: int) -> None:
        self.generator = torch.Generator(device)
        self.contexts = context_generator(seed)
        self.rng = np.random.default_rng(seed)
        self.seed = seed
        self._seed(seed)

    def _seed(self, seed: int) -> None:
        """Begin all generators anew, in place: the algorithm holds them too."""
        self.generator.manual_seed(seed)
        self.contexts.bit_generator.state = context_generator(seed).bit_generator.state
        self.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state

    def states(self) -> States:
        """States of all generators: the tensor of torch's, and those of NumPy's by name."""
        return self.generator.get_state(), {
            "contexts": self.contexts.bit_generator.state,
            "rng": self.rng.bit_generator.state,
        }

    def set(self, states: States) -> None:
        """Put ``states`` back."""
        self.generator.set_state(states[0])
        self.contexts.bit_generator.state = states[1]["contexts"]
        self.rng.bit_generator.state = states[1]["rng"]

    @contextlib.contextmanager
    def replaced(self, seed: int) -> Iterator[None]:
        """Draw from another seed; afterwards the generators are as they were."""
        states = self.states()
        self._seed(seed)
        try:
            yield
        finally:
            self.set(states)

    def gather(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """States of all processes: tensors for safetensors, and what goes to JSON."""
        (generator, numpy_states), *others = processes.gather(self.states())
        tensors = {"state": generator, **{f"state.{i}": state for i, (state, _) in enumerate(others, 1)}}
        return tensors, {**numpy_states, "others": [state for _, state in others]} if others else dict(numpy_states)

    def restore(self, tensors: Mapping[str, Tensor], numpy_states: Mapping[str, Any], updates: int) -> int:
        """Put what ``gather`` gave back; on another number of processes each takes a fresh seed.

        Returns:
            the number of processes that had saved it.
        """
        others, rank = numpy_states.get("others", []), processes.rank()
        if len(others) + 1 == processes.size():
            self.set((tensors[f"state.{rank}" if rank else "state"], others[rank - 1] if rank else numpy_states))
        else:
            self._seed(processes.rank_seed(self.seed, updates, processes.size()))
        return len(others) + 1
