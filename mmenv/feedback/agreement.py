"""How far people agree, with each other and with their earlier selves, and which policy they prefer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from mmenv.feedback.comparison import TIE, Choice, Comparison, ordered
from mmenv.feedback.identity import identity
from mmenv.feedback.shares import Share, wilson

Judgements = Sequence[Comparison]


def preferred(judgement: Comparison) -> Choice:
    """The response that a judgement puts first, ``"tie"`` where several share that place, or None."""
    if judgement.choice is not None:
        return judgement.choice
    if judgement.ranking is not None:
        return judgement.ranking[0]
    if judgement.scores is None:
        return None
    best = [i for i, score in enumerate(judgement.scores) if score == max(judgement.scores)]
    return best[0] if len(best) == 1 else TIE


def krippendorff_alpha(judgements: Judgements) -> float:
    """Krippendorff's alpha, nominal, of the preferred response (its index in the item's order, or a tie).

    Source: Krippendorff, Content Analysis (2004), chapter 11. Repeats do not count: each annotator speaks once of an
    item, first come.

    Returns:
        1 for perfect agreement, 0 for chance, below for less; nan where no item has two annotators, or where everybody
        always said the same, so that there is no chance to compare with.
    """
    said: dict[str, dict[str | None, float]] = defaultdict(dict)
    for judgement in judgements:
        choice = preferred(judgement)
        if choice is not None and not judgement.provenance.get("repeat"):
            value = -1.0 if choice == TIE else float(choice)
            said[identity(judgement)].setdefault(judgement.annotator, value)
    shared = [values for values in said.values() if len(values) > 1]
    if len({value for values in shared for value in values.values()}) < 2:
        return float("nan")
    try:
        from krippendorff import alpha
    except ModuleNotFoundError as error:
        raise ImportError('krippendorff is missing: pip install -c constraints.txt -e ".[labelling]"') from error
    annotators = sorted({name for values in shared for name in values}, key=str)
    table = np.array([[values.get(name, np.nan) for values in shared] for name in annotators])  # (annotators, items)
    return float(alpha(reliability_data=table, level_of_measurement="nominal"))


def self_agreement(judgements: Judgements, annotator: str) -> tuple[float, int]:
    """How often an annotator said the same of a repeated item as the first time.

    Returns:
        The share (nan where nothing was repeated), and the number of repeats.
    """
    first: dict[str, Comparison] = {}
    same = []
    for judgement in judgements:
        if judgement.annotator != annotator:
            continue
        earlier = first.setdefault(identity(judgement), judgement)
        if judgement.provenance.get("repeat") and earlier is not judgement:
            same.append(_said(earlier) == _said(judgement))
    return (float(np.mean(same)) if same else float("nan")), len(same)


def first_shown(judgements: Judgements) -> Share:
    """How often the response that was shown first was preferred, of all judgements of two that preferred one.

    The order on the screen is drawn for each person and item: without a bias of position it is one half.
    """
    wins = [
        preferred(j) == order[0] for j in judgements if len(order := _order(j)) == 2 and preferred(j) not in (None, TIE)
    ]
    return wilson(sum(wins), len(wins))


def swapped_agreement(judgements: Judgements) -> Share:
    """How often the same was said of an item that came again with its responses in another order."""
    first: dict[tuple[str | None, str], Comparison] = {}
    same = []
    for judgement in judgements:
        earlier = first.setdefault((judgement.annotator, identity(judgement)), judgement)
        if judgement.provenance.get("repeat") and _order(earlier) and _order(earlier) != _order(judgement):
            same.append(_said(earlier) == _said(judgement))
    return wilson(sum(same), len(same))


def win_rates(judgements: Judgements) -> dict[str, tuple[float, int]]:
    """How often each policy's response was preferred over another's; ties count half.

    Policies are those of ``provenance["policies"]``, one for each response; without it the position in the item's order
    stands for them (``"response 1"``). Two responses of one policy say nothing of it.

    Returns:
        For each policy the share of its pairs that it won, and the number of pairs.
    """
    won: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        names = _policies(judgement)
        for a, b, share in _pairs(judgement):
            if names[a] != names[b]:
                won[names[a]].append(share)
                won[names[b]].append(1 - share)
    return {name: (float(np.mean(won[name])), len(won[name])) for name in sorted(won)}


def _order(judgement: Comparison) -> list[int]:
    """The order on the screen; empty where it is not known."""
    return list(judgement.provenance.get("order") or ())


def _said(judgement: Comparison) -> tuple[object, ...]:
    return judgement.choice, judgement.ranking, judgement.scores


def _policies(judgement: Comparison) -> list[str]:
    n, named = len(judgement.responses), judgement.provenance.get("policies")
    if isinstance(named, list | tuple) and len(named) == n:
        return [str(name) for name in named]
    return [f"response {i + 1}" for i in range(n)]


def _pairs(judgement: Comparison) -> Iterator[tuple[int, int, float]]:
    """Pairs (a, b) that a judgement speaks of, with what a won: 1, 0, or half in a tie."""
    n, better, scores = len(judgement.responses), set(ordered(judgement)), judgement.scores
    for a in range(n):
        for b in range(a + 1, n):
            level = scores is not None and judgement.choice is None and judgement.ranking is None
            if (a, b) in better or (b, a) in better:
                yield a, b, float((a, b) in better)
            elif judgement.choice == TIE or (level and scores is not None and scores[a] == scores[b]):
                yield a, b, 0.5
