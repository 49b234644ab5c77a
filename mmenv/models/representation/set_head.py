"""A head that scores what a frozen representation makes of an image and a response, token by token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmenv.models.representation.fusion import Tokens


class SetHead(nn.Module):
    """Each joined token has its say; the sum of what they say is looked at once more.

    Args:
        size: of a token's features.
        hidden: width of the layers between.
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
        """Take mean and deviation from features (n, S, size): a representation may be of any scale."""
        real = features.states[features.mask].float()
        self.mean, self.std = real.mean(0), real.std(0).clamp(min=1e-4)

    def forward(self, features: Tokens) -> Tensor:
        """(n, S, size) -> scores (n,)."""
        x = (features.states.float() - self.mean) / self.std
        parts = (self.body(x) * features.mask[..., None]).sum(1) / 8
        return self.out(parts + self.whole(parts))[:, 0]
