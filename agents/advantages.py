"""Generalised advantage estimation and whitening."""

from __future__ import annotations

import torch
from torch import Tensor


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


def whiten(x: Tensor, mask: Tensor, keep_mean: bool = False) -> Tensor:
    """``(x - mean) * rsqrt(var + 1e-8)`` over real tokens; padding becomes 0."""
    mean = masked_mean(x, mask)
    var = masked_mean((x - mean) ** 2, mask)
    out = (x - mean) * torch.rsqrt(var + 1e-8)
    return (out + mean if keep_mean else out) * mask


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries where ``mask`` is 1."""
    return (x * mask).sum() / mask.sum().clamp(min=1)
