"""What the trainer asks of an algorithm, whatever it learns by."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from agents.config import PPOConfig
from agents.policy import TokenPolicy
from agents.rollout import Batch


class Algorithm(Protocol):
    """One ``update`` a batch of responses.

    Attributes:
        optimiser: its moments go into the checkpoint.
        reference: the frozen start.
    """

    optimiser: torch.optim.Optimizer
    reference: TokenPolicy

    def __init__(
        self, config: PPOConfig, policy: TokenPolicy, reference: TokenPolicy, rng: np.random.Generator
    ) -> None: ...

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        """Learn from a batch; ``progress`` in [0, 1] is the share of the run that is over."""

    def counters(self) -> dict[str, Any]:
        """What an exact resume needs beside weights and moments, as plain JSON."""

    def restore(self, counters: dict[str, Any]) -> None:
        """Put ``counters`` back."""
