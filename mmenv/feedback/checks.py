"""What the feedback store takes: names, keys, judgements and what is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmenv.feedback.comparison import Comparison, ComparisonError, check_judgement, now

NAME_LENGTH, CREATED_LENGTH = 200, 40  # of the columns
MOST_SECONDS = 1e9  # thirty years


def check_judged(n: int, said: Mapping[str, Any], skipped: bool, order: Sequence[int], seconds: float | None) -> None:
    """Whether a judgement fits ``n`` responses and says something.

    Raises:
        ComparisonError: names the value and the remedy.
    """
    check_judgement(n, **said)
    if skipped == any(value is not None for value in said.values()):
        raise ComparisonError("give either a choice, a ranking or scores, or skipped=True")
    _check_circumstances(n, order, seconds)


def _check_circumstances(n: int, order: Any, seconds: Any) -> None:
    listed = isinstance(order, list | tuple) and all(isinstance(i, int) for i in order)
    if order and not (listed and sorted(order) == list(range(n))):
        raise ComparisonError(f"order {order!r} does not name each of {n} responses once: give the order shown")
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (number and 0 <= seconds <= MOST_SECONDS):
        raise ComparisonError(f"seconds {str(seconds)[:40]} is no time: give a number from 0 to {MOST_SECONDS:,.0f}")


def check_name(kind: str, name: str, length: int = NAME_LENGTH) -> str:
    """A name, where it will do.

    Raises:
        ComparisonError: it is empty, too long or not printable.
    """
    if not 0 < len(name) <= length or not name.isprintable():
        raise ComparisonError(f"{kind} {name[:40]!r} will not do: give 1 to {length} printable characters")
    return name


def check_said(comparison: Comparison, annotator: str) -> None:
    """Whether ``merge`` can take a judgement.

    Raises:
        ComparisonError: names the value and the remedy.
    """
    if comparison.decided:
        more = comparison.provenance
        check_name("annotator", annotator)
        check_name("created", comparison.created or now(), CREATED_LENGTH)
        _check_circumstances(len(comparison.responses), more.get("order"), more.get("seconds"))
