"""Imitation: supervised fine-tuning on demonstrations, or on the best of several responses.

Expert iteration learns from the best of the policy's own responses to each context (Anthony et al. 2017; RAFT, Dong et
al. 2023), distillation from the best of the start's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.algorithms.base import Learner
from agents.distributed.stepper import Logs
from agents.maths.means import Mean, token_mean
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch, split_rows
from agents.rollouts.demonstrations import demonstrations
from agents.settings.bounds import Count, NonNegative, Positive
from agents.settings.shared import OffPolicyConfig, OptimiserConfig, TrainConfig
from mmenv.envs.token_vector_env import TokenVectorEnv


@dataclass(frozen=True, kw_only=True)
class ExpertIterationConfig(OptimiserConfig, TrainConfig):
    """Imitate the best of the policy's responses to each context (Anthony et al. 2017; RAFT, Dong et al. 2023)."""

    compared: ClassVar[int] = 2
    responses_per_context: Count = 8
    """Responses to each context, of which the best is learned from."""


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(OffPolicyConfig):
    """Imitate the best of n responses of the start (best-of-n distillation)."""

    compared: ClassVar[int] = 2
    responses_per_context: Count = 8
    """Responses of the start to each context, of which the best is learned from."""


@dataclass(frozen=True, kw_only=True)
class SFTConfig(OffPolicyConfig):
    """Supervised fine-tuning on demonstrations: the floor that reinforcement learning is measured against."""

    starts_any_task: ClassVar[bool] = True
    responses_per_context: Count = field(default=4, init=False)  # of the responses that are watched
    missing_eos_penalty: NonNegative = field(default=0.0, init=False)  # no response is scored for learning
    learning_rate: Positive = 1e-4
    """Adam's step size at the beginning of the run."""
    demonstrations: Count | None = None
    """Samples of the training split that have a demonstration, the first ones; all have one if not given."""


class Imitation(Learner[Minibatch]):
    """Raises the likelihood of responses."""

    config: Any
    entropy_gradient = False

    def watches_responses(self, update: int) -> bool:
        return self.config.watch_every is not None and update % self.config.watch_every == 0

    def data(self, batch: Batch, ref_logp: Tensor) -> Minibatch:
        return Minibatch(batch.responses())

    def loss(self, new: Evaluated, old: Minibatch) -> tuple[Mean, Logs]:
        loss = -token_mean(new.logp, old.mask)
        return loss, {"likelihood_loss": loss}


class SFT(Imitation):
    """Imitates demonstrations."""

    Config = SFTConfig
    on_policy = False
    reward_is = "only watched"

    def collect(self, env: TokenVectorEnv) -> Batch:
        generators = (self.contexts, self.rng)
        return demonstrations(self.policy, env, self.config.num_envs, *generators, self.config.demonstrations)


class ExpertIteration(Imitation):
    """Imitates the best of the policy's own responses to each context."""

    Config: ClassVar[type[TrainConfig]] = ExpertIterationConfig
    reward_is = "what the best are chosen by"

    def minibatches(self, batch: Batch) -> Iterator[Tensor]:
        chosen = best(self.scores(batch), batch.contexts).nonzero()[:, 0]
        order = torch.from_numpy(self.rng.permutation(len(chosen)))
        yield from split_rows(chosen[order], self.config.minibatches)


class Distillation(ExpertIteration):
    """Imitates the best of the start's responses to each context."""

    Config = DistillationConfig
    on_policy = False

    def collect(self, env: TokenVectorEnv) -> Batch:
        return self.play(self.reference, env)


def best(scores: Tensor, contexts: Tensor) -> Tensor:
    """Which of S responses are the best of those to their contexts, bool (S,); of equal ones the first.

    Of a response that is alone with its context nothing is learned: there was no choice.
    """
    order = scores.argsort(descending=True, stable=True)
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    counts = torch.bincount(contexts)
    done: set[int] = set()
    for i in order.tolist():
        context = int(contexts[i])
        if context not in done and counts[context] > 1:
            chosen[i] = True
        done.add(context)
    return chosen
