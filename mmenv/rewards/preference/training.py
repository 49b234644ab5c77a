"""Training the head of a preference model on judged comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.evidence import Evidence, Likelihood, flatten
from mmenv.rewards.preference.model import BATCH, PreferenceHead, PreferenceModel

LEAST_GAP = 0.05  # of gold; responses that are closer count as tied


@dataclass(frozen=True)
class Pairs:
    """Two responses to each of n samples.

    Attributes:
        samples: n samples.
        responses: n pairs.
        gold: (n, 2)
    """

    samples: Sequence[Sample]
    responses: Sequence[tuple[Response, Response]]
    gold: np.ndarray

    @property
    def distinct(self) -> np.ndarray:
        """Whether the gold of the two differs by at least ``LEAST_GAP``, bool (n,)."""
        return np.abs(self.gold[:, 0] - self.gold[:, 1]) >= LEAST_GAP

    def take(self, indices: np.ndarray) -> Pairs:
        """The pairs at ``indices``, int64 (m,)."""
        chosen = indices.tolist()
        return Pairs([self.samples[i] for i in chosen], [self.responses[i] for i in chosen], self.gold[indices])

    def flat(self) -> tuple[list[Sample], list[Response]]:
        """2n samples and responses: pair i is at 2i and 2i + 1."""
        return [s for s in self.samples for _ in range(2)], [r for pair in self.responses for r in pair]


def fit(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    samples: Sequence[Sample],
    config: RewardConfig | None = None,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train the head on judged comparisons, then normalise it on all their responses.

    Choices, ties, rankings and scores may be mixed; undecided comparisons are left out.

    Args:
        model: its head is trained further, in place.
        comparisons: judged.
        samples: that of each comparison.
        config: ``RewardConfig()`` where it is None.
        report: called with (epoch, mean loss in nats a comparison).

    Raises:
        ValueError: no comparison prefers a response.
    """
    config = config or RewardConfig()
    contexts, responses, evidence = flatten(comparisons, samples, config)
    features, mask = all_features(model, contexts, responses)
    fit_head(model.head, features, mask, evidence, config, config.seed, report)
    set_scale(model, head_scores(model.head, features, mask))


def fit_head(
    head: PreferenceHead,
    features: Tensor,
    mask: Tensor,
    evidence: Evidence,
    config: RewardConfig,
    seed: int,
    report: Callable[[int, float], None] | None = None,
) -> Likelihood:
    """Maximise the likelihood of the evidence; returns the likelihood with its learned parameters.

    Args:
        features: (N, T, size), of all responses.
        mask: (N, T)
        evidence: its rows are indices of the N responses.
        seed: of the order of the comparisons.
    """
    rng, likelihood = np.random.default_rng(seed), Likelihood(evidence, config)
    rates = [config.lr, 10 * config.lr]  # the likelihood's few parameters must keep up with the head's many
    groups = [
        {"params": list(head.parameters()), "lr": rates[0], "weight_decay": config.l2},
        {"params": list(likelihood.parameters()), "lr": rates[1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups)
    steps = config.epochs * -(-len(evidence) // config.batch)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = one_cycle(optimiser, rates, total_steps=steps, pct_start=0.1) if steps >= 20 else None
    for epoch in range(config.epochs):
        total = 0.0
        for at in torch.split(torch.from_numpy(rng.permutation(len(evidence))), config.batch):
            part = evidence.take(at)
            rows = part.rows.flatten()
            loss = likelihood(head.sparse(features[rows], mask[rows]).view(part.rows.shape), part).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
            total += loss.item() * len(at)
        if report is not None:
            report(epoch, total / len(evidence))
    return likelihood


def set_scale(model: PreferenceModel, scores: Tensor) -> None:
    """Set the model's mean and standard deviation to those of raw scores (n,)."""
    model.mean, model.std = scores.mean().item(), max(scores.std().item(), 1e-6)


@torch.no_grad()
def head_scores(head: PreferenceHead, features: Tensor, mask: Tensor) -> Tensor:
    """Raw scores (n,) of many responses, in chunks, padding left out."""
    chunks = zip(torch.split(features, 1024), torch.split(mask, 1024), strict=True)
    return torch.cat([head.sparse(f, m) for f, m in chunks])


def agreement(model: RewardFunction, pairs: Pairs) -> tuple[float, float]:
    """Share of distinct pairs that the model orders as gold does, and the share of pairs that are ties in gold."""
    samples, responses = pairs.flat()
    scores = model(samples, responses).reshape(-1, 2)
    keep = pairs.distinct
    same = (scores[:, 1] > scores[:, 0]) == (pairs.gold[:, 1] > pairs.gold[:, 0])
    return float(same[keep].mean()), float(1 - keep.mean())


def all_features(
    model: PreferenceModel, samples: Sequence[Sample], responses: Sequence[Response], chunk: int = BATCH
) -> tuple[Tensor, Tensor]:
    """Features (n, T, size) in half precision and mask (n, T), computed in chunks."""
    parts = [model.features(samples[i : i + chunk], responses[i : i + chunk]) for i in range(0, len(samples), chunk)]
    longest = max(f.shape[1] for f, _ in parts)
    features = torch.cat([F.pad(f.half(), (0, 0, 0, longest - f.shape[1])) for f, _ in parts])
    return features, torch.cat([F.pad(m, (0, longest - m.shape[1])) for _, m in parts])
