"""What judgements say of scores: pairs with margins, ties, rankings and grades, as negative log-likelihoods.

All take scores s of responses in nats and return one unreduced loss a judgement.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry(gap: Tensor) -> Tensor:
    """-log sigmoid(gap): the first of two was preferred, and ties are unknown (Bradley and Terry 1952).

    Args:
        gap: s1 - s2, of any shape; less a margin where the choice had to be clear (Llama 2, 2023).

    Returns:
        the same shape
    """
    return F.softplus(-gap)


def davidson(gap: Tensor, log_nu: Tensor, tied: bool) -> Tensor:
    """Davidson (1970): odds of first, second and tie are e^(gap/2) : e^(-gap/2) : nu.

    Args:
        gap: s1 - s2 (n,)
        log_nu: log of how common ties are, a scalar; equals are tied with probability nu / (2 + nu).
        tied: whether the two were tied; else the first was preferred.

    Returns:
        (n,)
    """
    odds = torch.stack([gap / 2, -gap / 2, log_nu.expand_as(gap)])
    return -odds.log_softmax(0)[2 if tied else 0]


def rao_kupper(gap: Tensor, threshold: Tensor, tied: bool) -> Tensor:
    """Rao and Kupper (1967): the first is preferred with probability sigmoid(gap - threshold), the rest is tied.

    Args:
        gap: s1 - s2 (n,)
        threshold: log theta > 0, a scalar: a smaller difference is not seen.
        tied: whether the two were tied; else the first was preferred.

    Returns:
        (n,)
    """
    first = F.softplus(threshold - gap)
    if not tied:
        return first
    # 1 - sigmoid(g - t) - sigmoid(-g - t) = (e^2t - 1) sigmoid(g - t) sigmoid(-g - t), without the difference.
    return first + F.softplus(threshold + gap) - torch.log(torch.expm1(2 * threshold))


def plackett_luce(scores: Tensor, real: Tensor, stages: Tensor) -> Tensor:
    """Luce (1959), Plackett (1975): the best is drawn by softmax, then the best of the rest, and so on.

    Args:
        scores: (n, K), best first.
        real: (n, K), False on padding, which comes last.
        stages: (n,) how many draws were seen: 1 where only the best is known, K - 1 for a whole ranking.

    Returns:
        (n,)
    """
    s = scores.masked_fill(~real, -torch.inf)
    rest = s.flip(1).logcumsumexp(1).flip(1)  # of each and all behind it
    drawn = torch.arange(s.shape[1], device=s.device) < stages[:, None]
    return torch.where(drawn, rest - scores, 0.0).sum(1)


def cumulative_logit(scores: Tensor, levels: Tensor, thresholds: Tensor) -> Tensor:
    """McCullagh (1980): P(level <= k) = sigmoid(threshold_k - s).

    Args:
        scores: (...)
        levels: int64 (...) from 0 to L - 1.
        thresholds: (L - 1,), rising.

    Returns:
        (...)
    """
    far = thresholds.new_tensor([1e4])
    edges = torch.cat([-far, thresholds, far])
    low, high = edges[levels] - scores, edges[levels + 1] - scores
    # sigmoid(h) - sigmoid(l) = sigmoid(h) sigmoid(-l) (1 - e^(l - h)), without the difference.
    return F.softplus(-high) + F.softplus(low) - torch.log(-torch.expm1(low - high))
