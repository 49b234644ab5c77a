"""Training a preference model: from judged comparisons, or from pairs that a synthetic annotator is asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenv.data.sample import Response, Sample
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.evidence import Evidence, Likelihood, flatten
from mmenv.rewards.preference.losses import bradley_terry
from mmenv.rewards.preference.model import PreferenceHead, PreferenceModel


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
        """(n,) whether gold tells the two apart by at least 0.05."""
        return np.abs(self.gold[:, 0] - self.gold[:, 1]) >= 0.05

    def take(self, numbers: np.ndarray) -> Pairs:
        """Some of them, by number."""
        at = numbers.tolist()
        return Pairs([self.samples[i] for i in at], [self.responses[i] for i in at], self.gold[numbers])

    def flat(self) -> tuple[list[Sample], list[Response]]:
        """2n samples and responses: pair i is at 2i and 2i + 1."""
        return [s for s in self.samples for _ in range(2)], [r for pair in self.responses for r in pair]


def train_preference_model(
    model: PreferenceModel,
    pairs: Pairs,
    annotator: SyntheticAnnotator,
    epochs: int = 3,
    lr: float = 1e-3,
    batch: int = 128,
    seed: int = 0,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Fit the head to the annotator's choices; then normalise on all responses of ``pairs``.

    The backbone is frozen, so its features are computed once.

    Args:
        report: called with (epoch, mean loss).
    """
    rng = np.random.default_rng(seed)
    choice = torch.from_numpy(annotator.prefer(list(pairs.responses), pairs.gold, rng))
    features, mask = all_features(model, *pairs.flat())
    n = len(choice)
    optimiser = torch.optim.AdamW(model.head.parameters(), lr=lr, weight_decay=0.01)
    steps = max(1, epochs * ((n + batch - 1) // batch))
    # A cycle needs steps to rise and to fall; a handful of pairs is learned at the full rate.
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = one_cycle(optimiser, lr, total_steps=steps, pct_start=0.1) if steps >= 20 else None
    for epoch in range(epochs):
        losses = []
        for rows in torch.split(torch.from_numpy(rng.permutation(n)), batch):
            both = torch.stack([2 * rows, 2 * rows + 1], 1).flatten()
            scores = model.head(features[both].float(), mask[both]).view(-1, 2)
            chosen, rejected = scores.gather(1, choice[rows, None]), scores.gather(1, 1 - choice[rows, None])
            loss = bradley_terry(chosen, rejected)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if schedule is not None:
                schedule.step()
            losses.append(loss.item())
        if report is not None:
            report(epoch, float(np.mean(losses)))
    normalise(model, features, mask)


def fit(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    samples: Sequence[Sample],
    config: RewardConfig | None = None,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train the head from where it stands on judged comparisons; then normalise on all their responses.

    Choices, ties, rankings and scores may be mixed; undecided comparisons are left out.

    Args:
        model: its head is trained in place.
        comparisons: judged.
        samples: that of each comparison.
        config: ``RewardConfig()`` where it is None.
        report: called with (epoch, mean loss in nats a comparison).

    Raises:
        ValueError: none of the comparisons says what is better.
    """
    config = config or RewardConfig()
    of, responses, evidence = flatten(comparisons, samples, config)
    features, mask = all_features(model, of, responses)
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
    """Maximise the likelihood of the evidence; what was learned beside the head is returned.

    Args:
        features: (N, T, size), of all responses.
        mask: (N, T)
        evidence: its rows count the responses.
        seed: of the order of the comparisons.
    """
    rng, likelihood = np.random.default_rng(seed), Likelihood(evidence, config)
    rates = [config.lr, 10 * config.lr]  # beside the head there are a handful of numbers, that should not lag behind
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


def normalise(model: PreferenceModel, features: Tensor, mask: Tensor) -> None:
    """Set the model's mean and standard deviation to those of its scores."""
    with torch.no_grad():
        chunks = zip(torch.split(features, 1024), torch.split(mask, 1024), strict=True)
        set_scale(model, torch.cat([model.head(f.float(), m) for f, m in chunks]))


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
    model: PreferenceModel, samples: Sequence[Sample], responses: Sequence[Response], chunk: int = 512
) -> tuple[Tensor, Tensor]:
    """Features (n, T, size) in half precision and mask (n, T), computed in chunks."""
    parts = [model.features(samples[i : i + chunk], responses[i : i + chunk]) for i in range(0, len(samples), chunk)]
    longest = max(f.shape[1] for f, _ in parts)
    features = torch.cat([F.pad(f.half(), (0, 0, 0, longest - f.shape[1])) for f, _ in parts])
    return features, torch.cat([F.pad(m, (0, longest - m.shape[1])) for _, m in parts])
