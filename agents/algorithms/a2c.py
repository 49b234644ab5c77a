"""Advantage actor-critic: PPO's rewards and value head, and one unclipped step on every batch (Mnih et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agents.algorithms.base import Learner
from agents.algorithms.critic import critic_targets, level_values
from agents.distributed.stepper import Logs
from agents.maths.advantages import explained_variance
from agents.maths.losses import clipped_value_loss, reinforce_loss
from agents.maths.means import Mean, token_mean
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch
from agents.settings.bounds import Share
from agents.settings.shared import OneStepConfig, TurnCriticConfig


@dataclass(frozen=True, kw_only=True)
class A2CConfig(TurnCriticConfig, OneStepConfig):
    """Advantage actor-critic: one step on every batch, no clipping (Mnih et al. 2016, synchronous)."""

    gae_lambda: Share = 1.0
    """Lambda of generalised advantage estimation; 1 takes full returns."""


@dataclass(frozen=True)
class A2CData(Minibatch):
    """Responses with values from sampling, advantages and returns, each (S, T)."""

    values: Tensor
    advantages: Tensor
    returns: Tensor


class A2C(Learner[A2CData]):
    """Steps along advantages that a value head estimates."""

    Config = A2CConfig
    config: A2CConfig

    @property
    def entropy_gradient(self) -> bool:
        return self.config.entropy_coef != 0

    def data(self, batch: Batch, ref_logp: Tensor) -> A2CData:
        return A2CData(batch.responses(), *critic_targets(self, batch, ref_logp, self.config.kl_coef))

    def loss(self, new: Evaluated, old: A2CData) -> tuple[Mean, Logs]:
        config = self.config
        policy_loss = reinforce_loss(new.logp, old.advantages, old.mask)
        values = level_values(new.values, old.mask, config.advantage_level)
        value_loss = clipped_value_loss(values, old.values, old.returns, old.mask, clip=None)
        entropy = token_mean(new.entropy, old.mask)
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss}

    def batch_logs(self, batch: Batch, data: A2CData) -> dict[str, float]:
        return {"explained_variance": explained_variance(data.values, data.returns, data.mask, self.reduce).item()}
