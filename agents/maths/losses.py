"""The losses, each formula once. Each is a ``Mean`` over tokens, responses or pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.maths.means import Mean, response_mean, row_mean, token_mean

MAX_LOG_RATIO = 20.0  # beyond it exp overflows, and infinity times 0 is a gradient of nan


def ratio_of(logp: Tensor, old_logp: Tensor) -> Tensor:
    """New over old probability, ``exp(logp - old_logp)``; finite, and so is its gradient."""
    return (logp - old_logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    high: float | None = None,
    mean: Callable[[Tensor, Tensor], Mean] = token_mean,
) -> Mean:
    """PPO's clipped surrogate (Schulman et al. 2017), all tensors (B, T).

    Args:
        logp, old_logp: log-probabilities now and when sampled.
        advantages: (B, T)
        mask: 1 for real tokens.
        clip: the ratio is clipped to 1 - clip .. 1 + clip.
        high: upper half of the range if it differs (DAPO, Yu et al. 2025).
        mean: over all tokens, or over responses of their means over tokens as in GRPO.
    """
    ratio = ratio_of(logp, old_logp)
    clipped = ratio.clamp(1 - clip, 1 + (clip if high is None else high))
    return mean((-advantages * ratio).maximum(-advantages * clipped), mask)


def sequence_clipped_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, clip: float, high: float | None = None
) -> tuple[Mean, Mean]:
    """GSPO's surrogate (Zheng et al. 2025): one clipped ratio for each response, (pi / pi_old)^(1 / length).

    Args:
        logp, old_logp: log-probabilities of the tokens now and when sampled, (B, T).
        advantages: (B, T), the same at all tokens of a response.
        mask: (B, T), 1 for real tokens.
        clip, high: the range of the ratio, as in ``clipped_policy_loss``.

    Returns:
        the loss, a mean over responses, and the share of responses whose ratio lies outside the range.
    """
    length = mask.sum(1, keepdim=True)
    mean_logp = (logp * mask).sum(1, keepdim=True) / length  # (B, 1)
    old_mean_logp = (old_logp * mask).sum(1, keepdim=True) / length
    ones = torch.ones_like(length)
    loss = clipped_policy_loss(mean_logp, old_mean_logp, advantages[:, :1], ones, clip, high, response_mean)
    return loss, clip_fraction(mean_logp, old_mean_logp, ones, clip, high)


def capped_weight_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cap: float,
    mean: Callable[[Tensor, Tensor], Mean] = token_mean,
) -> Mean:
    """CISPO's surrogate (MiniMax 2025): min(ratio, cap) weights A log pi; no token loses its gradient.

    Args:
        logp, old_logp, advantages, mask: (B, T), as in ``clipped_policy_loss``.
        cap: the largest weight; no gradient passes through the weight.
        mean: over all tokens, or another one.
    """
    weight = ratio_of(logp, old_logp).detach().clamp(max=cap)
    return -mean(weight * advantages * logp, mask)


def gated_policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    mask: Tensor,
    tau_positive: float,
    tau_negative: float,
    mean: Callable[[Tensor, Tensor], Mean] = response_mean,
) -> Mean:
    """SAPO's surrogate (Gao et al. 2025): A * sigmoid(tau (ratio - 1)) * 4 / tau, a soft gate instead of a clip.

    Args:
        logp, old_logp, advantages, mask: (B, T), as in ``clipped_policy_loss``.
        tau_positive: tau where the advantage is above 0.
        tau_negative: tau elsewhere.
        mean: over responses of their means over tokens, or another one.
    """
    tau = torch.full_like(advantages, tau_negative).masked_fill(advantages > 0, tau_positive)
    gate = torch.sigmoid(tau * (ratio_of(logp, old_logp) - 1)) * 4 / tau
    return -mean(gate * advantages, mask)


def reinforce_loss(logp: Tensor, advantages: Tensor, mask: Tensor) -> Mean:
    """Minus the weighted log-likelihood of the tokens (Williams 1992); (B, T), advantages (B, T) or (B, 1)."""
    return -token_mean(logp * advantages, mask)


def response_reinforce_loss(logp: Tensor, advantages: Tensor, mask: Tensor) -> Mean:
    """The same as a mean over responses of sums over tokens (RLOO, Ahmadian et al. 2024; ReMax, Li et al. 2023).

    Tensors as in ``reinforce_loss``.
    """
    return -row_mean((logp * advantages * mask).sum(1))


def dpo_loss(margin: Tensor, preferred: Tensor, beta: float) -> Mean:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7) with soft labels (Mitchell 2023).

    Args:
        margin: (P,), log(pi / ref) of the first of a pair minus that of the second.
        preferred: (P,), probability that the first is preferred.
        beta: of the KL-regularised reward.
    """
    return Mean(F.binary_cross_entropy_with_logits(beta * margin, preferred), margin.new_tensor(float(len(margin))))


def ipo_loss(margin: Tensor, preferred: Tensor, beta: float) -> Mean:
    """Identity preference optimisation (Azar et al. 2023): the margin's squared distance to +-1 / (2 beta).

    Arguments as of ``dpo_loss``; a soft label weights both signs.
    """
    target = 1 / (2 * beta)
    return row_mean(preferred * (margin - target) ** 2 + (1 - preferred) * (margin + target) ** 2)


def kto_loss(
    log_ratio: Tensor, reference_point: Tensor, desirable: Tensor, beta: float, weights: tuple[float, float]
) -> Mean:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024): weight - value, a mean over responses.

    Args:
        log_ratio: (B,), log(pi / ref) of each response.
        reference_point: (B,), the KL that log ratios are compared with.
        desirable: (B,), 1 for desirable responses, 0 for undesirable ones.
        beta: of the KL-regularised reward.
        weights: of desirable and of undesirable responses.
    """
    sign = 2 * desirable - 1
    weight = weights[0] * desirable + weights[1] * (1 - desirable)
    return row_mean(weight * (1 - (beta * sign * (log_ratio - reference_point)).sigmoid()))


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> Mean:
    """Half the squared error, the larger of clipped and unclipped (Ziegler et al. 2019), all tensors (B, T).

    Args:
        values, old_values: now and when sampled.
        returns: the targets of the values.
        mask: 1 for real tokens.
        clip: new values are clipped to within this of the old ones; None does not clip.
    """
    if clip is None:
        return 0.5 * token_mean((values - returns) ** 2, mask)
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * token_mean(((values - returns) ** 2).maximum((clipped - returns) ** 2), mask)


def clip_fraction(logp: Tensor, old_logp: Tensor, mask: Tensor, clip: float, high: float | None = None) -> Mean:
    """Share of tokens whose ratio lies outside 1 - clip .. 1 + high, as in ``clipped_policy_loss``."""
    ratio = ratio_of(logp, old_logp)
    outside = (ratio < 1 - clip) | (ratio > 1 + (clip if high is None else high))
    return token_mean(outside.to(mask.dtype), mask)
