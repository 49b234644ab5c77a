"""REINFORCE (Williams 1992) with two baselines: a response is one action, and its KL is subtracted from its score.

``Reinforce`` subtracts a moving average of earlier scores, ``RLOO`` the mean of the other responses to the context
(Kool et al. 2019; Ahmadian et al. 2024). The loss is the mean over responses of the sum over tokens, since the
log-probability of an action is that of all its tokens. With ``advantage_level="turn"`` RLOO's advantage of turn k is
G_k - mean of G_k over the other episodes of the group, where G_k is the sum of rewards from turn k on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from agents.algorithms.base import Learner
from agents.distributed.stepper import Logs
from agents.maths.advantages import leave_one_out
from agents.maths.kl import sequence_penalised
from agents.maths.losses import response_reinforce_loss
from agents.maths.means import Mean, batch_mean
from agents.maths.turns import turn_groups, turn_returns
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch
from agents.settings.bounds import Share
from agents.settings.shared import OneStepConfig, TurnConfig


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(OneStepConfig):
    """REINFORCE with a moving average as baseline: a response is one action (Williams 1992; Ahmadian et al. 2024)."""

    baseline_decay: Share = 0.9
    """Share of the old baseline that an update retains."""


@dataclass(frozen=True, kw_only=True)
class RLOOConfig(TurnConfig, OneStepConfig):
    """REINFORCE whose baseline is the mean of the other responses to the context (Ahmadian et al. 2024)."""

    compared: ClassVar[int] = 2


@dataclass(frozen=True)
class ResponseAdvantages(Minibatch):
    """Responses with an advantage each, (S, 1)."""

    advantages: Tensor


class ResponsePolicyGradient(Learner[ResponseAdvantages]):
    """Steps along the advantages of responses."""

    entropy_gradient = False

    def advantages(self, scores: Tensor, contexts: Tensor) -> Tensor:
        """Scores (S,) minus a baseline; ``contexts`` (S,) are the indices of their contexts."""
        raise NotImplementedError(f"{type(self).__name__} has no advantages")

    def data(self, batch: Batch, ref_logp: Tensor) -> ResponseAdvantages:
        scores = sequence_penalised(self.scores(batch), batch.logp, ref_logp, batch.mask, self.config.kl_coef)  # (S,)
        return ResponseAdvantages(batch.responses(), self.advantages(scores, batch.contexts)[:, None])

    def loss(self, new: Evaluated, old: ResponseAdvantages) -> tuple[Mean, Logs]:
        loss = response_reinforce_loss(new.logp, old.advantages, old.mask)
        return loss, {"policy_loss": loss}


class Reinforce(ResponsePolicyGradient):
    """Scores minus a moving average of earlier ones."""

    Config = ReinforceConfig
    config: ReinforceConfig

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.baseline: float | None = None  # starts as the mean of the first batch

    def advantages(self, scores: Tensor, contexts: Tensor) -> Tensor:
        mean = batch_mean(scores, self.reduce).item()
        decay = self.config.baseline_decay
        baseline = mean if self.baseline is None else self.baseline
        self.baseline = decay * baseline + (1 - decay) * mean
        return scores - baseline

    def counters(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def restore(self, counters: dict[str, Any]) -> None:
        self.baseline = counters["baseline"]


class RLOO(ResponsePolicyGradient):
    """Scores minus the mean of the other responses to the context."""

    Config = RLOOConfig
    config: RLOOConfig

    def data(self, batch: Batch, ref_logp: Tensor) -> ResponseAdvantages:
        if self.config.advantage_level == "response":
            return super().data(batch, ref_logp)
        rewards = sequence_penalised(self.turn_rewards(batch), batch.logp, ref_logp, batch.mask, self.config.kl_coef)
        returns, groups, rows = turn_groups(turn_returns(rewards, batch.episodes), batch.contexts, batch.episodes)
        return ResponseAdvantages(batch.responses(), self.advantages(returns, groups)[rows, None])

    def advantages(self, scores: Tensor, contexts: Tensor) -> Tensor:
        return leave_one_out(scores, contexts, self.reduce)
