"""KL to the reference: estimators, penalties of rewards, best-of-n's bound, and the coefficient that adapts."""

from __future__ import annotations

import math

from torch import Tensor


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """``logp - ref_logp``: unbiased for samples of the policy, of either sign; what penalties use."""
    return logp - ref_logp


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """``exp(x) - 1 - x`` with x = ref_logp - logp: never negative, low variance; what logs use (Schulman 2020)."""
    x = (ref_logp - logp).clamp(max=20)  # exp overflows above; far below 0 the formula is close to -x - 1
    return (x.expm1() - x).clamp(min=0)  # only rounding goes below 0


def penalised(rewards: Tensor, logp: Tensor, ref_logp: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards (B, T) minus ``beta * k1`` on every token that was sampled."""
    return rewards - beta * k1(logp, ref_logp) * mask


def sequence_penalised(scores: Tensor, logp: Tensor, ref_logp: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Scores (B,) minus ``beta`` times the k1 of the whole response: the reward of a response as one action."""
    return scores - beta * (k1(logp, ref_logp) * mask).sum(1)


def kl_of_best(n: int) -> float:
    """KL of best-of-n to the policy that it samples from, in nats: ln n - (n - 1) / n (Stiennon et al. 2020, G.3).

    An upper bound, reached if no two responses have the same reward.
    """
    return math.log(n) - (n - 1) / n


class KLController:
    """Beta, fixed or adaptive: ``beta * (1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon)`` (Ziegler et al. 2019).

    Args:
        beta: value at the beginning.
        target: KL of a response in nats to aim at; None keeps beta fixed.
        horizon: responses over which beta adapts.
    """

    def __init__(self, beta: float, target: float | None = None, horizon: int = 10_000) -> None:
        self.beta = beta
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, n: int) -> None:
        """Adapt to the mean KL of n responses."""
        if self.target is not None:
            self.beta *= 1 + min(max(kl / self.target - 1, -0.2), 0.2) * n / self.horizon
