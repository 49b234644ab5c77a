"""Progress: how many items each annotator has judged and skipped, and how many are left.

Tallies are kept, so that reading them costs the same however many items there are. Each change of an item's judgements
moves it from one tally to another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, and_, insert, select, update

from mmenv.feedback.store.schema import annotators, items, judgements, state, tallies

EVERYBODY = 0  # in the tallies: all items, whoever judged them
NOBODY = -1  # an annotator without a judgement
_CHUNK = 500  # values in one query


@dataclass(frozen=True)
class Counts:
    """Progress of an annotator.

    Attributes:
        total: all items.
        judged, skipped: by this annotator.
        left: items that this annotator may still judge, including those that others hold.
        held: how many of these are with others at present; they come back if they are not answered.
        changes: grows with each judgement and each undone one of anybody, so that the later of two counts is known.
    """

    total: int
    judged: int
    skipped: int
    left: int
    held: int = 0
    changes: int = field(default=0, compare=False)


class Answer(NamedTuple):
    """The part of a judgement that the tallies need."""

    annotator_id: int
    created: str
    skipped: bool
    repeated: bool


class Tally(NamedTuple):
    """A tally that counts an item: an annotator, the item's judges, and whether this annotator skipped it."""

    annotator_id: int
    judges: int
    skipped: bool


def annotator_counts(connection: Connection, annotator_id: int, overlap: int) -> dict[str, int]:
    """``total``, ``judged``, ``skipped`` and ``left`` of ``Counts``."""
    t = tallies.c
    rows = connection.execute(select(tallies).where(t.annotator_id.in_([EVERYBODY, annotator_id]))).all()
    mine = [row for row in rows if row.annotator_id == annotator_id]
    everybody = [row for row in rows if row.annotator_id == EVERYBODY]
    below_overlap = sum(row.number for row in everybody if row.judges < overlap)
    return {
        "total": sum(row.number for row in everybody),
        "judged": sum(row.number for row in mine if not row.skipped),
        "skipped": sum(row.number for row in mine if row.skipped),
        "left": below_overlap - sum(row.number for row in mine if row.judges < overlap),
    }


def annotator_totals(connection: Connection) -> list[tuple[str, int, int]]:
    """Name, judged and skipped items of each annotator who has answered."""
    t, who = tallies.c, annotators.c
    rows = connection.execute(select(who.name, t.skipped, t.number).join(tallies, t.annotator_id == who.id))
    totals: dict[str, list[int]] = {}
    for name, skipped, number in rows.all():
        totals.setdefault(name, [0, 0])[skipped] += number
    return [(name, judged, skipped) for name, (judged, skipped) in sorted(totals.items()) if judged or skipped]


def read_answers(connection: Connection, item_ids: set[int]) -> dict[int, list[Answer]]:
    """The judgements and skips of each item that are not undone, in the order recorded."""
    j, ordered = judgements.c, sorted(item_ids)
    answers: dict[int, list[Answer]] = {item_id: [] for item_id in ordered}
    query = select(j.item_id, j.annotator_id, j.created, j.skipped, j.repeated).order_by(j.id)
    for start in range(0, len(ordered), _CHUNK):
        chunk = query.where(j.item_id.in_(ordered[start : start + _CHUNK]), ~j.undone)
        for item_id, *columns in connection.execute(chunk):
            answers[item_id].append(Answer(*columns))
    return answers


def tallies_of(answers: Sequence[Answer]) -> Counter[Tally]:
    """The tallies that count an item with these answers."""
    judges = len({answer.annotator_id for answer in answers if not answer.skipped})
    skipped_by = {answer.annotator_id: answer.skipped for answer in reversed(answers) if not answer.repeated}
    counted = Counter({Tally(EVERYBODY, judges, False): 1})
    counted.update(Tally(annotator_id, judges, skipped) for annotator_id, skipped in skipped_by.items())
    return counted


def count_new_items(connection: Connection, number: int) -> None:
    """Count items that were just added and have no judgement."""
    _add(connection, Counter({Tally(EVERYBODY, 0, False): number}))


def recount(
    connection: Connection, before: Mapping[int, Counter[Tally]], after: Mapping[int, Counter[Tally]], changes: int
) -> None:
    """Update the tallies, and the number of judges of each item, after so many changes of judgements."""
    difference: Counter[Tally] = Counter()
    moved: dict[int, list[int]] = defaultdict(list)
    for item_id, counted in after.items():
        difference.update(counted)
        difference.subtract(before[item_id])
        judges = _judges(counted)
        if judges != _judges(before[item_id]):
            moved[judges].append(item_id)
    for judges, item_ids in moved.items():
        for start in range(0, len(item_ids), _CHUNK):
            chunk = items.c.id.in_(item_ids[start : start + _CHUNK])
            connection.execute(update(items).where(chunk).values(judges=judges))
    _add(connection, difference)
    connection.execute(update(state).values(changes=state.c.changes + changes))


def _judges(counted: Counter[Tally]) -> int:
    return next(tally.judges for tally in counted if tally.annotator_id == EVERYBODY)


def _add(connection: Connection, difference: Counter[Tally]) -> None:
    t = tallies.c
    for tally, number in difference.items():
        if not number:
            continue
        row = and_(t.annotator_id == tally.annotator_id, t.judges == tally.judges, t.skipped == tally.skipped)
        updated = connection.execute(update(tallies).where(row).values(number=t.number + number))
        if not updated.rowcount:
            connection.execute(insert(tallies).values(**tally._asdict(), number=number))
