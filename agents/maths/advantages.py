"""Generalised advantage estimation, its critic-free cousins, and whitening, over all processes of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.distributed import processes


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016) over responses that start at 0 and end within the row.

    Args:
        rewards: (B, T)
        values: (B, T), the value before each token.
        mask: (B, T), 1 for real tokens; the value after the last of them is 0.
        gamma: discount.
        lam: lambda.

    Returns:
        advantages (B, T), 0 on padding; returns are ``advantages + values``.
    """
    advantages = torch.zeros_like(rewards)
    carried = rewards.new_zeros(rewards.shape[0])
    following = carried
    for t in reversed(range(rewards.shape[1])):
        # On padding both stay 0, so the last real token sees a value of 0 after it.
        delta = rewards[:, t] + gamma * following - values[:, t]
        carried = mask[:, t] * (delta + gamma * lam * carried)
        advantages[:, t] = carried
        following = mask[:, t] * values[:, t]
    return advantages


def leave_one_out(scores: Tensor, contexts: Tensor) -> Tensor:
    """Scores (S,) less the mean of the other responses to the same context (Kool et al. 2019); (S,).

    A response that is alone with its context, as later turns of a dialogue can be, is held against all others.
    """
    n = _count(contexts)
    alone = n == 1
    others = (_total(scores, contexts) - scores) / (n - 1).clamp(min=1)
    summed, count = processes.total(torch.stack([scores.sum(), scores.new_tensor(float(len(scores)))]))
    everybody = (summed - scores) / (count - 1).clamp(min=1)
    return scores - torch.where(alone, everybody, others)


def group_relative(scores: Tensor, contexts: Tensor, scale: bool = True) -> Tensor:
    """Scores (S,) less the mean of their context's, divided by its standard deviation (Shao et al. 2024); (S,).

    Args:
        scores: (S,)
        contexts: int64 (S,), which context each has.
        scale: whether to divide. Responses that are alone with their context take mean and deviation of all.
    """
    n = _count(contexts)
    overall, spread = processes.mean_and_var(scores)
    mean = torch.where(n == 1, overall, _total(scores, contexts) / n)
    if not scale:
        return scores - mean
    var = torch.where(n == 1, spread, _total((scores - mean) ** 2, contexts) / n)
    return (scores - mean) * torch.rsqrt(var + 1e-6)


def _total(x: Tensor, groups: Tensor) -> Tensor:
    """Sum of ``x`` (S,) over each one's group, (S,)."""
    return x.new_zeros(int(groups.max()) + 1).index_add(0, groups, x)[groups]


def _count(groups: Tensor) -> Tensor:
    return _total(torch.ones(len(groups), device=groups.device), groups)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Share of the returns' variance that the values explain, over all processes; all tensors (B, T)."""

    def variance(x: Tensor) -> Tensor:
        return processes.masked_mean((x - processes.masked_mean(x, mask)) ** 2, mask)

    return 1 - variance(returns - values) / variance(returns).clamp(min=1e-8)


def whiten(x: Tensor, mask: Tensor, keep_mean: bool = False) -> Tensor:
    """``(x - mean) * rsqrt(var + 1e-8)`` over real tokens of all processes; padding becomes 0."""
    mean = processes.masked_mean(x, mask)
    var = processes.masked_mean((x - mean) ** 2, mask)
    out = (x - mean) * torch.rsqrt(var + 1e-8)
    return (out + mean if keep_mean else out) * mask


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries of this process where ``mask`` is 1."""
    return (x * mask).sum() / mask.sum().clamp(min=1)
