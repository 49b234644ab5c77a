"""Group-relative policy optimisation (Shao et al. 2024), with DAPO's normalisation and clip range as options.

The published KL term, k3 in the loss, moves each token towards the reference at the states that were visited; it gives
no credit to earlier tokens for the KL that they lead to, and on-policy its gradient is that of KL(reference || policy).
``kl_in="reward"`` takes the KL off the score instead: its optimum is the KL-regularised one
(tests/test_exact_references.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents.algorithms.base import Algorithm, Targets, drift
from agents.maths.advantages import group_relative
from agents.maths.kl import k3, sequence_penalised
from agents.maths.losses import clip_fraction, clipped_policy_loss, mean_of
from agents.rollouts.rollout import Batch
from agents.settings.shared import GRPOConfig


class GRPO(Algorithm):
    """Clipped steps along scores relative to those of the same context."""

    Config = GRPOConfig
    config: GRPOConfig

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        config, scores = self.config, self.scores(batch)
        if config.kl_in == "reward":
            scores = sequence_penalised(scores, batch.logp, ref_logp, batch.mask, config.kl_coef)
        advantages = group_relative(scores, batch.contexts, config.scale == "group")  # (S,)
        return {"advantages": advantages[:, None].expand_as(batch.logp), "ref_logp": ref_logp}

    def prepared(self, batch: Batch) -> Batch:
        return self.scored_again(batch) if self.config.recompute_logp else batch

    def weight(self, mask: Tensor) -> float:
        return float(len(mask)) if self.config.normalisation == "grpo" else super().weight(mask)

    def loss(
        self, logp: Tensor, values: Tensor, entropy: Tensor, mask: Tensor, rows: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, old_logp = self.config, rows["old_logp"]
        by_response = config.normalisation == "grpo"
        high = config.clip_coef if config.clip_high is None else config.clip_high
        policy_loss = clipped_policy_loss(logp, old_logp, rows["advantages"], mask, config.clip_coef, by_response, high)
        kl_loss = mean_of(k3(logp, rows["ref_logp"]), mask, by_response)
        loss = policy_loss + (config.kl_coef * kl_loss if config.kl_in == "loss" else torch.zeros_like(kl_loss))
        return loss, {
            "policy_loss": policy_loss,
            "kl_loss": kl_loss,
            "clip_fraction": clip_fraction(logp, old_logp, mask, config.clip_coef, high),
            **drift(logp, old_logp, mask),
        }
