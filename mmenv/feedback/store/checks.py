"""What the feedback store takes: names, keys, judgements and what is told of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mmenv.feedback.comparison import Comparison, ComparisonError, check_judgement, now

NAME_LENGTH, CREATED_LENGTH = 200, 40  # of the columns
MOST_SECONDS = 1e9  # thirty years
_JOINERS = "\u200c\u200d"  # between the parts of an emoji, and between letters that a script would join

_TAGS = dict.fromkeys(range(0xE0020, 0xE0080))  # spell the region of a flag


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
    plain = name.translate({ord(joiner): None for joiner in _JOINERS} | _TAGS)
    if not 0 < len(name) <= length or not plain or not plain.isprintable():
        raise ComparisonError(f"{kind} {name[:40]!r} will not do: give 1 to {length} printable characters")
    return name


def normalised_name(name: str) -> str:
    """A name as the store has it: composed characters (NFC), no spaces or joiners around it.

    Who types an accent by itself is who types the letter with its accent.
    """
    return unicodedata.normalize("NFC", name).strip(" " + _JOINERS)


def proper_name(name: str) -> str:
    """The normalised name of an annotator.

    Raises:
        ComparisonError: it is empty, too long or not printable.
    """
    return check_name("annotator", normalised_name(name))


def check_said(comparison: Comparison, annotator: str) -> None:
    """Whether ``merge`` can take a judgement.

    Raises:
        ComparisonError: names the value and the remedy.
    """
    if comparison.decided:
        more = comparison.provenance
        proper_name(annotator)
        check_name("created", comparison.created or now(), CREATED_LENGTH)
        _check_circumstances(len(comparison.responses), more.get("order"), more.get("seconds"))
