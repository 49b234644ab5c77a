"""How far annotators agree, with each other and with themselves, and which policy they prefer."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmenv.feedback.comparison import TIE
from mmenv.feedback.judgement import KINDS, JudgementRecord, Judgements, Kind, judgement_records
from mmenv.statistics import Share, wilson

Units = Sequence[Sequence[float]]


class Agreement(NamedTuple):
    """How far annotators agree on the items that several of them judged.

    Attributes:
        alpha: Krippendorff's; 1 is perfect, 0 is chance, below 0 is less. nan if no item has two judgements, or if all
            judgements are equal, so that chance cannot be estimated: read ``same`` then.
        same: how often two annotators judged the same unit equally.
        kind: what was compared: choices (a unit is an item), rankings (a pair of responses) or scores (a response).
        units: how many were judged by two annotators or more.
    """

    alpha: float
    same: Share
    kind: Kind
    units: int


def agreement(judgements: Judgements) -> Agreement:
    """Agreement of annotators; of an annotator's judgements of an item the first counts, repeats do not.

    Grades are ordinal; of a ranking each pair of responses is compared (which of them is better); choices are nominal
    (the index of the preferred response in the item's order, or a tie). If there are several kinds of judgements, the
    kind with the most units that two or more judged is taken.
    """
    values: dict[Kind, dict[Hashable, dict[str | None, float]]] = {kind: defaultdict(dict) for kind in KINDS}
    for record in judgement_records(judgements):
        if not record.repeated:
            kind, value_of = _unit_values(record)
            for unit, value in value_of.items():
                values[kind][record.item, unit].setdefault(record.annotator, value)
    shared = {kind: [list(by.values()) for by in units.values() if len(by) > 1] for kind, units in values.items()}
    kind = max(shared, key=lambda kind: len(shared[kind]))
    units = shared[kind]
    return Agreement(alpha(units, ordinal=kind == "scores"), _share_of_equal_pairs(units), kind, len(units))


def _unit_values(record: JudgementRecord) -> tuple[Kind, Mapping[Hashable, float]]:
    """The kind of a judgement, and its value for each unit."""
    if record.choice is not None:
        return "choice", {"": -1.0 if record.choice == TIE else float(record.choice)}
    if record.ranking is not None:
        return "ranking", {(a, b): win for a, b, win in record.pair_wins()}
    return "scores", dict(enumerate(map(float, record.scores or ())))


def alpha(units: Units, ordinal: bool = False) -> float:
    """Krippendorff's alpha.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), nominal and ordinal.

    Args:
        units: for each unit the values that annotators gave it, two or more.
        ordinal: whether values have an order; otherwise they are equal or not.

    Returns:
        nan without units, and if all values are equal.
    """
    categories = sorted({value for values in units for value in values})  # C
    if len(categories) < 2:
        return math.nan
    index = {value: k for k, value in enumerate(categories)}
    observed = np.zeros((len(categories), len(categories)))  # (C, C), coincidences
    for values in units:
        counts = Counter(values)
        for a, number_a in counts.items():
            for b, number_b in counts.items():
                observed[index[a], index[b]] += number_a * (number_b - (a == b)) / (len(values) - 1)
    totals = observed.sum(0)  # (C,)
    distance = _ordinal_distance(totals) if ordinal else 1 - np.eye(len(categories))
    expected = float((np.outer(totals, totals) * distance).sum()) / (totals.sum() - 1)
    return 1 - float((observed * distance).sum()) / expected


def _ordinal_distance(totals: np.ndarray) -> np.ndarray:
    """Squared number of values between two categories, half of each of them included: (C,) -> (C, C)."""
    middle = np.cumsum(totals) - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2


def _share_of_equal_pairs(units: Units) -> Share:
    """How many of all pairs of values of a unit are equal."""
    equal = pairs = 0
    for values in units:
        equal += sum(n * (n - 1) // 2 for n in Counter(values).values())
        pairs += len(values) * (len(values) - 1) // 2
    return wilson(equal, pairs)


def self_agreement(judgements: Judgements) -> dict[str | None, tuple[float, int]]:
    """How often each annotator with repeated items judged them as the first time.

    Returns:
        By annotator, the share of equal judgements, and the number of repeats.
    """
    equal: dict[str | None, list[bool]] = defaultdict(list)
    for first, again in _repeats(judgements):
        equal[again.annotator].append(first.answer == again.answer)
    return {annotator: (float(np.mean(values)), len(values)) for annotator, values in equal.items()}


def swapped_agreement(judgements: Judgements) -> Share:
    """How often an item that came again with its responses in another order was judged as before."""
    equal = [
        first.answer == again.answer
        for first, again in _repeats(judgements)
        if first.shown and first.shown != again.shown
    ]
    return wilson(sum(equal), len(equal))


def _repeats(judgements: Judgements) -> Iterator[tuple[JudgementRecord, JudgementRecord]]:
    """An annotator's first judgement of an item, with each repeat of it."""
    first: dict[tuple[str | None, Hashable], JudgementRecord] = {}
    for record in judgement_records(judgements):
        earlier = first.setdefault((record.annotator, record.item), record)
        if record.repeated and earlier is not record:
            yield earlier, record


def first_shown(judgements: Judgements) -> Share:
    """How often the response shown first was preferred, of all judgements between two that preferred one.

    The order on the screen is drawn for each annotator and item: without a position bias it is one half.
    """
    wins = [
        record.preferred == record.shown[0]
        for record in judgement_records(judgements)
        if len(record.shown) == 2 and record.preferred not in (None, TIE)
    ]
    return wilson(sum(wins), len(wins))


def win_rates(judgements: Judgements) -> dict[str, tuple[float, int]]:
    """How often each policy's response was preferred over another policy's; a tie counts half.

    Policies are those of ``provenance["policies"]``, one for each response; without it, the position in the item's
    order stands for them (``"response 1"``). Pairs of one policy are left out.

    Returns:
        By policy, the share of its pairs that it won, and the number of pairs.
    """
    wins: dict[str, float] = defaultdict(float)
    pairs: Counter[str] = Counter()
    for record in judgement_records(judgements):
        names = record.policies
        for a, b, win in record.pair_wins():
            if names[a] != names[b]:
                wins[names[a]] += win
                wins[names[b]] += 1 - win
                pairs.update((names[a], names[b]))
    return {name: (wins[name] / pairs[name], pairs[name]) for name in sorted(pairs)}
