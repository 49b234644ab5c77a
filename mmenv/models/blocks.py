"""Blocks of a transformer: attention with positions that turn queries and keys, and an MLP."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 100.0  # the slowest pair of a head turns once in 2 pi times as many tokens
FASTEST = 1.6  # radians a cell of the image's grid, of the fastest pair; each of the others is half as fast


class Turn(NamedTuple):
    """Cosines and sines of rotary positions (Su et al. 2021), each (B or 1, 1, S, width / heads / 2).

    Half of the pairs turn with the place in a text, a quarter each with x and y in an image, as in Qwen2-VL (Wang et
    al. 2024): how well a query and a key fit depends on how far apart they are in the text, or in the image.
    """

    cosine: Tensor
    sine: Tensor

    @classmethod
    def to(cls, positions: Tensor, pairs: int) -> Turn:
        """By how much queries and keys at ``positions`` turn.

        Args:
            positions: (B or 1, S, 3), the place in the text in tokens, x and y in cells of the image's grid.
            pairs: of numbers in a head.
        """
        of_text, of_x = pairs - pairs // 2, pairs // 4
        text = ROTARY_BASE ** -(torch.arange(of_text, device=positions.device) / of_text)
        image = FASTEST * 0.5 ** torch.arange(pairs // 2 - of_x, device=positions.device)
        at = positions.float()[:, None]  # (B or 1, 1, S, 3)
        turns = torch.cat([at[..., :1] * text, at[..., 1:2] * image[:of_x], at[..., 2:] * image], -1)
        return cls(turns.cos(), turns.sin())

    def of(self, x: Tensor) -> Tensor:
        """Queries or keys (B, heads, S, width / heads) of which the second half of the heads is turned."""
        still, moving = x.chunk(2, 1)
        a, b = moving.chunk(2, -1)
        turned = [a * self.cosine - b * self.sine, a * self.sine + b * self.cosine]
        return torch.cat([still, torch.cat(turned, -1).to(x.dtype)], 1)


class Block(nn.Module):
    """Pre-norm attention and MLP. Half of the heads see what a token holds, the others how far away it is, too."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def project(self, x: Tensor, turn: Turn | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, width) -> queries, keys, values, each (B, heads, S, width / heads).

        Without ``turn`` order plays no part.
        """
        b, s, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return (q, k, v) if turn is None else (turn.of(q), turn.of(k), v)

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Residual stream ``x`` (B, Q, width) of the queries, after attention and MLP."""
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x))))
