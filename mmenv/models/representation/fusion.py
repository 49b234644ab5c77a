"""Fusion g: tokens of several modalities become one sequence; any of the modalities may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenv.models.blocks import Block

# Score of what is masked: finite, because a softmax over -inf alone is NaN.
MASKED = -1e4


class Tokens(NamedTuple):
    """States (B, S, width) and which of them are real, bool (B, S); a row without any is a missing modality."""

    states: Tensor
    mask: Tensor


def run_blocks(blocks: Iterable[nn.Module], tokens: Tokens) -> Tokens:
    """Self-attention among the real tokens; rows without a real token attend uniformly and stay masked."""
    x, mask = tokens
    missing = ~mask.any(1, keepdim=True)  # attention over no token is NaN
    seen = (mask | missing)[:, None, None]
    for block in cast(Iterable[Block], blocks):
        x = block.attend(x, *block.project(x), seen)
    return Tokens(x, mask)


class Pool(nn.Module):
    """One vector of the real tokens, weighted by learned salience.

    Args:
        width: size of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.salience = nn.Linear(width, 1)
        nn.init.zeros_(self.salience.weight)

    def weights(self, tokens: Tokens) -> Tensor:
        """(B, S), adding up to 1 over the real tokens, 0 on the others."""
        scores = self.salience(tokens.states)[..., 0].masked_fill(~tokens.mask, MASKED)
        return scores.softmax(1) * tokens.mask

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, width); zeros where nothing is real."""
        return (self.weights(tokens)[..., None] * tokens.states).sum(1)


class CrossAttention(nn.Module):
    """Queries attend to a memory and to one learned token, so that an empty memory is no special case.

    Args:
        width: size of a token.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.memory_norm, self.up_norm = nn.RMSNorm(width), nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.nothing = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, memory: Tokens) -> Tensor:
        """x (B, Q, width) -> (B, Q, width)."""
        b, q, d = x.shape
        states = torch.cat([self.nothing.expand(b, 1, d), memory.states], 1)
        mask = F.pad(memory.mask, (1, 0), value=True)

        def heads(y: Tensor) -> Tensor:
            return y.view(b, -1, self.heads, d // self.heads).transpose(1, 2)

        k, v = self.key_value(self.memory_norm(states)).chunk(2, -1)
        y = F.scaled_dot_product_attention(
            heads(self.query(self.norm(x))), heads(k), heads(v), attn_mask=mask[:, None, None]
        )
        x = x + self.out(y.transpose(1, 2).reshape(b, q, d))
        return x + self.down(F.gelu(self.up(self.up_norm(x))))


class ConcatFusion(nn.Module):
    """All tokens in one sequence, marked with their modality, through a transformer block."""

    def __init__(self, modalities: Iterable[str], width: int, heads: int) -> None:
        super().__init__()
        self.marks = nn.ParameterDict({m: nn.Parameter(0.1 * torch.randn(width)) for m in modalities})
        self.blocks = nn.ModuleList([Block(width, heads)])

    def forward(self, parts: Mapping[str, Tokens]) -> Tokens:
        """Tokens of each modality -> (B, sum of S, width)."""
        states = torch.cat([tokens.states + self.marks[m] for m, tokens in parts.items()], 1)
        return run_blocks(self.blocks, Tokens(states, torch.cat([t.mask for t in parts.values()], 1)))


class GatedFusion(nn.Module):
    """One vector a modality, summed by gates that add up to 1 over those that are present (Arevalo et al. 2017)."""

    def __init__(self, modalities: Iterable[str], width: int) -> None:
        super().__init__()
        names = list(modalities)
        self.pools = nn.ModuleDict({m: Pool(width) for m in names})
        self.changes = nn.ModuleDict({m: nn.Sequential(nn.Linear(width, width), nn.Tanh()) for m in names})
        self.gates = nn.ModuleDict({m: nn.Linear(width, width) for m in names})
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, parts: Mapping[str, Tokens]) -> Tokens:
        """Tokens of each modality -> one token, (B, 1, width)."""
        pooled = {m: self.pools[m](tokens) for m, tokens in parts.items()}
        present = torch.stack([tokens.mask.any(1) for tokens in parts.values()], 1)  # (B, M)
        gates = torch.stack([self.gates[m](x) for m, x in pooled.items()], 1)  # (B, M, width)
        gates = gates.masked_fill(~present[..., None], MASKED).softmax(1) * present[..., None]
        values = torch.stack([self.changes[m](x) for m, x in pooled.items()], 1)
        fused = (gates * values).sum(1)
        return Tokens((fused + self.mix(fused))[:, None], present.any(1, keepdim=True))


class CrossFusion(nn.Module):
    """The tokens of each modality attend to those of all others."""

    def __init__(self, modalities: Iterable[str], width: int, heads: int) -> None:
        super().__init__()
        self.readers = nn.ModuleDict({m: CrossAttention(width, heads) for m in modalities})

    def forward(self, parts: Mapping[str, Tokens]) -> Tokens:
        """Tokens of each modality -> (B, sum of S, width)."""
        states = [self.readers[m](tokens.states, self._others(parts, m)) for m, tokens in parts.items()]
        return Tokens(torch.cat(states, 1), torch.cat([t.mask for t in parts.values()], 1))

    @staticmethod
    def _others(parts: Mapping[str, Tokens], modality: str) -> Tokens:
        others = [t for m, t in parts.items() if m != modality]
        if not others:
            alone = parts[modality]
            return Tokens(alone.states[:, :0], alone.mask[:, :0])
        return Tokens(torch.cat([t.states for t in others], 1), torch.cat([t.mask for t in others], 1))


Fusion = ConcatFusion | GatedFusion | CrossFusion


def build_fusion(name: str, modalities: Iterable[str], width: int, heads: int) -> Fusion:
    """A fusion by its name.

    Args:
        name: ``"concat"``, ``"gated"`` or ``"cross"``.
        modalities: those that may come.
        width: size of a token.
        heads: attention heads; gates have none.
    """
    if name == "gated":
        return GatedFusion(modalities, width)
    if name == "cross":
        return CrossFusion(modalities, width, heads)
    return ConcatFusion(modalities, width, heads)
