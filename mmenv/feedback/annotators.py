"""Synthetic annotators: they prefer by gold, with a temperature, slips, ties, biases and fatigue; and panels."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmenv.data.sample import Response
from mmenv.feedback.comparison import TIE, Choice, Comparison, now
from mmenv.feedback.judgement import KINDS, Kind

LEVELS = 5


@dataclass(frozen=True)
class SyntheticAnnotator:
    """Prefers the first of two responses with probability sigmoid((u1 - u2) / temperature), u = gold + bias * length.

    Among several responses the best is drawn by Luce's rule, a ranking by Plackett and Luce's, a tie by Rao and
    Kupper's, and grades from 1 to 5 by a cumulative logit with equally spaced thresholds: the models that
    ``RewardConfig`` can fit. A slip reverses a judgement: another choice, or the ranking or the grades upside down.

    Attributes:
        temperature: 0 always prefers the greater utility; equal utilities are then decided by a coin.
        flip: share of judgements reversed at random.
        length_bias: utility of one more token (of a word, if a response has no tokens).
        tie_band: a smaller difference of the noisy utilities is a tie.
        taste: standard deviation of the annotator's own utility of a response, the same each time it is shown.
        harshness: subtracted from the utility before grading.
        tiring: what a thousand labels add to ``flip``, up to one half.
        blurring: what a thousand labels add to the temperature, as a multiple of it.
        name: stands in ``Comparison.annotator``.
    """

    temperature: float = 0.1
    flip: float = 0.0
    length_bias: float = 0.0
    tie_band: float = 0.0
    taste: float = 0.0
    harshness: float = 0.0
    tiring: float = 0.0
    blurring: float = 0.0
    name: str = "synthetic"

    def prefer(self, pairs: list[tuple[Response, Response]], gold: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Index of the preferred response of each pair; without ties and without taste.

        Args:
            pairs: n pairs of responses.
            gold: (n, 2)
            rng: source of randomness.

        Returns:
            int64 (n,) of 0 and 1.
        """
        temperature, flip = self.fatigued(np.arange(len(pairs)))
        lengths = np.array([[len(r.tokens) for r in pair] for pair in pairs], dtype=np.float64).reshape(-1, 2)
        utility = gold + self.length_bias * lengths
        gap = utility[:, 1] - utility[:, 0]
        if self.temperature > 0:
            second = rng.random(len(gap)) < 1 / (1 + np.exp(-gap / temperature))
        else:
            second = np.where(gap == 0, rng.random(len(gap)) < 0.5, gap > 0)
        return (second ^ (rng.random(len(gap)) < flip)).astype(np.int64)

    def fatigued(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Temperature and flip rate after so many labels, each of the shape of ``labels``."""
        thousands = labels / 1000
        flip = np.clip(self.flip + self.tiring * thousands, 0.0, max(0.5, self.flip))
        return self.temperature * (1 + self.blurring * thousands), flip

    def judge(
        self,
        comparison: Comparison,
        golds: Sequence[float],
        rng: np.random.Generator,
        kind: Kind = "choice",
        labels: int = 0,
    ) -> Comparison:
        """The comparison with this annotator's judgement, which replaces any that it holds.

        Args:
            comparison: what to judge.
            golds: one for each response.
            rng: source of randomness.
            kind: ``"choice"``, ``"ranking"`` or ``"scores"``.
            labels: how many this annotator has given before.

        Raises:
            ValueError: ``kind`` is unknown, or golds do not fit the responses.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is unknown: give one of {KINDS}")
        if len(golds) != len(comparison.responses):
            raise ValueError(f"{len(golds)} golds for {len(comparison.responses)} responses: give one each")
        temperature, flip = (float(x) for x in self.fatigued(np.array(labels)))
        utility = self.utilities(comparison, golds)
        slips = rng.random() < flip
        choice: Choice = None
        ranking = scores = None
        if kind == "scores":
            scores = self._grades(utility, temperature, slips, rng)
        else:
            noisy = utility + temperature * rng.gumbel(size=len(utility))
            order = np.lexsort((rng.random(len(noisy)), -noisy))
            if kind == "ranking":
                ranking = tuple(int(i) for i in (order[::-1] if slips else order))
            else:
                choice = self._choice(noisy, order, slips, rng)
        return dataclasses.replace(
            comparison, choice=choice, ranking=ranking, scores=scores, annotator=self.name, created=now()
        )

    def utilities(self, comparison: Comparison, golds: Sequence[float]) -> np.ndarray:
        """Utility of each response to this annotator, without noise: (K,)."""
        lengths = [len(r.tokens) or len(r.text.split()) for r in comparison.as_responses()]
        tastes = [self._taste_of(comparison.sample_id, text) for text in comparison.responses]
        return np.asarray(golds, np.float64) + self.length_bias * np.array(lengths) + np.array(tastes)

    def _taste_of(self, sample_id: str, text: str) -> float:
        if self.taste == 0:
            return 0.0
        digest = hashlib.sha256(f"{self.name}\0{sample_id}\0{text}".encode()).digest()
        return self.taste * float(np.random.default_rng(list(digest[:16])).normal())

    def _choice(self, noisy: np.ndarray, order: np.ndarray, slips: bool, rng: np.random.Generator) -> Choice:
        best = int(order[0])
        if len(order) > 1 and noisy[best] - noisy[order[1]] < self.tie_band:
            return TIE
        return int(rng.choice(order[1:])) if slips and len(order) > 1 else best

    def _grades(
        self, utility: np.ndarray, temperature: float, slips: bool, rng: np.random.Generator
    ) -> tuple[float, ...]:
        noisy = utility - self.harshness + temperature * rng.logistic(size=len(utility))
        grades = 1 + np.searchsorted(np.arange(1, LEVELS) / LEVELS, noisy, side="right")
        return tuple(float(LEVELS + 1 - g if slips else g) for g in grades)


@dataclass(frozen=True)
class AnnotatorPanel:
    """Several annotators who disagree.

    Attributes:
        annotators: one or more, of different names.

    Raises:
        ValueError: there is none, or two share a name.
    """

    annotators: tuple[SyntheticAnnotator, ...]

    def __post_init__(self) -> None:
        names = [annotator.name for annotator in self.annotators]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"annotators named {names}: give at least one, and each a name of its own")

    @classmethod
    def of(cls, n: int, seed: int = 0, base: SyntheticAnnotator | None = None, spread: float = 1.0) -> AnnotatorPanel:
        """``n`` variations of ``base``: they differ in temperature, slips, length bias, harshness and taste.

        Args:
            n: how many.
            seed: of the variations.
            base: what they vary; None for ``SyntheticAnnotator()``.
            spread: 0 makes them equal except for their names.
        """
        base = base or SyntheticAnnotator()
        rng = np.random.default_rng(seed)
        annotators = []
        for i in range(n):
            annotator = dataclasses.replace(
                base,
                temperature=base.temperature * float(np.exp(spread * rng.normal(0, 0.4))),
                flip=float(np.clip(base.flip + spread * rng.uniform(0, 0.1), 0, 0.5)),
                length_bias=base.length_bias + spread * float(rng.normal(0, 0.01)),
                taste=base.taste + spread * 0.1,
                harshness=base.harshness + spread * float(rng.normal(0, 0.1)),
                name=f"{base.name}-{i + 1}",
            )
            annotators.append(annotator)
        return cls(tuple(annotators))

    def judge(
        self,
        comparisons: Sequence[Comparison],
        golds: Sequence[Sequence[float]],
        rng: np.random.Generator,
        kind: Kind = "choice",
        overlap: int = 1,
    ) -> list[Comparison]:
        """Every comparison judged by ``overlap`` different annotators, drawn at random, who tire as they go.

        Returns:
            ``overlap`` judgements of the first comparison, then those of the second, and so on.

        Raises:
            ValueError: ``overlap`` is more than the panel has.
        """
        if not 1 <= overlap <= len(self.annotators):
            raise ValueError(f"overlap={overlap!r} of {len(self.annotators)} annotators: give 1 to that many")
        labels = np.zeros(len(self.annotators), int)
        judged = []
        for comparison, values in zip(comparisons, golds, strict=True):
            for i in rng.choice(len(self.annotators), overlap, replace=False):
                judged.append(self.annotators[i].judge(comparison, values, rng, kind, int(labels[i])))
                labels[i] += 1
        return judged
