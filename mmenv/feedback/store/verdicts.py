"""What statistics need of a judgement: who said what of which item, without prompts and media."""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from mmenv.feedback.comparison import TIE, Choice, Comparison, stated_pairs
from mmenv.feedback.store.identity import identity


class Verdict(NamedTuple):
    """A judgement of an item.

    Attributes:
        item: the same for judgements of the same item.
        annotator: who said it.
        responses: how many the item has.
        choice, ranking, scores: what was said, of the responses in the item's order.
        shown: indices in the order on the screen; empty where it is not known.
        repeated: whether the annotator had judged the item before.
        policies: names of the responses' policies, or of their positions.
        seconds: how long it took; None where it is not known.
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
    def said(self) -> tuple[object, ...]:
        """What was said, to be compared."""
        return self.choice, self.ranking, self.scores

    @property
    def preferred(self) -> Choice:
        """The response that is put first, ``"tie"`` where several share that place, or None."""
        if self.choice is not None:
            return self.choice
        if self.ranking is not None:
            return self.ranking[0]
        if self.scores is None:
            return None
        best = [i for i, score in enumerate(self.scores) if score == max(self.scores)]
        return best[0] if len(best) == 1 else TIE

    def pairs(self) -> list[tuple[int, int, float]]:
        """Pairs (a, b) of responses that were compared, with what a won: 1, 0, or half in a tie."""
        n, better = self.responses, set(stated_pairs(self.responses, self.choice, self.ranking, self.scores))
        level = self.scores if self.choice is None and self.ranking is None else None
        found = []
        for a in range(n):
            for b in range(a + 1, n):
                if (a, b) in better or (b, a) in better:
                    found.append((a, b, float((a, b) in better)))
                elif self.choice == TIE or (level is not None and level[a] == level[b]):
                    found.append((a, b, 0.5))
        return found


def verdict_of(judgement: Comparison) -> Verdict:
    """What statistics need of a decided comparison."""
    more = judgement.provenance
    return Verdict(
        identity(judgement), judgement.annotator, len(judgement.responses), judgement.choice, judgement.ranking,
        judgement.scores, tuple(more.get("order") or ()), more.get("repeat") is True,
        policy_names(policies_of(judgement), len(judgement.responses)), more.get("seconds"),
    )  # fmt: skip


def verdicts_of(judgements: Iterable[Comparison | Verdict]) -> list[Verdict]:
    """``verdict_of`` each, where it is not one already."""
    return [j if isinstance(j, Verdict) else verdict_of(j) for j in judgements]


def policies_of(comparison: Comparison) -> str | None:
    """The policies of the responses as JSON, where the provenance names one for each."""
    named = comparison.provenance.get("policies")
    if isinstance(named, list | tuple) and len(named) == len(comparison.responses):
        return json.dumps([str(name) for name in named])
    return None


@functools.lru_cache(4096)
def policy_names(text: str | None, responses: int) -> tuple[str, ...]:
    """The names that ``policies_of`` wrote, or those of the positions."""
    return tuple(f"response {i + 1}" for i in range(responses)) if text is None else tuple(json.loads(text))
