"""How far people agree, with each other and with their earlier selves, and which policy they prefer."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from mmenv.feedback.comparison import TIE, Choice, Comparison
from mmenv.feedback.store.verdicts import Verdict, verdict_of, verdicts_of
from mmenv.statistics import Share, wilson

Judgements = Iterable[Comparison | Verdict]
Kind = Literal["choice", "ranking", "scores"]
Units = Sequence[Sequence[float]]


class Agreement(NamedTuple):
    """How far annotators agree on what several of them judged.

    Attributes:
        alpha: Krippendorff's; 1 is perfect, 0 is chance, below 0 less. nan where no two judged the same, or where all
            judgements are equal, so that there is no chance to compare with: ``same`` says it then.
        same: how often two annotators said the same of the same unit.
        kind: what was compared: choices (a unit is an item), rankings (a pair of responses) or scores (a response).
        units: how many were judged by two annotators or more.
    """

    alpha: float
    same: Share
    kind: Kind
    units: int


def preferred(judgement: Comparison) -> Choice:
    """The response that a judgement puts first, ``"tie"`` where several share that place, or None."""
    return verdict_of(judgement).preferred


def agreement(judgements: Judgements) -> Agreement:
    """Agreement of annotators; repeats do not count, each speaks once of an item, first come.

    Grades are ordinal; of a ranking each pair of responses is compared (which of them is better); choices are nominal
    (the index of the preferred response in the item's order, or a tie). Where people said things of several kinds, the
    kind with the most units that two or more judged is taken.
    """
    said: dict[Kind, dict[Hashable, dict[str | None, float]]] = {
        "choice": defaultdict(dict), "ranking": defaultdict(dict), "scores": defaultdict(dict)
    }  # fmt: skip
    for verdict in verdicts_of(judgements):
        if not verdict.repeated:
            kind, values = _values(verdict)
            for unit, value in values.items():
                said[kind][verdict.item, unit].setdefault(verdict.annotator, value)
    shared = {kind: [list(by.values()) for by in units.values() if len(by) > 1] for kind, units in said.items()}
    kind = max(shared, key=lambda kind: len(shared[kind]))
    units = shared[kind]
    return Agreement(alpha(units, ordinal=kind == "scores"), _same(units), kind, len(units))


def krippendorff_alpha(judgements: Judgements) -> float:
    """``agreement(judgements).alpha``."""
    return agreement(judgements).alpha


def _values(verdict: Verdict) -> tuple[Kind, Mapping[Hashable, float]]:
    """What a verdict says, as numbers by unit."""
    if verdict.choice is not None:
        return "choice", {"": -1.0 if verdict.choice == TIE else float(verdict.choice)}
    if verdict.ranking is not None:
        return "ranking", {(a, b): won for a, b, won in verdict.pairs()}
    return "scores", dict(enumerate(map(float, verdict.scores or ())))


def alpha(units: Units, ordinal: bool = False) -> float:
    """Krippendorff's alpha.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), nominal and ordinal.

    Args:
        units: for each unit the values that annotators gave it, two or more.
        ordinal: whether values have an order; otherwise they are equal or not.

    Returns:
        nan without units, and where all values are equal.
    """
    coincidences: dict[tuple[float, float], float] = defaultdict(float)
    for values in units:
        counts = Counter(values)
        for a, of_a in counts.items():
            for b, of_b in counts.items():
                coincidences[a, b] += of_a * (of_b - (a == b)) / (len(values) - 1)
    categories = sorted({a for a, _ in coincidences})  # C
    if len(categories) < 2:
        return math.nan
    place = {value: k for k, value in enumerate(categories)}
    observed = np.zeros((len(categories), len(categories)))  # (C, C)
    for (a, b), weight in coincidences.items():
        observed[place[a], place[b]] = weight
    totals = observed.sum(0)  # (C,)
    distance = _ordinal_distance(totals) if ordinal else 1 - np.eye(len(categories))
    expected = float((np.outer(totals, totals) * distance).sum()) / (totals.sum() - 1)
    return 1 - float((observed * distance).sum()) / expected


def _ordinal_distance(totals: np.ndarray) -> np.ndarray:
    """Squared number of values between two categories, half of each of them included: (C,) -> (C, C)."""
    middle = np.cumsum(totals) - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2


def _same(units: Units) -> Share:
    """How many of all pairs of values of a unit are equal."""
    equal = pairs = 0
    for values in units:
        equal += sum(n * (n - 1) // 2 for n in Counter(values).values())
        pairs += len(values) * (len(values) - 1) // 2
    return wilson(equal, pairs)


def self_agreement(judgements: Judgements, annotator: str) -> tuple[float, int]:
    """How often an annotator said the same of a repeated item as the first time.

    Returns:
        The share (nan where nothing was repeated), and the number of repeats.
    """
    return self_agreements(judgements).get(annotator, (math.nan, 0))


def self_agreements(judgements: Judgements) -> dict[str | None, tuple[float, int]]:
    """``self_agreement`` of everybody who has judged."""
    first: dict[tuple[str | None, Hashable], Verdict] = {}
    same: dict[str | None, list[bool]] = defaultdict(list)
    for verdict in verdicts_of(judgements):
        earlier = first.setdefault((verdict.annotator, verdict.item), verdict)
        own = same[verdict.annotator]
        if verdict.repeated and earlier is not verdict:
            own.append(earlier.said == verdict.said)
    return {name: (float(np.mean(own)) if own else math.nan, len(own)) for name, own in same.items()}


def first_shown(judgements: Judgements) -> Share:
    """How often the response that was shown first was preferred, of all judgements of two that preferred one.

    The order on the screen is drawn for each person and item: without a bias of position it is one half.
    """
    wins = [
        v.preferred == v.shown[0]
        for v in verdicts_of(judgements)
        if len(v.shown) == 2 and v.preferred not in (None, TIE)
    ]
    return wilson(sum(wins), len(wins))


def swapped_agreement(judgements: Judgements) -> Share:
    """How often the same was said of an item that came again with its responses in another order."""
    first: dict[tuple[str | None, Hashable], Verdict] = {}
    same = []
    for verdict in verdicts_of(judgements):
        earlier = first.setdefault((verdict.annotator, verdict.item), verdict)
        if verdict.repeated and earlier.shown and earlier.shown != verdict.shown:
            same.append(earlier.said == verdict.said)
    return wilson(sum(same), len(same))


def win_rates(judgements: Judgements) -> dict[str, tuple[float, int]]:
    """How often each policy's response was preferred over another's; ties count half.

    Policies are those of ``provenance["policies"]``, one for each response; without it the position in the item's order
    stands for them (``"response 1"``). Two responses of one policy say nothing of it.

    Returns:
        For each policy the share of its pairs that it won, and the number of pairs.
    """
    won: dict[str, float] = defaultdict(float)
    pairs: Counter[str] = Counter()
    for verdict in verdicts_of(judgements):
        names = verdict.policies
        for a, b, share in verdict.pairs():
            if names[a] != names[b]:
                won[names[a]] += share
                won[names[b]] += 1 - share
                pairs.update((names[a], names[b]))
    return {name: (won[name] / pairs[name], pairs[name]) for name in sorted(pairs)}
