"""Judged comparisons as tensors, and their likelihood given scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import TIE, Comparison
from mmenv.rewards.preference import losses
from mmenv.rewards.preference.config import RewardConfig

MOST_LEVELS = 20  # grades beyond which scores are no grades of people
PAIR, RANKED, TIED, SCORED = range(4)


@dataclass(frozen=True)
class Evidence:
    """The judgements of n comparisons of up to K responses, as tensors.

    Attributes:
        rows: int64 (n, K), indices of the responses, the preferred first; padding repeats the first.
        real: bool (n, K), False on padding.
        kind: int64 (n,), one of ``PAIR``, ``RANKED``, ``TIED`` and ``SCORED``.
        stages: int64 (n,), number of Plackett-Luce draws that a ranking shows.
        margin: float32 (n,), in [0, 1].
        grades: float32 (n, K), the annotator's scores.
    """

    rows: Tensor
    real: Tensor
    kind: Tensor
    stages: Tensor
    margin: Tensor
    grades: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, index: Tensor) -> Evidence:
        """The comparisons at ``index`` int64 (m,), repeated where it repeats."""
        return Evidence(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def kind_of(comparison: Comparison, ties: str) -> int | None:
    """The kind of evidence in a comparison; None where it has none.

    A ranking counts before a choice, a choice before scores; scores without an annotator are a reward function's.
    """
    n = len(comparison.responses)
    if n > 1 and comparison.ranking is not None:
        return PAIR if n == 2 else RANKED
    if n > 1 and comparison.choice is not None:
        if comparison.choice == TIE:
            return None if ties == "drop" else TIED
        return PAIR if n == 2 else RANKED
    scored = comparison.scores is not None and comparison.annotator is not None
    return SCORED if scored and comparison.choice is None else None


def order_of(comparison: Comparison) -> list[int]:
    """Indices of the responses, the preferred first; in their own order where none is preferred."""
    if comparison.ranking is not None:
        return list(comparison.ranking)
    indices = list(range(len(comparison.responses)))
    return sorted(indices, key=lambda i: i != comparison.choice)


def flatten(
    comparisons: Sequence[Comparison], samples: Sequence[Sample], config: RewardConfig
) -> tuple[list[Sample], list[Response], Evidence]:
    """The N responses of comparisons with evidence, the sample of each, and the evidence, whose rows are their indices.

    Args:
        comparisons: judged or not.
        samples: that of each comparison.
        config: the models of ties and margins.

    Raises:
        ValueError: no comparison has evidence.
    """
    if len(samples) != len(comparisons):
        raise ValueError(f"{len(samples)} samples for {len(comparisons)} comparisons: give the sample of each")
    kinds = [kind_of(c, config.ties) for c in comparisons]
    usable = [(c, s, k) for c, s, k in zip(comparisons, samples, kinds, strict=True) if k is not None]
    if not usable:
        raise ValueError(f"none of {len(comparisons)} comparisons prefers a response: label some of them first")
    orders: list[list[int]] = []
    contexts: list[Sample] = []
    responses: list[Response] = []
    for comparison, sample, _ in usable:
        orders.append([len(responses) + i for i in order_of(comparison)])
        contexts += [sample] * len(comparison.responses)
        responses += comparison.as_responses()
    evidence = _tensors([c for c, _, _ in usable], [kind for _, _, kind in usable], orders, config.margins)
    return contexts, responses, evidence


def _tensors(
    comparisons: Sequence[Comparison], kinds: Sequence[int], orders: Sequence[Sequence[int]], margins: bool
) -> Evidence:
    n, widest = len(kinds), max(map(len, orders))
    rows = np.zeros((n, widest), np.int64)
    real = np.zeros((n, widest), bool)
    stages = np.zeros(n, np.int64)
    margin = np.zeros(n, np.float32)
    grades = np.zeros((n, widest), np.float32)
    for i, (comparison, order) in enumerate(zip(comparisons, orders, strict=True)):
        rows[i] = order[0]
        rows[i, : len(order)] = order
        real[i, : len(order)] = True
        stages[i] = len(order) - 1 if comparison.ranking is not None else 1
        if comparison.scores is None or comparison.annotator is None:
            continue
        grades[i, : len(order)] = [comparison.scores[k] for k in order_of(comparison)]
        margin[i] = max(0.0, grades[i, 0] - grades[i, 1]) if kinds[i] == PAIR and margins else 0.0
    margin /= max(float(margin.max()), 1e-6)  # the clearest choice has a margin of one nat
    arrays = (rows, real, np.array(kinds), stages, margin, grades)
    return Evidence(*map(torch.from_numpy, arrays))


class Likelihood(nn.Module):
    """-log P(judgements | scores), with the parameters learned beside the scores: the rate of ties and the grades.

    Args:
        evidence: all of the training evidence, from which the parameters are initialised.
        config: the models of ties and of scores.

    Raises:
        ValueError: ``"ordinal"`` scores have too many levels.
    """

    levels: Tensor
    centre: Tensor

    def __init__(self, evidence: Evidence, config: RewardConfig) -> None:
        super().__init__()
        kind = evidence.kind
        two = int(((kind == PAIR) | (kind == TIED)).sum())
        self.share = int((kind == TIED).sum()) / max(1, two)
        self.ties, self.scores = config.ties if self.share else "drop", config.scores
        # Start where equally good responses are tied this often, away from 0 and 1, whose logarithms are infinite.
        share = min(max(self.share, 0.01), 0.95)
        start = np.log(2 * share / (1 - share))
        if self.ties == "rao-kupper":
            start = np.log(np.expm1(np.log((1 + share) / (1 - share))))
        self.tie = nn.Parameter(torch.tensor(start, dtype=torch.float32))
        self._begin_grades(evidence.grades[kind == SCORED][evidence.real[kind == SCORED]])

    def _begin_grades(self, grades: Tensor) -> None:
        """Start from thresholds at the grades' quantiles, or from mean and deviation of the numbers."""
        levels, counts = torch.unique(grades, return_counts=True)
        if self.scores == "ordinal" and len(levels) > MOST_LEVELS:
            raise ValueError(f"scores have {len(levels)} levels, too many to be grades: give scores='regression'")
        self.register_buffer("levels", levels)
        below = (counts.cumsum(0)[:-1] / max(1, len(grades))).clamp(1e-3, 1 - 1e-3)
        edges = torch.logit(below)
        self.first = nn.Parameter(edges[:1].clone())
        self.steps = nn.Parameter(torch.log(torch.expm1(edges.diff().clamp(min=0.05))))
        spread = grades.std() if len(grades) > 1 else torch.tensor(1.0)
        centre = torch.stack([grades.mean(), spread.clamp(min=1e-6)]) if len(grades) else torch.tensor([0.0, 1.0])
        self.register_buffer("centre", centre)
        self.slope, self.shift = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, scores: Tensor, evidence: Evidence) -> Tensor:
        """Scores (n, K) of the evidence's rows -> (n,)."""
        loss = torch.zeros_like(scores[:, 0])
        for kind, term in enumerate((self._pair, self._ranked, self._tied, self._scored)):
            at = torch.nonzero(evidence.kind == kind)[:, 0]
            if len(at):
                loss = loss.index_put((at,), term(scores[at], evidence.take(at)))
        return loss

    def _pair(self, scores: Tensor, evidence: Evidence) -> Tensor:
        gap = scores[:, 0] - scores[:, 1] - evidence.margin
        return losses.bradley_terry(gap) if self.ties == "drop" else self._with_ties(gap, tied=False)

    def _with_ties(self, gap: Tensor, tied: bool) -> Tensor:
        if self.ties == "davidson":
            return losses.davidson(gap, self.tie, tied)
        return losses.rao_kupper(gap, F.softplus(self.tie), tied)

    def _ranked(self, scores: Tensor, evidence: Evidence) -> Tensor:
        return losses.plackett_luce(scores, evidence.real, evidence.stages)

    def _tied(self, scores: Tensor, evidence: Evidence) -> Tensor:
        """All responses are tied: the mean over their pairs."""
        i, j = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
        each = self._with_ties((scores[:, i] - scores[:, j]).flatten(), tied=True).view(len(scores), -1)
        both = evidence.real[:, i] & evidence.real[:, j]
        return torch.where(both, each, 0.0).sum(1) / both.sum(1)

    def _scored(self, scores: Tensor, evidence: Evidence) -> Tensor:
        """The sum over responses, each graded on its own."""
        if self.scores == "ordinal":
            thresholds = torch.cat([self.first, self.first + F.softplus(self.steps).cumsum(0)])
            level = torch.searchsorted(self.levels, evidence.grades).clamp(max=len(self.levels) - 1)
            each = losses.cumulative_logit(scores, level, thresholds)
        else:
            target = (evidence.grades - self.centre[0]) / self.centre[1]
            each = (F.softplus(self.slope) * scores + self.shift - target).square() / 2
        return torch.where(evidence.real, each, 0.0).sum(1)
