"""Direct preference optimisation (Rafailov et al. 2023): on pairs of the policy's own, and on stored preferences.

Where preferences are Bradley-Terry draws of the score, its optimum is that of PPO's penalised reward: the reference
times exp(score / (beta * label_temperature)).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.algorithm import Algorithm, Targets
from agents.config import DPOConfig, OfflineDPOConfig
from agents.losses import dpo_loss
from agents.offline import some, written
from agents.pairs import replies
from agents.rollout import Batch
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.feedback.comparison import read_comparisons, sample_of


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


class OfflineDPO(OnlineDPO):
    """Pairs that were judged before; the policy itself is only watched."""

    Config = OfflineDPOConfig
    config: OfflineDPOConfig
    on_policy = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self.config.train_encoder:
            raise ValueError("train_encoder=True: offline-dpo reads every context once, leave the encoder frozen")
        self.data: Batch | None = None

    def collect(self, env: TokenVectorEnv) -> Batch:
        if self.data is None:
            self.data = self._stored(env) if self.config.preferences else self._sampled(env)
        n = int(self.data.contexts.max()) + 1
        return some(self.data, self.rng.permutation(n)[: max(1, self.config.num_envs // 2)])

    def label(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.ones_like(first)  # the chosen one comes first

    def _stored(self, env: TokenVectorEnv) -> Batch:
        """Choices of a file, the chosen response first."""
        path, chosen = Path(self.config.preferences), []
        for c in read_comparisons(path).comparisons:
            if isinstance(c.choice, int) and len(c.responses) == 2:
                both = c.as_responses()
                chosen.append((sample_of(c, path.parent), (both[c.choice], both[1 - c.choice])))
        if not chosen:
            raise ValueError(f"{path} holds no choice between two responses: label it first")
        return written(self.policy, env, [s for s, _ in chosen], [r for _, r in chosen])

    def _sampled(self, env: TokenVectorEnv) -> Batch:
        """Pairs of the reference, chosen as the reward's Bradley-Terry draws; the same again on resume."""
        rng = np.random.default_rng(self.config.seed)
        generator, self.reference.generator = (
            self.reference.generator,
            torch.Generator(self.policy.device).manual_seed(self.config.seed),
        )
        own, self.rng = self.rng, rng
        samples: list[Sample] = []
        ordered: list[tuple[Response, Response]] = []
        while len(samples) < self.config.pairs:
            batch = self.play(self.reference, env)
            said, scores = replies(batch), self.scores(batch)
            pairs = pairs_of(batch)
            odds = torch.sigmoid((scores[pairs[:, 0]] - scores[pairs[:, 1]]) / self.config.label_temperature)
            for (a, b), p in zip(pairs.tolist(), odds.tolist(), strict=True):
                samples.append(batch.samples[a])
                ordered.append((said[a], said[b]) if rng.random() < p else (said[b], said[a]))
        self.reference.generator, self.rng = generator, own
        n = self.config.pairs
        return written(self.policy, env, samples[:n], ordered[:n])


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
