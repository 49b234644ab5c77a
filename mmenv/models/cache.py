"""What a network keeps of the contexts and responses that it has read, row by row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Cache:
    """Keys and values of every layer, written row by row.

    Attributes:
        keys, values: a tensor a layer, (B, heads, S, width / heads); S = prefix + budget.
        valid: (B, prefix) bool, False where the prompt is padding.
        prefix: number of prefix positions, media and prompt.
        lengths: (B,) int64, response tokens written a row.
        image: (B, N, width) image tokens of the contexts.
        covered: (B, N) how far the response has named each of them.
    """

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        valid: Tensor,
        lengths: Tensor,
        image: Tensor,
        covered: Tensor,
    ) -> None:
        self.keys, self.values, self.valid, self.lengths = keys, values, valid, lengths
        self.image, self.covered = image, covered

    @property
    def prefix(self) -> int:
        return self.valid.shape[1]

    def widen(self, prefix: int) -> None:
        """Make room for ``prefix`` positions before the response; the new ones are padding."""
        extra = prefix - self.prefix
        if extra <= 0:
            return
        old = self.prefix
        for tensors in (self.keys, self.values):
            for i, x in enumerate(tensors):
                gap = x.new_zeros(*x.shape[:2], extra, x.shape[3])
                tensors[i] = torch.cat([x[:, :, :old], gap, x[:, :, old:]], 2)
        self.valid = F.pad(self.valid, (0, extra))

    def select(self, index: Tensor) -> Cache:
        """A cache of the rows ``index`` (n,) alone."""
        keys, values = ([x[index] for x in tensors] for tensors in (self.keys, self.values))
        return Cache(keys, values, self.valid[index], self.lengths[index], self.image[index], self.covered[index])

    def replace(self, rows: Tensor, other: Cache) -> None:
        """Overwrite ``rows`` (n,) by the n rows of ``other``, which begin new contexts."""
        prefix = max(self.prefix, other.prefix)
        self.widen(prefix)
        other.widen(prefix)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for x, y in zip(mine, theirs, strict=True):
                x[rows] = y
        self.valid[rows] = other.valid
        self.lengths[rows] = other.lengths
        self.image[rows] = other.image
        self.covered[rows] = other.covered
