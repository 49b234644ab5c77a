"""Advantage actor-critic: PPO's rewards and value head, and one unclipped step on every batch (Mnih et al. 2016)."""

from __future__ import annotations

from torch import Tensor

from agents.algorithms.base import Algorithm, Targets
from agents.maths.advantages import explained_variance, gae, masked_mean, whiten
from agents.maths.kl import penalised
from agents.maths.losses import reinforce_loss
from agents.rollouts.rollout import Batch
from agents.settings.shared import A2CConfig


class A2C(Algorithm):
    """Steps along advantages that a value head estimates."""

    Config = A2CConfig
    config: A2CConfig

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        config, mask = self.config, batch.mask
        rewards = penalised(self.scores(batch), batch.logp, ref_logp, mask, config.kl_coef)  # (S, T)
        advantages = gae(rewards, batch.values, mask, config.gamma, config.gae_lambda)
        return {"advantages": whiten(advantages, mask), "returns": advantages + batch.values}

    def loss(
        self, logp: Tensor, values: Tensor, entropy: Tensor, mask: Tensor, rows: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, returns = self.config, rows["returns"]
        policy_loss = reinforce_loss(logp, rows["advantages"], mask)
        value_loss = 0.5 * masked_mean((values - returns) ** 2, mask)
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * masked_mean(entropy, mask)
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss}

    def described(self, batch: Batch, targets: Targets) -> dict[str, float]:
        return {"explained_variance": explained_variance(batch.values, targets["returns"], batch.mask).item()}
