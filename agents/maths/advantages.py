"""Generalised advantage estimation, its critic-free cousins, and whitening."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.maths.means import Reduce, batch_mean_and_var, batch_token_mean, batch_total, row_ends


def at_the_end(scores: Tensor, mask: Tensor) -> Tensor:
    """Rewards (B, T) that pay the scores (B,) at the last token of each response, where ``mask`` (B, T) ends."""
    rewards = torch.zeros_like(mask)
    rewards[torch.arange(len(scores), device=scores.device), row_ends(mask) - 1] = scores
    return rewards


def overlong_punishment(lengths: Tensor, budget: int, share: float) -> Tensor:
    """DAPO's soft punishment of long responses (Yu et al. 2025), from -1 to 0, (S,).

    Args:
        lengths: (S,), tokens of each response.
        budget: the most tokens that a response may have; this length is punished by -1.
        share: above 0, the last part of the budget, in which the punishment grows linearly from 0.
    """
    buffer = share * budget
    return -((lengths - (budget - buffer)) / buffer).clamp(0, 1)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016) over responses that end within the row.

    Args:
        rewards: (B, T)
        values: (B, T), the value before each token.
        mask: (B, T), 1 for tokens that were sampled, one run in each row; the value after the last of them is 0.
        gamma: discount.
        lam: lambda.

    Returns:
        advantages (B, T), 0 where the mask is; returns are ``advantages + values``.
    """
    advantages = torch.zeros_like(rewards)
    next_advantage = rewards.new_zeros(rewards.shape[0])
    next_value = next_advantage
    for t in reversed(range(rewards.shape[1])):
        # On padding both stay 0, so the last real token sees a value of 0 after it.
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = mask[:, t] * (delta + gamma * lam * next_advantage)
        advantages[:, t] = next_advantage
        next_value = mask[:, t] * values[:, t]
    return advantages


def stretch_advantages(rewards: Tensor, values: Tensor, mask: Tensor, every: int) -> Tensor:
    """One-step advantages of stretches of tokens, as in VinePPO (Kazemnejad et al. 2024); (B, T), 0 where the mask is.

    A stretch is an action: its rewards plus the value after it minus the value before it, at each of its tokens.

    Args:
        rewards: (B, T)
        values: (B, T), the value before each token 0, ``every``, 2 ``every`` and so on; others are not read.
        mask: (B, T), 1 for tokens that were sampled, from the first column on; the value after the last of them is 0.
        every: tokens of a stretch; the last one may have fewer.
    """
    n, width = rewards.shape
    stretches = F.pad(rewards * mask, (0, -width % every)).reshape(n, -1, every).sum(2)  # (B, J)
    steps = gae(stretches, values[:, ::every], mask[:, ::every], gamma=1.0, lam=0.0)
    return steps.repeat_interleave(every, dim=1)[:, :width] * mask


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """The undiscounted sum of a token's reward and of all later ones of its response; (B, T), 0 where the mask is."""
    return (rewards * mask).flip(1).cumsum(1).flip(1) * mask


def leave_one_out(scores: Tensor, contexts: Tensor, reduce: Reduce = None) -> Tensor:
    """Scores (S,) minus the mean of the other responses to the same context (Kool et al. 2019); (S,).

    Args:
        scores: (S,)
        contexts: int64 (S,), the context of each. A response that is alone with its context, as later turns of a
            dialogue can be, is compared with all others of the batch.
        reduce: sums over the parts of the batch.
    """
    n = group_size(contexts)
    group_mean = (_group_sum(scores, contexts) - scores) / (n - 1).clamp(min=1)
    total, count = batch_total(torch.stack([scores.sum(), scores.new_tensor(float(len(scores)))]), reduce)
    batch_mean = (total - scores) / (count - 1).clamp(min=1)
    return scores - torch.where(n == 1, batch_mean, group_mean)


def group_relative(scores: Tensor, contexts: Tensor, scale: bool = True, reduce: Reduce = None) -> Tensor:
    """Scores (S,) minus the mean of their context, divided by its standard deviation (Shao et al. 2024); (S,).

    Args:
        scores: (S,)
        contexts: int64 (S,), the context of each. Responses that are alone with their context take mean and deviation
            of the batch.
        scale: whether to divide.
        reduce: sums over the parts of the batch.
    """
    n = group_size(contexts)
    batch_mean, batch_var = batch_mean_and_var(scores, reduce)
    mean = torch.where(n == 1, batch_mean, _group_sum(scores, contexts) / n)
    if not scale:
        return scores - mean
    var = torch.where(n == 1, batch_var, _group_sum((scores - mean) ** 2, contexts) / n)
    return (scores - mean) * torch.rsqrt(var + 1e-6)


def scores_differ(scores: Tensor, contexts: Tensor) -> Tensor:
    """Whether the responses to the context of each row have different scores, bool (S,).

    Args:
        scores: (S,)
        contexts: int64 (S,), the context of each.
    """
    empty = scores.new_zeros(int(contexts.max()) + 1)
    lowest = empty.scatter_reduce(0, contexts, scores, "amin", include_self=False)[contexts]
    highest = empty.scatter_reduce(0, contexts, scores, "amax", include_self=False)[contexts]
    return highest > lowest


def group_size(contexts: Tensor) -> Tensor:
    """For each of S rows the number of responses to its context, float32 (S,)."""
    return _group_sum(torch.ones(len(contexts), device=contexts.device), contexts)


def _group_sum(x: Tensor, groups: Tensor) -> Tensor:
    """For each of S rows the sum of ``x`` (S,) over its group, (S,)."""
    return x.new_zeros(int(groups.max()) + 1).index_add(0, groups, x)[groups]


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, reduce: Reduce = None) -> Tensor:
    """Share of the returns' variance that the values explain; all tensors (S, T)."""

    def variance(x: Tensor) -> Tensor:
        return batch_token_mean((x - batch_token_mean(x, mask, reduce)) ** 2, mask, reduce)

    return 1 - variance(returns - values) / variance(returns).clamp(min=1e-8)


def whiten(x: Tensor, mask: Tensor, reduce: Reduce = None, keep_mean: bool = False) -> Tensor:
    """``(x - mean) * rsqrt(var + 1e-8)`` over the real tokens of (S, T); padding becomes 0."""
    mean = batch_token_mean(x, mask, reduce)
    var = batch_token_mean((x - mean) ** 2, mask, reduce)
    out = (x - mean) * torch.rsqrt(var + 1e-8)
    return (out + mean if keep_mean else out) * mask
