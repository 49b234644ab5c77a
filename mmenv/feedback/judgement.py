"""Judgements as statistics need them: the annotator, the item and the answer, without prompts and media."""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable, Iterable
from typing import Literal, NamedTuple

from mmenv.feedback.comparison import TIE, Choice, Comparison, preference_pairs
from mmenv.feedback.identity import identity

Kind = Literal["choice", "ranking", "scores"]
KINDS: tuple[Kind, ...] = ("choice", "ranking", "scores")


class JudgementRecord(NamedTuple):
    """A judgement of an item.

    Attributes:
        item: the same for all judgements of an item.
        annotator: name, or None.
        responses: how many the item has.
        choice, ranking, scores: the answer, over the responses in the item's order.
        shown: indices in the order on the screen; empty if it is unknown.
        repeated: whether the annotator had judged the item before.
        policies: names of the responses' policies, or of their positions.
        seconds: time that the annotator took; None if it is unknown.
    """

    item: Hashable
    annotator: str | None
    responses: int
    choice: Choice
    ranking: tuple[int, ...] | None
    scores: tuple[float, ...] | None
    shown: tuple[int, ...]
    repeated: bool
    policies: tuple[str, ...]
    seconds: float | None = None

    @property
    def answer(self) -> tuple[object, ...]:
        """Choice, ranking and scores, to compare two judgements."""
        return self.choice, self.ranking, self.scores

    @property
    def preferred(self) -> Choice:
        """Index of the best response, ``"tie"`` if several are best, or None."""
        if self.choice is not None:
            return self.choice
        if self.ranking is not None:
            return self.ranking[0]
        if self.scores is None:
            return None
        best = [i for i, score in enumerate(self.scores) if score == max(self.scores)]
        return best[0] if len(best) == 1 else TIE

    def pair_wins(self) -> list[tuple[int, int, float]]:
        """Pairs (a, b, win) of responses that were compared; win is 1 if a is better, 0 if b is, and 1/2 for a tie."""
        n = self.responses
        better = set(preference_pairs(n, self.choice, self.ranking, self.scores))
        scores = self.scores if self.choice is None and self.ranking is None else None
        wins = []
        for a in range(n):
            for b in range(a + 1, n):
                if (a, b) in better or (b, a) in better:
                    wins.append((a, b, float((a, b) in better)))
                elif self.choice == TIE or (scores is not None and scores[a] == scores[b]):
                    wins.append((a, b, 0.5))
        return wins


Judgements = Iterable[Comparison | JudgementRecord]


def judgement_record(comparison: Comparison) -> JudgementRecord:
    """What statistics need of a decided comparison."""
    provenance, n = comparison.provenance, len(comparison.responses)
    return JudgementRecord(
        item=identity(comparison),
        annotator=comparison.annotator,
        responses=n,
        choice=comparison.choice,
        ranking=comparison.ranking,
        scores=comparison.scores,
        shown=tuple(provenance.get("order") or ()),
        repeated=provenance.get("repeat") is True,
        policies=policy_names(policies_json(comparison), n),
        seconds=provenance.get("seconds"),
    )


def judgement_records(judgements: Judgements) -> list[JudgementRecord]:
    """``judgement_record`` of each, unless it is one already."""
    return [j if isinstance(j, JudgementRecord) else judgement_record(j) for j in judgements]


def policies_json(comparison: Comparison) -> str | None:
    """The policies of the responses as JSON; None unless the provenance names one for each."""
    names = comparison.provenance.get("policies")
    if isinstance(names, list | tuple) and len(names) == len(comparison.responses):
        return json.dumps([str(name) for name in names])
    return None


@functools.lru_cache(4096)
def policy_names(text: str | None, responses: int) -> tuple[str, ...]:
    """The names in the text of ``policies_json``, or those of the positions."""
    return tuple(f"response {i + 1}" for i in range(responses)) if text is None else tuple(json.loads(text))
