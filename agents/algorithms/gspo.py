"""Group sequence policy optimisation (Zheng et al. 2025): GRPO with one ratio of probabilities for each response."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from agents.algorithms.base import ratio_and_kl
from agents.algorithms.grpo import GRPO, GRPOConfig, GRPOData
from agents.distributed.stepper import Logs
from agents.maths.kl import k3
from agents.maths.losses import clip_fraction, clipped_policy_loss
from agents.maths.means import Mean, response_mean
from agents.policies.token_policy import Evaluated
from agents.settings.bounds import ClipRange


@dataclass(frozen=True, kw_only=True)
class GSPOConfig(GRPOConfig):
    """Group sequence policy optimisation (Zheng et al. 2025): GRPO with the ratio of a response, not of its tokens."""

    normalisation: Literal["grpo", "dapo"] = field(default="grpo", init=False)  # the loss is a mean over responses
    clip_coef: ClipRange = 0.2
    """The ratio of a response, to the power 1 / length, is clipped to 1 - clip_coef .. 1 + clip_high. The paper takes
    0.0003 and 0.0004 for responses of thousands of tokens."""


class GSPO(GRPO):
    """Clipped steps along scores relative to those of the same context, by responses."""

    Config = GSPOConfig
    config: GSPOConfig

    def loss(self, new: Evaluated, old: GRPOData) -> tuple[Mean, Logs]:
        config = self.config
        mask = old.mask
        high = config.clip_coef if config.clip_high is None else config.clip_high
        length = mask.sum(1, keepdim=True)
        logp = (new.logp * mask).sum(1, keepdim=True) / length  # (B, 1)
        old_logp = (old.logp * mask).sum(1, keepdim=True) / length
        advantages = old.advantages[:, :1]
        ones = torch.ones_like(length)
        policy_loss = clipped_policy_loss(logp, old_logp, advantages, ones, config.clip_coef, high, response_mean)
        kl_loss = response_mean(k3(new.logp, old.ref_logp), mask)
        loss = policy_loss + config.kl_coef * kl_loss if config.kl_in == "loss" else policy_loss
        return loss, {
            "policy_loss": policy_loss,
            "kl_loss": kl_loss,
            "clip_fraction": clip_fraction(logp, old_logp, ones, config.clip_coef, high),
            **ratio_and_kl(new.logp, old.logp, mask),
        }
