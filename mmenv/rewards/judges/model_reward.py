"""The base class of rewards that run a model of transformers: it is frozen, and scores a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmenv.data.sample import Response, Sample


class ModelReward:
    """A reward that runs a frozen model over batches of responses; a subclass scores one batch.

    Args:
        model: a model of transformers; put into evaluation mode, its parameters frozen.
        name: name of the reward in ``info``.
        batch_size: most responses that the model reads at once.
    """

    def __init__(self, model: Any, name: str, batch_size: int = 32) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.batch_size = batch_size

    def score_batch(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Tensor:
        """Scores of at most ``batch_size`` responses, float32 (n,)."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Scores, float32 (n,)."""
        batches = [slice(i, i + self.batch_size) for i in range(0, len(samples), self.batch_size)]
        return torch.cat([self.score_batch(samples[b], responses[b]) for b in batches]).numpy()
