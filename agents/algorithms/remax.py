"""ReMax (Li et al. 2023, arXiv 2310.10505): REINFORCE whose baseline is the score of the greedy response.

The KL is paid at the tokens, so that a token answers for its own and for that of later ones. Greedy responses cost
tokens: they count towards the budget, and ``greedy_tokens`` in the log is their number.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agents.algorithms.base import Learner
from agents.distributed.stepper import Logs
from agents.maths.advantages import at_the_end, returns_to_go
from agents.maths.kl import penalised
from agents.maths.losses import response_reinforce_loss
from agents.maths.means import Mean, batch_total
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch
from agents.rollouts.rollout import rollout
from agents.settings.bounds import Count
from agents.settings.shared import OneStepConfig
from mmenv.envs.token_vector_env import TokenVectorEnv


@dataclass(frozen=True, kw_only=True)
class ReMaxConfig(OneStepConfig):
    """REINFORCE whose baseline is the score of the greedy response to the context (ReMax, Li et al. 2023)."""

    responses_per_context: Count = field(default=1, init=False)  # one is sampled and one is greedy


@dataclass(frozen=True)
class ReMaxData(Minibatch):
    """Responses with advantages (S, T)."""

    advantages: Tensor


class ReMax(Learner[ReMaxData]):
    """Steps along scores minus those of greedy responses."""

    Config = ReMaxConfig
    config: ReMaxConfig
    entropy_gradient = False

    def collect(self, env: TokenVectorEnv) -> Batch:
        batch = self.play(self.policy, env)
        policy = copy.copy(self.policy)
        policy.greedy = True
        indices = np.array([sample.index for sample in batch.samples[: env.num_envs]])  # the first turns, one a lane
        greedy = rollout(policy, env, {"sample_index": indices})
        baselines = greedy_baselines(batch, greedy, self.scores(greedy))
        return dataclasses.replace(batch, baselines=baselines, extra_tokens=greedy.num_tokens)

    def data(self, batch: Batch, ref_logp: Tensor) -> ReMaxData:
        if batch.baselines is None:
            raise ValueError("a batch without greedy baselines: take that of ReMax.collect")
        rewards = self.token_rewards(batch) - at_the_end(batch.baselines, batch.mask)  # (S, T)
        rewards = penalised(rewards, batch.logp, ref_logp, batch.mask, self.config.kl_coef)
        return ReMaxData(batch.responses(), returns_to_go(rewards, batch.mask))

    def loss(self, new: Evaluated, old: ReMaxData) -> tuple[Mean, Logs]:
        loss = response_reinforce_loss(new.logp, old.advantages, old.mask)
        return loss, {"policy_loss": loss}

    def batch_logs(self, batch: Batch, data: ReMaxData) -> dict[str, float]:
        tokens = torch.tensor(float(batch.extra_tokens), device=batch.scores.device)
        return {"greedy_tokens": batch_total(tokens, self.reduce).item()}


def greedy_baselines(batch: Batch, greedy: Batch, greedy_scores: Tensor) -> Tensor:
    """The greedy score that each response of a batch is compared with, (S,).

    In a dialogue the turns of the greedy episode follow other replies than those of the sampled one. A reply is
    compared with the greedy reply of the same turn, or with the last one of an episode that ended before. Neither
    depends on the reply, so the gradient stays unbiased.

    Args:
        batch: S responses.
        greedy: greedy responses to the same samples.
        greedy_scores: their scores.
    """
    turns: dict[int, dict[int, float]] = {}
    for sample, score in zip(greedy.samples, greedy_scores.tolist(), strict=True):
        turns.setdefault(sample.index, {})[sample.turn] = score
    baselines = [turns[s.index][min(s.turn, max(turns[s.index]))] for s in batch.samples]
    return batch.scores.new_tensor(baselines)
