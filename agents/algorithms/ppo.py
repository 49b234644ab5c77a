"""Proximal policy optimisation on responses, as in RLHF: KL by token, GAE, clipped policy and value losses.

Sources: Ziegler et al. 2019 (lm-human-preferences), Stiennon et al. 2020, and Huang et al. 2024 ("The N+
implementation details of RLHF with PPO"). ``advantage_level="turn"`` estimates advantages over the turns of a dialogue,
as Turn-PPO (Li et al. 2025) does; ratios stay those of tokens, where that paper's are those of turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from agents.algorithms.base import Learner, ratio_and_kl
from agents.algorithms.critic import critic_targets, level_values
from agents.distributed.stepper import Logs
from agents.maths.advantages import explained_variance
from agents.maths.kl import KLController
from agents.maths.losses import clip_fraction, clipped_policy_loss, clipped_value_loss
from agents.maths.means import Mean, batch_total, token_mean
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch
from agents.settings.bounds import ClipRange, Count, Positive
from agents.settings.shared import KLConfig, OptimiserConfig, TrainConfig, TurnCriticConfig


@dataclass(frozen=True, kw_only=True)
class PPOHyperparameters(KLConfig, TurnCriticConfig, OptimiserConfig):
    """What PPO adds to a run."""

    epochs: Count = 2
    """Passes over the responses of one update."""
    clip_coef: ClipRange = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_coef."""
    value_clip: Positive | None = 0.2
    """New values are clipped to within this of the old ones; None clips none."""
    kl_target: Positive | None = None
    """The KL of a response, in nats, to which kl_coef adapts; None leaves kl_coef as it is."""
    kl_horizon: Count = 10_000
    """Responses over which kl_coef adapts to --kl-target."""
    whiten_rewards: bool = False
    """Whether scores are scaled to variance 1, keeping their mean."""
    recompute_logp: bool = False
    """Whether tokens are scored again, by the pass that the loss takes, before the first step. Sampling reads them one
    by one: in bfloat16, or with other kernels on a GPU, its numbers differ a little."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.kl_target is not None and not self.kl_coef:
            yield f"kl_target={self.kl_target}: a kl_coef of 0 stays 0, give --kl-coef above 0 to begin with"
        if self.kl_target is None:
            yield from self.without_effect("kl_target=None", "kl_horizon")


@dataclass(frozen=True, kw_only=True)
class PPOConfig(PPOHyperparameters, TrainConfig):
    """Proximal policy optimisation with a KL penalty to the supervised start."""


@dataclass(frozen=True)
class PPOData(Minibatch):
    """Responses with log-probabilities and values from sampling, advantages and returns, each (S, T)."""

    logp: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class PPO(Learner[PPOData]):
    """Clipped steps along advantages that a value head estimates."""

    Config: ClassVar[type[TrainConfig]] = PPOConfig
    config: PPOConfig

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kl = KLController(self.config.kl_coef, self.config.kl_target, self.config.kl_horizon)

    @property
    def entropy_gradient(self) -> bool:
        return self.config.entropy_coef != 0

    def prepare_batch(self, batch: Batch) -> Batch:
        return self.rescored(batch) if self.config.recompute_logp else batch

    def data(self, batch: Batch, ref_logp: Tensor) -> PPOData:
        values, advantages, returns = critic_targets(self, batch, ref_logp, self.kl.beta, self.config.whiten_rewards)
        return PPOData(batch.responses(), batch.logp, values, advantages, returns)

    def loss(self, new: Evaluated, old: PPOData) -> tuple[Mean, Logs]:
        config = self.config
        mask = old.mask
        policy_loss = clipped_policy_loss(new.logp, old.logp, old.advantages, mask, config.clip_coef)
        values = level_values(new.values, mask, config.advantage_level)
        value_loss = clipped_value_loss(values, old.values, old.returns, mask, config.value_clip)
        entropy = token_mean(new.entropy, mask)
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
        return loss, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "returns": token_mean(old.returns, mask),
            "clip_fraction": clip_fraction(new.logp, old.logp, mask, config.clip_coef),
            **ratio_and_kl(new.logp, old.logp, mask),
        }

    def batch_logs(self, batch: Batch, data: PPOData) -> dict[str, float]:
        return {"explained_variance": explained_variance(data.values, data.returns, data.mask, self.reduce).item()}

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        beta = self.kl.beta
        logs = super().update(batch, progress)
        responses = batch_total(batch.scores.new_tensor(float(len(batch.scores))), self.reduce)
        self.kl.update(logs["kl_k1"], int(responses))
        return {"beta": beta, **logs}

    def counters(self) -> dict[str, Any]:
        return {"beta": self.kl.beta}

    def restore(self, counters: dict[str, Any]) -> None:
        self.kl.beta = counters["beta"]
