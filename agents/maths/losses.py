"""The losses of policy gradients, each formula once."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from agents.maths.advantages import masked_mean

LARGEST = 20.0  # log-ratios are cut to this: beyond it exp overflows, and infinity times 0 is a gradient of nan


def ratio_of(logp: Tensor, old_logp: Tensor) -> Tensor:
    """New over old probability, ``exp(logp - old_logp)``; finite, and so is its gradient."""
    return (logp - old_logp).clamp(-LARGEST, LARGEST).exp()


def clipped_policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, clip: float, by_response: bool = False,
    high: float | None = None,
) -> Tensor:  # fmt: skip
    """PPO's clipped surrogate (Schulman et al. 2017), all tensors (B, T).

    Args:
        logp, old_logp, advantages, mask: now, when sampled, how good, and which tokens are real.
        clip: the ratio is clipped to 1 - clip .. 1 + clip.
        by_response: a mean over responses of their means over tokens, as in GRPO, instead of one over all tokens.
        high: upper half of the range where it is another one (DAPO, Yu et al. 2025).
    """
    ratio = ratio_of(logp, old_logp)
    clipped = ratio.clamp(1 - clip, 1 + (clip if high is None else high))
    return mean_of((-advantages * ratio).maximum(-advantages * clipped), mask, by_response)


def mean_of(x: Tensor, mask: Tensor, by_response: bool) -> Tensor:
    """Mean over real tokens of (B, T), or the mean over responses of such means."""
    return ((x * mask).sum(1) / mask.sum(1).clamp(min=1)).mean() if by_response else masked_mean(x, mask)


def reinforce_loss(logp: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Minus the log-likelihood of the tokens, weighted (Williams 1992); (B, T), advantages (B, T) or (B, 1)."""
    return -masked_mean(logp * advantages, mask)


def dpo_loss(margin: Tensor, preferred: Tensor, beta: float) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7) with soft labels (Mitchell 2023).

    Args:
        margin: (P,), log(pi / ref) of the first of a pair less that of the second.
        preferred: (P,), probability that the first is preferred.
        beta: of the KL-regularised reward.
    """
    return F.binary_cross_entropy_with_logits(beta * margin, preferred)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> Tensor:
    """Half the squared error, the worse of clipped and unclipped (Ziegler et al. 2019), all tensors (B, T).

    Args:
        values, old_values, returns, mask: now, when sampled, what they should be, and which tokens are real.
        clip: new values are clipped to within this of the old ones; None clips none.
    """
    if clip is None:
        return 0.5 * masked_mean((values - returns) ** 2, mask)
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * masked_mean(((values - returns) ** 2).maximum((clipped - returns) ** 2), mask)


def clip_fraction(logp: Tensor, old_logp: Tensor, mask: Tensor, clip: float, high: float | None = None) -> Tensor:
    """Share of tokens whose ratio lies outside 1 - clip .. 1 + high, as in ``clipped_policy_loss``."""
    ratio = ratio_of(logp, old_logp)
    outside = (ratio < 1 - clip) | (ratio > 1 + (clip if high is None else high))
    return masked_mean(outside.to(mask.dtype), mask)
