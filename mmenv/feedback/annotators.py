"""Synthetic annotators: they prefer by gold, with a temperature, slips, ties, biases, tiredness, and in panels."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmenv.data.sample import Response
from mmenv.feedback.comparison import TIE, Choice, Comparison, now

How = Literal["choice", "ranking", "scores"]
HOWS = ("choice", "ranking", "scores")
LEVELS = 5


@dataclass(frozen=True)
class SyntheticAnnotator:
    """Prefers the first of two responses with probability sigmoid((u1 - u2) / temperature), u = gold + bias * length.

    Of several responses the best is drawn by Luce's rule, a ranking by Plackett's and Luce's, a tie by Rao's and
    Kupper's, and grades from 1 to 5 by a cumulative logit with equally spaced thresholds: what ``RewardConfig`` can fit
    is what is drawn here. A slip turns a judgement round: another choice, the ranking or the grades upside down.

    Attributes:
        temperature: 0 always prefers the greater utility; ties are then a coin's toss.
        flip: share of labels turned round at random.
        length_bias: utility of one more token (of a word, where a response has no tokens).
        tie_band: utilities that seem closer than this are called a tie.
        taste: standard deviation of a utility of the annotator's own, the same whenever the same is shown.
        harshness: utility taken off before grading.
        tiring: what a thousand labels given add to ``flip``, up to one half.
        blurring: what a thousand labels given add to the temperature, as a multiple of it.
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

    def prefer(
        self, pairs: list[tuple[Response, Response]], gold: np.ndarray, rng: np.random.Generator, given: int = 0
    ) -> np.ndarray:
        """Index of the preferred response of each pair; there are no ties here, and no taste.

        Args:
            pairs: n pairs of responses.
            gold: (n, 2)
            rng: source of randomness.
            given: labels given before the first of these.

        Returns:
            int64 (n,) of 0 and 1.
        """
        temperature, flip = self.state(given + np.arange(len(pairs)))
        lengths = np.array([[len(r.tokens) for r in pair] for pair in pairs], dtype=np.float64).reshape(-1, 2)
        utility = gold + self.length_bias * lengths
        gap = utility[:, 1] - utility[:, 0]
        if self.temperature > 0:
            second = rng.random(len(gap)) < 1 / (1 + np.exp(-gap / temperature))
        else:
            second = np.where(gap == 0, rng.random(len(gap)) < 0.5, gap > 0)
        return (second ^ (rng.random(len(gap)) < flip)).astype(np.int64)

    def state(self, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Temperature and share of slips after so many labels, each of the shape of ``given``."""
        thousands = given / 1000
        flip = np.clip(self.flip + self.tiring * thousands, 0.0, max(0.5, self.flip))
        return self.temperature * (1 + self.blurring * thousands), flip

    def judge(
        self,
        comparison: Comparison,
        golds: Sequence[float],
        rng: np.random.Generator,
        how: How = "choice",
        given: int = 0,
    ) -> Comparison:
        """The comparison with this annotator's judgement.

        Args:
            comparison: its own judgement, if any, is forgotten.
            golds: one for each response.
            rng: source of randomness.
            how: ``"choice"``, ``"ranking"`` or ``"scores"``.
            given: labels that this annotator gave before.

        Raises:
            ValueError: ``how`` is none of these, or golds do not fit the responses.
        """
        if how not in HOWS:
            raise ValueError(f"how={how!r} is none of {HOWS}: give one of these")
        if len(golds) != len(comparison.responses):
            raise ValueError(f"{len(golds)} golds for {len(comparison.responses)} responses: give one each")
        temperature, flip = (float(x) for x in self.state(np.array(given)))
        utility, slips = self.utilities(comparison, golds), rng.random() < flip
        choice: Choice = None
        ranking = scores = None
        if how == "scores":
            scores = self._grades(utility, temperature, slips, rng)
        else:
            seen = utility + temperature * rng.gumbel(size=len(utility))
            order = np.lexsort((rng.random(len(seen)), -seen))
            if how == "ranking":
                ranking = tuple(int(i) for i in (order[::-1] if slips else order))
            else:
                choice = self._choice(seen, order, slips, rng)
        return dataclasses.replace(
            comparison, choice=choice, ranking=ranking, scores=scores, annotator=self.name, created=now()
        )

    def utilities(self, comparison: Comparison, golds: Sequence[float]) -> np.ndarray:
        """What each response is worth to this annotator before any noise, (K,)."""
        lengths = [len(r.tokens) or len(r.text.split()) for r in comparison.as_responses()]
        tastes = [self._taste_of(comparison.sample_id, text) for text in comparison.responses]
        return np.asarray(golds, np.float64) + self.length_bias * np.array(lengths) + np.array(tastes)

    def _taste_of(self, sample_id: str, text: str) -> float:
        if self.taste == 0:
            return 0.0
        digest = hashlib.sha256(f"{self.name}\0{sample_id}\0{text}".encode()).digest()
        return self.taste * float(np.random.default_rng(list(digest[:16])).normal())

    def _choice(self, seen: np.ndarray, order: np.ndarray, slips: bool, rng: np.random.Generator) -> Choice:
        best = int(order[0])
        if len(order) > 1 and seen[best] - seen[order[1]] < self.tie_band:
            return TIE
        return int(rng.choice(order[1:])) if slips and len(order) > 1 else best

    def _grades(
        self, utility: np.ndarray, temperature: float, slips: bool, rng: np.random.Generator
    ) -> tuple[float, ...]:
        seen = utility - self.harshness + temperature * rng.logistic(size=len(utility))
        grades = 1 + np.searchsorted(np.arange(1, LEVELS) / LEVELS, seen, side="right")
        return tuple(float(LEVELS + 1 - g if slips else g) for g in grades)


@dataclass(frozen=True)
class Panel:
    """Several annotators who disagree; whoever is asked is drawn at random.

    Attributes:
        annotators: one or more, of different names.

    Raises:
        ValueError: there is none, or two share a name.
    """

    annotators: tuple[SyntheticAnnotator, ...]

    def __post_init__(self) -> None:
        names = [a.name for a in self.annotators]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"annotators named {names}: give at least one, and each a name of its own")

    @classmethod
    def of(cls, n: int, seed: int = 0, base: SyntheticAnnotator | None = None, spread: float = 1.0) -> Panel:
        """``n`` variations of ``base``: some hastier, some fond of length, some harsh, each with a taste of their own.

        Args:
            n: how many.
            seed: of the variations.
            base: who they vary; ``SyntheticAnnotator()`` where it is None.
            spread: 0 makes them equal but for their names.
        """
        base, rng, made = base or SyntheticAnnotator(), np.random.default_rng(seed), []
        for i in range(n):
            made.append(
                dataclasses.replace(
                    base,
                    temperature=base.temperature * float(np.exp(spread * rng.normal(0, 0.4))),
                    flip=float(np.clip(base.flip + spread * rng.uniform(0, 0.1), 0, 0.5)),
                    length_bias=base.length_bias + spread * float(rng.normal(0, 0.01)),
                    taste=base.taste + spread * 0.1,
                    harshness=base.harshness + spread * float(rng.normal(0, 0.1)),
                    name=f"{base.name}-{i + 1}",
                )
            )
        return cls(tuple(made))

    def judge(
        self,
        comparison: Comparison,
        golds: Sequence[float],
        rng: np.random.Generator,
        how: How = "choice",
        given: int = 0,
    ) -> Comparison:
        """As ``SyntheticAnnotator.judge``, by one of the panel; ``given`` is the panel's, shared evenly."""
        someone = self.annotators[int(rng.integers(len(self.annotators)))]
        return someone.judge(comparison, golds, rng, how, given // len(self.annotators))

    def judge_all(
        self,
        comparisons: Sequence[Comparison],
        golds: Sequence[Sequence[float]],
        rng: np.random.Generator,
        how: How = "choice",
        overlap: int = 1,
    ) -> list[Comparison]:
        """Every comparison judged by ``overlap`` different annotators, who tire as they go.

        Returns:
            ``overlap`` judgements of the first comparison, then those of the second, and so on.

        Raises:
            ValueError: ``overlap`` is more than the panel has.
        """
        if not 1 <= overlap <= len(self.annotators):
            raise ValueError(f"overlap={overlap!r} of {len(self.annotators)} annotators: give 1 to that many")
        given, judged = np.zeros(len(self.annotators), int), []
        for comparison, values in zip(comparisons, golds, strict=True):
            for i in rng.choice(len(self.annotators), overlap, replace=False):
                judged.append(self.annotators[i].judge(comparison, values, rng, how, int(given[i])))
                given[i] += 1
        return judged
