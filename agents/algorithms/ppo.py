"""Proximal policy optimisation on responses, as RLHF does it: KL by token, GAE, clipped policy and value losses.

Sources: Ziegler et al. 2019 (lm-human-preferences), Stiennon et al. 2020, and Huang et al. 2024 ("The N+
implementation details of RLHF with PPO").
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agents.algorithms.base import Algorithm, Targets, drift, standardised
from agents.distributed import processes
from agents.maths.advantages import explained_variance, gae, masked_mean, whiten
from agents.maths.kl import KLController, penalised
from agents.maths.losses import clip_fraction, clipped_policy_loss, clipped_value_loss
from agents.rollouts.rollout import Batch
from agents.settings.shared import PPOConfig


class PPO(Algorithm):
    """Clipped steps along advantages that a value head estimates."""

    Config = PPOConfig
    config: PPOConfig

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kl = KLController(self.config.kl_coef, self.config.kl_target, self.config.kl_horizon)

    def prepared(self, batch: Batch) -> Batch:
        return self.scored_again(batch) if self.config.recompute_logp else batch

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        config, mask = self.config, batch.mask
        scores = self.scores(batch)
        if config.whiten_rewards:
            scores = standardised(scores)
        rewards = penalised(scores, batch.logp, ref_logp, mask, self.kl.beta)  # (S, T)
        advantages = gae(rewards, batch.values, mask, config.gamma, config.gae_lambda)
        returns = advantages + batch.values
        return {"advantages": whiten(advantages, mask), "returns": returns, "old_values": batch.values}

    def loss(
        self, logp: Tensor, values: Tensor, entropy: Tensor, mask: Tensor, rows: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, old_logp = self.config, rows["old_logp"]
        policy_loss = clipped_policy_loss(logp, old_logp, rows["advantages"], mask, config.clip_coef)
        value_loss = clipped_value_loss(values, rows["old_values"], rows["returns"], mask, config.value_clip)
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * masked_mean(entropy, mask)
        return loss, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "returns": masked_mean(rows["returns"], mask),
            "clip_fraction": clip_fraction(logp, old_logp, mask, config.clip_coef),
            **drift(logp, old_logp, mask),
        }

    def described(self, batch: Batch, targets: Targets) -> dict[str, float]:
        return {"explained_variance": explained_variance(batch.values, targets["returns"], batch.mask).item()}

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        beta = self.kl.beta
        logs = {"beta": beta, **super().update(batch, progress)}
        self.kl.update(logs["kl_k1"], sum(processes.gather(len(batch.mask))))
        return logs

    def counters(self) -> dict[str, Any]:
        return {"beta": self.kl.beta}

    def restore(self, counters: dict[str, Any]) -> None:
        self.kl.beta = counters["beta"]
