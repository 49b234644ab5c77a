"""A score of an image and a response: a head on the tokens of a frozen representation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmenv.models.representation.fusion import Tokens

USUAL_TOKENS = 8  # the sum over tokens is divided by it, so that its scale is about 1 whatever the length


class SetHead(nn.Module):
    """Sums a hidden layer over the joined tokens, and reads the score from the sum.

    Args:
        size: of a token's features.
        hidden: width of the hidden layers.
    """

    def __init__(self, size: int, hidden: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(size, hidden), nn.GELU())
        self.whole = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU())
        self.out = nn.Linear(hidden, 1)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        nn.init.zeros_(self.out.bias)

    def standardise(self, features: Tokens) -> None:
        """Set mean and deviation to those of features (n, S, size), which may have any scale."""
        real = features.states[features.mask].float()
        self.mean, self.std = real.mean(0), real.std(0).clamp(min=1e-4)

    def forward(self, features: Tokens) -> Tensor:
        """(n, S, size) -> scores (n,)."""
        x = (features.states.float() - self.mean) / self.std
        parts = (self.body(x) * features.mask[..., None]).sum(1) / USUAL_TOKENS
        return self.out(parts + self.whole(parts))[:, 0]
