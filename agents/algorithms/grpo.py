"""Group-relative policy optimisation (Shao et al. 2024), with DAPO's normalisation and clip range as options.

The published KL term, k3 in the loss, moves each token towards the reference at the states that were visited. It gives
no credit to earlier tokens for the KL that they lead to, and on-policy its gradient is that of KL(reference || policy).
``kl_in="reward"`` subtracts the KL from the score instead: its optimum is the KL-regularised one
(tests/test_exact_references.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from agents.algorithms.base import Learner, ratio_and_kl
from agents.distributed.stepper import Logs
from agents.maths.advantages import group_relative
from agents.maths.kl import k3, sequence_penalised
from agents.maths.losses import clip_fraction, clipped_policy_loss
from agents.maths.means import Mean, response_mean, token_mean
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch
from agents.settings.bounds import ClipRange, Count, NonNegative
from agents.settings.shared import KLConfig, OptimiserConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(KLConfig, OptimiserConfig, TrainConfig):
    """Group-relative policy optimisation (Shao et al. 2024): scores against those of the same context."""

    compared: ClassVar[int] = 2
    epochs: Count = 2
    """Passes over the responses of one update."""
    clip_coef: ClipRange = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_high."""
    clip_high: NonNegative | None = None
    """Upper half of the clip range where it is another one (DAPO takes 0.28); None takes clip_coef."""
    normalisation: Literal["grpo", "dapo"] = "grpo"
    """The loss is the mean over responses of their means over tokens, or the mean over all tokens (Yu et al. 2025)."""
    scale: Literal["group", "none"] = "group"
    """Advantages are divided by the group's standard deviation, or left as they are (Liu et al. 2025)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL is paid: k3 in the loss, as published, or off the score, which also credits earlier tokens."""
    recompute_logp: bool = False
    """Whether tokens are scored again, by the pass that the loss takes, before the first step, as in PPO."""


@dataclass(frozen=True)
class GRPOData(Minibatch):
    """Responses with log-probabilities from sampling, those of the reference, and advantages, each (S, T)."""

    logp: Tensor
    ref_logp: Tensor
    advantages: Tensor


class GRPO(Learner[GRPOData]):
    """Clipped steps along scores relative to those of the same context."""

    Config: ClassVar[type[TrainConfig]] = GRPOConfig
    config: GRPOConfig
    entropy_gradient = False

    def prepare_batch(self, batch: Batch) -> Batch:
        return self.rescored(batch) if self.config.recompute_logp else batch

    def data(self, batch: Batch, ref_logp: Tensor) -> GRPOData:
        config = self.config
        scores = self.scores(batch)  # (S,)
        if config.kl_in == "reward":
            scores = sequence_penalised(scores, batch.logp, ref_logp, batch.mask, config.kl_coef)
        advantages = group_relative(scores, batch.contexts, config.scale == "group", self.reduce)  # (S,)
        return GRPOData(batch.responses(), batch.logp, ref_logp, advantages[:, None].expand_as(batch.logp))

    def loss(self, new: Evaluated, old: GRPOData) -> tuple[Mean, Logs]:
        config = self.config
        mask = old.mask
        mean = response_mean if config.normalisation == "grpo" else token_mean
        high = config.clip_coef if config.clip_high is None else config.clip_high
        policy_loss = clipped_policy_loss(new.logp, old.logp, old.advantages, mask, config.clip_coef, high, mean)
        kl_loss = mean(k3(new.logp, old.ref_logp), mask)
        loss = policy_loss + config.kl_coef * kl_loss if config.kl_in == "loss" else policy_loss
        return loss, {
            "policy_loss": policy_loss,
            "kl_loss": kl_loss,
            "clip_fraction": clip_fraction(new.logp, old.logp, mask, config.clip_coef, high),
            **ratio_and_kl(new.logp, old.logp, mask),
        }
