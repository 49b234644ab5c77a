"""Imitation: supervised fine-tuning on demonstrations, and on the best of several responses.

Expert iteration learns from the best of its own responses to each context (Anthony et al. 2017; as RAFT in Dong et al.
2023), distillation of best-of-n from the best of the start's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from agents.algorithms.base import Algorithm, Targets
from agents.maths.losses import mean_of
from agents.rollouts.batch import demonstrations
from agents.rollouts.rollout import Batch
from agents.settings.shared import DistillationConfig, ExpertIterationConfig, SFTConfig
from mmenv.envs.token_vector_env import TokenVectorEnv


class SFT(Algorithm):
    """Raises the likelihood of demonstrations."""

    Config = SFTConfig
    config: Any
    on_policy = False
    reward_is = "only watched"

    def watches(self, update: int) -> bool:
        return self.config.watch_every is not None and update % self.config.watch_every == 0

    def collect(self, env: TokenVectorEnv) -> Batch:
        return demonstrations(self.policy, env, self.config.num_envs, self.rng)

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        return {}

    def loss(
        self, logp: Tensor, values: Tensor, entropy: Tensor, mask: Tensor, rows: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -mean_of(logp, mask, by_response=False)
        return loss, {"likelihood_loss": loss}


class ExpertIteration(SFT):
    """Raises the likelihood of the best of its own responses to each context."""

    Config = ExpertIterationConfig
    on_policy = True
    reward_is = "what the best are chosen by"

    def collect(self, env: TokenVectorEnv) -> Batch:
        return self.play(self.policy, env)

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        return {"best": best(self.scores(batch), batch.contexts)}

    def rows(self, batch: Batch, targets: Targets) -> Iterator[Tensor]:
        chosen = targets["best"].nonzero()[:, 0]
        order = torch.from_numpy(self.rng.permutation(len(chosen)))
        yield from chosen[order].chunk(self.config.minibatches)


class Distillation(ExpertIteration):
    """Raises the likelihood of the best of the start's responses to each context."""

    Config = DistillationConfig
    on_policy = False

    def collect(self, env: TokenVectorEnv) -> Batch:
        return self.play(self.reference, env)


def best(scores: Tensor, contexts: Tensor) -> Tensor:
    """Which of S responses is the best of those to its context, bool (S,); among equals the first.

    Responses that are alone with their context are no choice, and nothing is learned from them.
    """
    order = scores.argsort(descending=True, stable=True)
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    counts = torch.bincount(contexts)
    known: set[int] = set()
    for i in order.tolist():
        context = int(contexts[i])
        if context not in known and counts[context] > 1:
            chosen[i] = True
        known.add(context)
    return chosen
