"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): PPO's token rewards and clipped steps without a value head.

The return of a token is the score minus ``kl_coef`` times the k1 of this token and of those after it. Returns are
normalised over all tokens of the batch, not over the responses to one context. The variant with baseline subtracts the
mean score of the context first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from agents.algorithms.base import Learner, ratio_and_kl
from agents.distributed.stepper import Logs
from agents.maths.advantages import at_the_end, group_relative, returns_to_go, whiten
from agents.maths.kl import penalised
from agents.maths.losses import clip_fraction, clipped_policy_loss
from agents.maths.means import Mean
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch
from agents.settings.bounds import ClipRange, Count
from agents.settings.shared import KLConfig, OptimiserConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class ReinforcePPConfig(KLConfig, OptimiserConfig, TrainConfig):
    """REINFORCE++ (Hu et al. 2025): returns with the KL of each token, normalised over the batch, in clipped steps."""

    epochs: Count = 2
    """Passes over the responses of one update."""
    clip_coef: ClipRange = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_coef."""
    baseline: Literal["none", "group"] = "none"
    """What is subtracted from a score before returns are normalised: nothing, or the mean score of the context."""
    recompute_logp: bool = False
    """Whether tokens are scored again, by the pass that the loss takes, before the first step, as in PPO."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.baseline == "group" and self.responses_per_context < 2:
            yield (
                f"responses_per_context={self.responses_per_context} with baseline='group': a response alone is "
                "its own mean, give --responses-per-context 2 or more"
            )


@dataclass(frozen=True, kw_only=True)
class ReinforcePPBaselineConfig(ReinforcePPConfig):
    """REINFORCE++ with baseline (Hu et al. 2025): scores minus the context's mean, then normalised over the batch."""

    compared: ClassVar[int] = 2
    baseline: Literal["none", "group"] = field(default="group", init=False)


@dataclass(frozen=True)
class ReinforcePPData(Minibatch):
    """Responses with log-probabilities from sampling and advantages, each (S, T)."""

    logp: Tensor
    advantages: Tensor


class ReinforcePP(Learner[ReinforcePPData]):
    """Clipped steps along returns that are normalised over the batch."""

    Config: ClassVar[type[TrainConfig]] = ReinforcePPConfig
    config: ReinforcePPConfig
    entropy_gradient = False

    def prepare_batch(self, batch: Batch) -> Batch:
        return self.rescored(batch) if self.config.recompute_logp else batch

    def data(self, batch: Batch, ref_logp: Tensor) -> ReinforcePPData:
        mask = batch.mask
        rewards = self.token_rewards(batch)  # (S, T)
        if self.config.baseline == "group":
            scores = self.scores(batch)  # (S,)
            means = scores - group_relative(scores, batch.contexts, scale=False, reduce=self.reduce)
            rewards = rewards - at_the_end(means, mask)
        returns = returns_to_go(penalised(rewards, batch.logp, ref_logp, mask, self.config.kl_coef), mask)
        return ReinforcePPData(batch.responses(), batch.logp, whiten(returns, mask, self.reduce))

    def loss(self, new: Evaluated, old: ReinforcePPData) -> tuple[Mean, Logs]:
        clip = self.config.clip_coef
        loss = clipped_policy_loss(new.logp, old.logp, old.advantages, old.mask, clip)
        return loss, {
            "policy_loss": loss,
            "clip_fraction": clip_fraction(new.logp, old.logp, old.mask, clip),
            **ratio_and_kl(new.logp, old.logp, old.mask),
        }


class ReinforcePPBaseline(ReinforcePP):
    """The same with the mean score of the context as baseline."""

    Config = ReinforcePPBaselineConfig
    config: ReinforcePPBaselineConfig
