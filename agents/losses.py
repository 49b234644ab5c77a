"""The losses of policy gradients, each formula once."""

from __future__ import annotations

from torch import Tensor

from agents.advantages import masked_mean


def clipped_policy_loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017), all tensors (B, T)."""
    ratio = (logp - old_logp).exp()
    return masked_mean((-advantages * ratio).maximum(-advantages * ratio.clamp(1 - clip, 1 + clip)), mask)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error, the worse of clipped and unclipped (Ziegler et al. 2019), all tensors (B, T)."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * masked_mean(((values - returns) ** 2).maximum((clipped - returns) ** 2), mask)


def clip_fraction(logp: Tensor, old_logp: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Share of tokens whose ratio lies outside the clip range."""
    return masked_mean((((logp - old_logp).exp() - 1).abs() > clip).to(mask.dtype), mask)
