"""Contexts of a model of transformers, padded on the left, and the keys and values of their tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class HFPrefix(NamedTuple):
    """K contexts as a model of transformers reads them, padded on the left.

    Attributes:
        prompt: int64 (K, S), chat template with placeholders of media and the prompt.
        mask: bool (K, S), False on padding.
        positions: int64 (K, S, A), A = 1, or 3 if the model rotates along time, row and column.
        media: outputs of the processor for pictures and sounds, each (K, n, ...).
        kinds: int64 (K, S), which tokens stand for a picture or a sound; None if the processor gives none.
    """

    prompt: Tensor
    mask: Tensor
    positions: Tensor
    media: dict[str, Tensor]
    kinds: Tensor | None = None

    def select(self, index: Tensor) -> HFPrefix:
        """The contexts ``index`` (n,), as wide as before."""
        media = {name: x[index] for name, x in self.media.items()}
        kinds = None if self.kinds is None else self.kinds[index]
        return HFPrefix(self.prompt[index], self.mask[index], self.positions[index], media, kinds)

    def join(self, others: Sequence[HFPrefix], pad_id: int) -> HFPrefix:
        """These contexts followed by those of ``others``, padded to the widest."""
        every = (self, *others)
        width = max(p.prompt.shape[1] for p in every)
        gaps = [width - p.prompt.shape[1] for p in every]
        kinds = [p.kinds for p in every if p.kinds is not None]
        return HFPrefix(
            torch.cat([F.pad(p.prompt, (gap, 0), value=pad_id) for p, gap in zip(every, gaps, strict=True)]),
            torch.cat([F.pad(p.mask, (gap, 0)) for p, gap in zip(every, gaps, strict=True)]),
            torch.cat([F.pad(p.positions, (0, 0, gap, 0)) for p, gap in zip(every, gaps, strict=True)]),
            {name: torch.cat([p.media[name] for p in every]) for name in self.media},
            None if self.kinds is None else torch.cat([F.pad(k, (gap, 0)) for k, gap in zip(kinds, gaps, strict=True)]),
        )

    def with_media(self, other: HFPrefix) -> HFPrefix:
        """These prompts with the media of ``other``."""
        return self._replace(media=other.media)

    @property
    def next_position(self) -> Tensor:
        """Position (K, A) of the first token of a response."""
        return (self.positions.amax(dim=(1, 2)) + 1)[:, None].expand(-1, self.positions.shape[2])


class HFCache:
    """Keys and values of contexts and the tokens after them; all rows end at the right.

    Attributes:
        past: the cache of transformers.
        mask: bool (B, L), False on padding.
        position: int64 (B, A), of the next token.
    """

    def __init__(self, past: Any, mask: Tensor, position: Tensor) -> None:
        self.past, self.mask, self.position = past, mask, position

    def select(self, index: Tensor) -> HFCache:
        """A cache of the rows ``index`` (n,) alone; an index may come several times."""
        past = copy.copy(self.past)
        past.layers = [copy.copy(layer) for layer in self.past.layers]
        past.batch_select_indices(index)
        return HFCache(past, self.mask[index], self.position[index])

    def replace(self, rows: Tensor, other: HFCache) -> None:
        """Overwrite ``rows`` (n,) by the n rows of ``other``, which begin new contexts."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        self._widen(width)
        other._widen(width)
        for mine, theirs in zip(self.past.layers, other.past.layers, strict=True):
            mine.keys[rows], mine.values[rows] = theirs.keys, theirs.values
        self.mask[rows], self.position[rows] = other.mask, other.position

    def _widen(self, width: int) -> None:
        """Pad on the left to ``width``. ``F.pad`` copies, so that writing never changes a shared tensor."""
        gap = width - self.mask.shape[1]
        self.mask = F.pad(self.mask, (gap, 0))
        for layer in self.past.layers:
            layer.keys, layer.values = F.pad(layer.keys, (0, 0, gap, 0)), F.pad(layer.values, (0, 0, gap, 0))
