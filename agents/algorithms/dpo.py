"""Direct preference optimisation (Rafailov et al. 2023): on pairs of the policy's own, and on stored preferences.

Where preferences are Bradley-Terry draws of the score, its optimum is that of PPO's penalised reward: the reference
times exp(score / (beta * label_temperature)).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.algorithms.base import Algorithm, Targets
from agents.distributed import processes
from agents.maths.losses import dpo_loss
from agents.rollouts.batch import some, tokens_of, written
from agents.rollouts.pairs import replies
from agents.rollouts.rollout import Batch
from agents.settings.shared import DPOConfig, OfflineDPOConfig
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.feedback.comparison import Comparison, ordered, read_comparisons, sample_of


class OnlineDPO(Algorithm):
    """Pairs of the policy's own responses, judged by the reward (online DPO, Guo et al. 2024)."""

    together = 2
    Config = DPOConfig
    config: DPOConfig

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        first, second = pairs_of(batch).T
        scores, preferred = self.scores(batch), torch.full_like(batch.scores, float("nan"))
        preferred[first] = self.label(scores[first], scores[second])
        return {"ref": (ref_logp * batch.mask).sum(1), "preferred": preferred}

    def label(self, first: Tensor, second: Tensor) -> Tensor:
        """Probability (P,) that the first of a pair is preferred, by their scores."""
        config = self.config
        if config.labels == "best":
            return (first > second).float() + 0.5 * (first == second)
        odds = torch.sigmoid((first - second) / config.label_temperature)
        if config.labels == "soft":
            return odds
        return (torch.from_numpy(self.rng.random(len(odds))).to(odds) < odds).float()

    def rows(self, batch: Batch, targets: Targets) -> Iterator[Tensor]:
        pairs = pairs_of(batch)
        for some_pairs in pairs[torch.from_numpy(self.rng.permutation(len(pairs)))].chunk(self.config.minibatches):
            yield some_pairs.flatten()

    def weight(self, mask: Tensor) -> float:
        return len(mask) / 2  # pairs

    def loss(
        self, logp: Tensor, values: Tensor, entropy: Tensor, mask: Tensor, rows: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta, ratios = self.config.kl_coef, (logp * mask).sum(1) - rows["ref"]  # (2 P,)
        margin, preferred = ratios[0::2] - ratios[1::2], rows["preferred"][0::2]
        loss = dpo_loss(margin, preferred, beta)
        right = ((margin > 0) == (preferred > 0.5)).float().mean()
        return loss, {"dpo_loss": loss, "implicit_agreement": right}


class Pair(NamedTuple):
    """Two responses to a sample, the preferred one first."""

    sample: Sample
    better: Response
    worse: Response


class OfflineDPO(OnlineDPO):
    """Pairs that were judged before; the policy itself is only watched."""

    Config = OfflineDPOConfig
    config: OfflineDPOConfig
    on_policy = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.data: Batch | None = None
        if self.config.preferences is not None:
            self.reward_is = "only watched"

    def watches(self, update: int) -> bool:
        return self.config.watch_every is not None and update % self.config.watch_every == 0

    def prepare(self, env: TokenVectorEnv) -> None:
        if self.config.preferences is not None and self.data is None:
            self.data = self._written(env, self._stored())

    def collect(self, env: TokenVectorEnv) -> Batch:
        self.prepare(env)
        if self.data is None:
            self.data = self._written(env, self._sampled(env))
        n = int(self.data.contexts.max()) + 1
        return some(self.data, self.rng.permutation(n)[: max(1, self.config.num_envs // 2)])

    def label(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.ones_like(first)  # the chosen one comes first

    def _written(self, env: TokenVectorEnv, pairs: Sequence[Pair]) -> Batch:
        """Pairs as a batch, a context each; those that are the same within the budget say nothing and are left out."""
        budget, encoder = self.policy.budget, env.tokenizer
        differ = [p for p in pairs if tokens_of(encoder, p.better, budget) != tokens_of(encoder, p.worse, budget)]
        if same := len(pairs) - len(differ):
            self.say(f"{same} of {len(pairs)} pairs are the same within {budget} tokens and are left out")
        if not differ:
            raise ValueError(f"none of {len(pairs)} pairs differs within {budget} tokens: give others")
        longer = sum(len(tokens_of(encoder, r, budget + 1)) > budget for p in differ for r in (p.better, p.worse))
        if longer:
            self.say(f"{longer} of {2 * len(differ)} responses are cut to {budget} tokens")
        return written(self.policy, env, [p.sample for p in differ], [(p.better, p.worse) for p in differ])

    def _stored(self) -> list[Pair]:
        """Every pair that a judgement of the file states; what states none is told by number."""
        path, pairs = Path(self.config.preferences), []
        reading, silent = read_comparisons(path), Counter[str]()
        for c in reading.comparisons:
            stated, responses = ordered(c) if c.decided else [], c.as_responses()
            if stated:
                sample = sample_of(c, path.parent)
                pairs += [Pair(sample, responses[a], responses[b]) for a, b in stated]
            else:
                silent[_why_silent(c)] += 1
        judged = len(reading.comparisons) - sum(silent.values())
        told = [f"{judged:,} judgements state {len(pairs):,} pairs", *(f"{n:,} {why}" for why, n in silent.items())]
        if reading.faults:
            first = reading.faults[0]
            told.append(f"{len(reading.faults):,} lines cannot be read, as line {first.line}: {first.reason}")
        if not pairs:
            raise ValueError(f"{path} holds no preference between two responses ({'; '.join(told)}): label it first")
        self.say(f"{path}: {'; '.join(told)}")
        return pairs

    def _sampled(self, env: TokenVectorEnv) -> list[Pair]:
        """Pairs of the reference, chosen as the reward's Bradley-Terry draws; the same again on resume.

        Each of several processes samples its share, and all of them learn from all.
        """
        wanted = -(-self.config.pairs // processes.size())
        reference, rng = copy.copy(self.reference), np.random.default_rng(self.config.seed)
        reference.generator = torch.Generator(self.policy.device).manual_seed(self.config.seed)
        found: list[Pair] = []
        rollouts = 0
        while len(found) < wanted:
            if (rollouts := rollouts + 1) > 50 * (1 + wanted // env.num_envs):
                raise ValueError(f"{len(found)} pairs that differ in {rollouts - 1} rollouts: give fewer --pairs")
            batch = self.play(reference, env, rng)
            said, scores, pairs = replies(batch), self.scores(batch), pairs_of(batch)
            odds = torch.sigmoid((scores[pairs[:, 0]] - scores[pairs[:, 1]]) / self.config.label_temperature)
            for (a, b), p in zip(pairs.tolist(), odds.tolist(), strict=True):
                better, worse = (a, b) if rng.random() < p else (b, a)
                found.append(Pair(batch.samples[a], said[better], said[worse]))
        return [pair for share in processes.gather(found[:wanted]) for pair in share][: self.config.pairs]


def _why_silent(comparison: Comparison) -> str:
    """Why a comparison states no preference."""
    if not comparison.decided:
        return "are not judged yet"
    return "are of a single response" if len(comparison.responses) == 1 else "are ties"


def pairs_of(batch: Batch) -> Tensor:
    """Disjoint pairs of responses to the same context that differ, int64 (P, 2)."""
    waiting: dict[tuple[int], list[int]] = {}
    found = []
    for i, context in enumerate(batch.contexts.tolist()):
        others = waiting.setdefault(context, [])
        match = next((j for j in others if batch.texts[j] != batch.texts[i] or batch.stops[j] != batch.stops[i]), None)
        if match is None:
            others.append(i)
        else:
            others.remove(match)
            found.append((match, i))
    return torch.tensor(found, dtype=torch.long, device=batch.contexts.device).reshape(-1, 2)
