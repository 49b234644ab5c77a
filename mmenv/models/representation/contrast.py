"""Contrastive losses over a matrix of similarities, and how two sequences are compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmenv.models.representation.fusion import Tokens


def late_interaction(a: Tokens, a_weights: Tensor, b: Tokens, b_weights: Tensor, whole: bool = True) -> Tensor:
    """Mean cosine of each token and its best match, from both sides (FILIP, Yao et al. 2022), weighted.

    Args:
        a: n sequences of unit vectors, (n, S, dim).
        a_weights: (n, S), adding up to 1 in each row.
        b: m sequences, (m, T, dim).
        b_weights: (m, T)
        whole: whether ``b`` describes all of ``a``; if not, tokens of ``a`` need no match in it.

    Returns:
        similarities (n, m), in [-1, 1]
    """
    n, s, _ = a.states.shape
    m, t, _ = b.states.shape
    cosines = (a.states.reshape(n * s, -1) @ b.states.reshape(m * t, -1).T).view(n, s, m, t)
    from_b = cosines.masked_fill(~a.mask[:, :, None, None], -1.0).amax(1)  # (n, m, t)
    back = torch.einsum("nmt,mt->nm", from_b, b_weights)
    if not whole:
        return back
    from_a = cosines.masked_fill(~b.mask, -1.0).amax(3)  # (n, s, m)
    return (torch.einsum("nsm,ns->nm", from_a, a_weights) + back) / 2


def info_nce(similarity: Tensor, scale: Tensor, hard: Tensor | None = None) -> Tensor:
    """Symmetric cross-entropy over pairs, as in CLIP (Radford et al. 2021).

    Args:
        similarity: (n, n), the pairs on the diagonal.
        scale: inverse temperature.
        hard: (n, m) similarities of the rows to further negatives, or None.
    """
    right = torch.arange(len(similarity), device=similarity.device)
    rows = similarity if hard is None else torch.cat([similarity, hard], 1)
    return (F.cross_entropy(scale * rows, right) + F.cross_entropy(scale * similarity.T, right)) / 2


def sigmoid_loss(similarity: Tensor, scale: Tensor, bias: Tensor, hard: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of every pair, as in SigLIP (Zhai et al. 2023).

    Args:
        similarity: (n, n), the pairs on the diagonal.
        scale: inverse temperature.
        bias: added to every scaled similarity.
        hard: (n, m) similarities of the rows to further negatives, or None.

    Returns:
        the sum over all pairs, divided by n
    """
    n = len(similarity)
    signs = 2 * torch.eye(n, device=similarity.device) - 1
    total = -F.logsigmoid(signs * (scale * similarity + bias)).sum()
    if hard is not None:
        total = total - F.logsigmoid(-(scale * hard + bias)).sum()
    return total / n


def owned_nce(similarity: Tensor, scale: Tensor, owner: Tensor) -> Tensor:
    """Cross-entropy where a row has several right columns, each compared with all columns of other rows.

    Args:
        similarity: (n, m)
        scale: inverse temperature.
        owner: int64 (m,), the row that each column belongs to.
    """
    scores = scale * similarity
    columns = torch.arange(len(owner), device=owner.device)
    right = scores[owner, columns]  # (m,)
    mine = owner[None] == torch.arange(len(scores), device=owner.device)[:, None]  # (n, m)
    others = scores.masked_fill(mine, -torch.inf).logsumexp(1)[owner]
    return (F.cross_entropy(scores.T, owner) + F.softplus(others - right).mean()) / 2


def owned_sigmoid(similarity: Tensor, scale: Tensor, bias: Tensor, owner: Tensor) -> Tensor:
    """``sigmoid_loss`` where a row has several right columns; the sum over all pairs, divided by m."""
    mine = owner[None] == torch.arange(len(similarity), device=owner.device)[:, None]
    return -F.logsigmoid((2 * mine.float() - 1) * (scale * similarity + bias)).sum() / len(owner)
