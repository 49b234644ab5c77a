"""What a model of transformers has read: contexts, padded on the left, and the keys and values of their tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class HFPrefix(NamedTuple):
    """Contexts as a model reads them, padded on the left.

    Attributes:
        prompt: int64 (K, S), template, places of media, and the prompt.
        mask: bool (K, S), False on padding.
        positions: int64 (K, S, A), A = 1, or 3 where pictures have a time, a row and a column.
        media: what the processor made of pictures and sounds, each (K, n, ...).
        kinds: int64 (K, S), which tokens stand for a picture or a sound, where the processor says so.
    """

    prompt: Tensor
    mask: Tensor
    positions: Tensor
    media: dict[str, Tensor]
    kinds: Tensor | None = None

    def rows(self, index: Tensor) -> HFPrefix:
        """The contexts of some rows, as wide as they were."""
        media = {name: x[index] for name, x in self.media.items()}
        kinds = None if self.kinds is None else self.kinds[index]
        return HFPrefix(self.prompt[index], self.mask[index], self.positions[index], media, kinds)

    def join(self, others: Sequence[HFPrefix], pad_id: int) -> HFPrefix:
        """These contexts and then those of ``others``, padded to the widest."""
        every = (self, *others)
        wide = max(p.prompt.shape[1] for p in every)
        gaps = [wide - p.prompt.shape[1] for p in every]
        kinds = [p.kinds for p in every if p.kinds is not None]
        return HFPrefix(
            torch.cat([F.pad(p.prompt, (gap, 0), value=pad_id) for p, gap in zip(every, gaps, strict=True)]),
            torch.cat([F.pad(p.mask, (gap, 0)) for p, gap in zip(every, gaps, strict=True)]),
            torch.cat([F.pad(p.positions, (0, 0, gap, 0)) for p, gap in zip(every, gaps, strict=True)]),
            {name: torch.cat([p.media[name] for p in every]) for name in self.media},
            None if self.kinds is None else torch.cat([F.pad(k, (gap, 0)) for k, gap in zip(kinds, gaps, strict=True)]),
        )

    @property
    def next_position(self) -> Tensor:
        """(K, A), that of the first token of a response."""
        return (self.positions.amax(dim=(1, 2)) + 1)[:, None].expand(-1, self.positions.shape[2])


class HFCache:
    """Keys and values of contexts and what was written after them; every row ends at the right.

    Attributes:
        past: of transformers.
        mask: bool (B, L), False on padding.
        position: int64 (B, A), of the next token.
    """

    def __init__(self, past: Any, mask: Tensor, position: Tensor) -> None:
        self.past, self.mask, self.position = past, mask, position

    def rows(self, index: Tensor) -> HFCache:
        """A cache of some rows alone; an index may come several times."""
        past = copy.copy(self.past)
        past.layers = [copy.copy(layer) for layer in self.past.layers]
        past.batch_select_indices(index)
        return HFCache(past, self.mask[index], self.position[index])

    def replace(self, rows: Tensor, other: HFCache) -> None:
        """Rows ``rows`` (K,) start the contexts of ``other``, which has K rows."""
        wide = max(self.mask.shape[1], other.mask.shape[1])
        self._widen(wide)
        other._widen(wide)
        for mine, theirs in zip(self.past.layers, other.past.layers, strict=True):
            mine.keys[rows], mine.values[rows] = theirs.keys, theirs.values
        self.mask[rows], self.position[rows] = other.mask, other.position

    def _widen(self, wide: int) -> None:
        """Padding on the left, so that the cache is ``wide``; what is written into is a copy of one's own."""
        gap = wide - self.mask.shape[1]
        self.mask = F.pad(self.mask, (gap, 0))
        for layer in self.past.layers:
            layer.keys, layer.values = F.pad(layer.keys, (0, 0, gap, 0)), F.pad(layer.values, (0, 0, gap, 0))
