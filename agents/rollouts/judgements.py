"""What the judgements of a file state, as pairs or as labels of single responses, for offline algorithms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import ComparisonLines
from mmenv.feedback.comparison_media import sample_of

J = TypeVar("J")


def read_stated(
    path: Path,
    reading: ComparisonLines,
    states: Callable[[Comparison], list[J]],
    unit: tuple[str, str],
    say: Callable[[str], None],
) -> list[tuple[Sample, list[Response], list[J]]]:
    """What each judgement states, with sample and responses; a message counts those that state nothing.

    Args:
        path: of the file; media are relative to its folder.
        reading: its lines.
        states: what a judgement states of its responses.
        unit: the names of what is stated, for the messages: of many, and of one.
        say: takes the message.

    Raises:
        ValueError: the file states nothing.
    """
    many, one = unit
    stated: list[tuple[Sample, list[Response], list[J]]] = []
    skipped = Counter[str]()
    for comparison in reading.comparisons:
        items = states(comparison) if comparison.decided else []
        if items:
            stated.append((sample_of(comparison, path.parent), comparison.as_responses(), items))
        else:
            skipped[_why_skipped(comparison)] += 1
    number = sum(len(items) for _, _, items in stated)
    notes = [f"{len(stated):,} judgements state {number:,} {many}", *(f"{n:,} {why}" for why, n in skipped.items())]
    if reading.faults:
        first = reading.faults[0]
        notes.append(f"{len(reading.faults):,} lines cannot be read, as line {first.line}: {first.reason}")
    if not stated:
        raise ValueError(f"{path} holds no {one} ({'; '.join(notes)}): label it first")
    say(f"{path}: {'; '.join(notes)}")
    return stated


def _why_skipped(comparison: Comparison) -> str:
    """Why a comparison states nothing."""
    if not comparison.decided:
        return "are not judged yet"
    return "are of a single response" if len(comparison.responses) == 1 else "are ties"
