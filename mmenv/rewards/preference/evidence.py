"""Judged comparisons as tensors, and the likelihood of them under given scores."""

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

MOST_LEVELS = 20
PAIR, RANKED, TIED, SCORED = range(4)


@dataclass(frozen=True)
class Evidence:
    """What n comparisons of up to K responses say.

    Attributes:
        rows: int64 (n, K), numbers of the responses; preferred first, padding repeats the first.
        real: bool (n, K), False on padding.
        kind: int64 (n,), of ``PAIR``, ``RANKED``, ``TIED`` and ``SCORED``.
        stages: int64 (n,), draws that a ranking shows.
        margin: float32 (n,), in [0, 1].
        grades: float32 (n, K), scores as they were given.
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
        """Some of the comparisons, as often as ``index`` names them."""
        return Evidence(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def kind_of(comparison: Comparison, ties: str) -> int | None:
    """What a comparison can teach; None where that is nothing.

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
    """Numbers of the responses, the preferred first; as they stand where none is."""
    if comparison.ranking is not None:
        return list(comparison.ranking)
    numbers = list(range(len(comparison.responses)))
    return sorted(numbers, key=lambda i: i != comparison.choice)


def flatten(
    comparisons: Sequence[Comparison], samples: Sequence[Sample], config: RewardConfig
) -> tuple[list[Sample], list[Response], Evidence]:
    """What can be learned from: N samples and responses, and the evidence, whose rows count them.

    Args:
        comparisons: judged or not.
        samples: that of each comparison.
        config: says what ties and margins mean.

    Raises:
        ValueError: nothing can be learned from them.
    """
    if len(samples) != len(comparisons):
        raise ValueError(f"{len(samples)} samples for {len(comparisons)} comparisons: give the sample of each")
    kinds = [kind_of(c, config.ties) for c in comparisons]
    kept = [(c, s, k) for c, s, k in zip(comparisons, samples, kinds, strict=True) if k is not None]
    if not kept:
        raise ValueError(f"none of {len(comparisons)} comparisons says what is better: label some of them first")
    numbers: list[list[int]] = []
    of: list[Sample] = []
    responses: list[Response] = []
    for comparison, sample, _ in kept:
        numbers.append([len(responses) + i for i in order_of(comparison)])
        of += [sample] * len(comparison.responses)
        responses += comparison.as_responses()
    return of, responses, _tensors([c for c, _, _ in kept], [k for _, _, k in kept], numbers, config.margins)


def _tensors(
    comparisons: Sequence[Comparison], kinds: Sequence[int], numbers: Sequence[Sequence[int]], margins: bool
) -> Evidence:
    n, widest = len(kinds), max(map(len, numbers))
    rows, real = np.zeros((n, widest), np.int64), np.zeros((n, widest), bool)
    stages, margin, grades = np.zeros(n, np.int64), np.zeros(n, np.float32), np.zeros((n, widest), np.float32)
    for i, (comparison, found) in enumerate(zip(comparisons, numbers, strict=True)):
        rows[i] = found[0]
        rows[i, : len(found)] = found
        real[i, : len(found)] = True
        stages[i] = len(found) - 1 if comparison.ranking is not None else 1
        if comparison.scores is None or comparison.annotator is None:
            continue
        grades[i, : len(found)] = [comparison.scores[k] for k in order_of(comparison)]
        margin[i] = max(0.0, grades[i, 0] - grades[i, 1]) if kinds[i] == PAIR and margins else 0.0
    margin /= max(float(margin.max()), 1e-6)  # the clearest choice has a margin of one nat
    arrays = (rows, real, np.array(kinds), stages, margin, grades)
    return Evidence(*map(torch.from_numpy, arrays))


class Likelihood(nn.Module):
    """-log P(judgements | scores), with what has to be learned beside the scores: how common ties are, and the grades.

    Args:
        evidence: all of it: where the parameters begin is read off it.
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
        # Where all are equally good, this share of ties follows.
        share = min(max(self.share, 0.01), 0.95)
        start = np.log(2 * share / (1 - share))
        if self.ties == "rao-kupper":
            start = np.log(np.expm1(np.log((1 + share) / (1 - share))))
        self.tie = nn.Parameter(torch.tensor(start, dtype=torch.float32))
        self._begin_grades(evidence.grades[kind == SCORED][evidence.real[kind == SCORED]])

    def _begin_grades(self, grades: Tensor) -> None:
        """Thresholds at the grades' own quantiles, or mean and deviation of the numbers."""
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
        return losses.pair(gap) if self.ties == "drop" else self._with_ties(gap, tied=False)

    def _with_ties(self, gap: Tensor, tied: bool) -> Tensor:
        if self.ties == "davidson":
            return losses.davidson(gap, self.tie, tied)
        return losses.rao_kupper(gap, F.softplus(self.tie), tied)

    def _ranked(self, scores: Tensor, evidence: Evidence) -> Tensor:
        return losses.plackett_luce(scores, evidence.real, evidence.stages)

    def _tied(self, scores: Tensor, evidence: Evidence) -> Tensor:
        """All of them are tied: the mean over their pairs."""
        i, j = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
        each = self._with_ties((scores[:, i] - scores[:, j]).flatten(), tied=True).view(len(scores), -1)
        both = evidence.real[:, i] & evidence.real[:, j]
        return torch.where(both, each, 0.0).sum(1) / both.sum(1)

    def _scored(self, scores: Tensor, evidence: Evidence) -> Tensor:
        """Every response is graded by itself."""
        if self.scores == "ordinal":
            thresholds = torch.cat([self.first, self.first + F.softplus(self.steps).cumsum(0)])
            level = torch.searchsorted(self.levels, evidence.grades).clamp(max=len(self.levels) - 1)
            each = losses.cumulative_logit(scores, level, thresholds)
        else:
            wanted = (evidence.grades - self.centre[0]) / self.centre[1]
            each = (F.softplus(self.slope) * scores + self.shift - wanted).square() / 2
        return torch.where(evidence.real, each, 0.0).sum(1)
