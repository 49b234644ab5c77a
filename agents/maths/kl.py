"""KL to the reference: estimators, the per-token penalty, and the coefficient that adapts."""

from __future__ import annotations

import torch
from torch import Tensor


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """``logp - ref_logp``: unbiased for samples of the policy, of either sign; what the penalty uses."""
    return logp - ref_logp


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """``exp(x) - 1 - x`` with x = ref_logp - logp: never negative, low variance; what reports use (Schulman 2020)."""
    x = (ref_logp - logp).clamp(max=20)  # exp overflows beyond; below, where a policy goes, it is all but -x - 1
    return (x.expm1() - x).clamp(min=0)  # 0 cuts rounding alone: the formula is never below


def penalised(scores: Tensor, logp: Tensor, ref_logp: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards (B, T): ``-beta * k1`` on every real token, and the score (B,) on the last."""
    rewards = -beta * k1(logp, ref_logp) * mask
    last = mask.sum(1).long() - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def sequence_penalised(scores: Tensor, logp: Tensor, ref_logp: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Scores (B,) less ``beta`` times the k1 of the whole response: the reward of a response as one action."""
    return scores - beta * (k1(logp, ref_logp) * mask).sum(1)


class KLController:
    """Beta, fixed or adaptive: ``beta * (1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon)`` (Ziegler et al. 2019).

    Args:
        beta: value at the beginning.
        target: KL of a response in nats to aim at; None keeps beta fixed.
        horizon: responses over which beta adapts.
    """

    def __init__(self, beta: float, target: float | None = None, horizon: int = 10_000) -> None:
        self.beta, self.target, self.horizon = beta, target, horizon

    def update(self, kl: float, n: int) -> None:
        """Adapt to the mean KL of n responses."""
        if self.target is not None:
            self.beta *= 1 + min(max(kl / self.target - 1, -0.2), 0.2) * n / self.horizon
