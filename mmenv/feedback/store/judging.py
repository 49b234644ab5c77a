"""Judgements as rows, and the counts that change with them: of judges of an item, and of an annotator's items."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, insert, select, update

from mmenv.feedback.store.schema import annotators, items, judgements, leases, state, tallies

EVERYBODY = 0  # in the tallies: all items, whoever judged them
NOBODY = -1  # an annotator without any judgement
_CHUNK = 500  # values that are looked up at once


@dataclass(frozen=True)
class Entry:
    """A judgement to be written.

    Attributes:
        item_id, annotator_id: whose, of what.
        values: columns of the judgement: key, created, choice, ranking, scores, skipped, shown, seconds.
        repeat: whether the annotator was shown the item again.
        merged: it comes from elsewhere: the same annotator, item and time are the same judgement.
    """

    item_id: int
    annotator_id: int
    values: Mapping[str, Any]
    repeat: bool = False
    merged: bool = False


class Place(NamedTuple):
    """Where a tally counts an item: an annotator, the item's judges, and whether this annotator skipped it."""

    annotator_id: int
    judges: int
    skipped: bool


class _Line(NamedTuple):
    """What is needed of a judgement to count it."""

    annotator_id: int
    created: str
    skipped: bool
    repeated: bool


def write(connection: Connection, entries: Sequence[Entry]) -> list[bool]:
    """Write those judgements that are new.

    One is not new where its key is known, and where the annotator has judged the item and was not shown it again.

    Returns:
        For each whether it was written.
    """
    known = _known(connection, judgements.c.key, [entry.values["key"] for entry in entries])
    lines = _lines(connection, {entry.item_id for entry in entries})
    before = {item_id: _places(standing) for item_id, standing in lines.items()}
    new = [_take(entry, lines[entry.item_id], known) for entry in entries]
    rows = [row for row in new if row is not None]
    if rows:
        connection.execute(insert(judgements), rows)
        repeats = [row for row in rows if row["repeated"]]
        _mark(connection, [(row["item_id"], row["annotator_id"]) for row in repeats], repeatable=False)
        _release(connection, rows)
        _reopen(connection, [row for row in rows if row["skipped"]])
        _recount(connection, before, {item_id: _places(standing) for item_id, standing in lines.items()}, len(rows))
    return [row is not None for row in new]


def _take(entry: Entry, standing: list[_Line], known: set[Any]) -> dict[str, Any] | None:
    """The row of a judgement, which from now on counts as written; None where it is not new."""
    values, own = entry.values, [line for line in standing if line.annotator_id == entry.annotator_id]
    if values["key"] in known or (entry.merged and any(line.created == values["created"] for line in own)):
        return None
    if own and not entry.repeat:
        return None
    repeated, skipped = bool(own), bool(values["skipped"])
    known.add(values["key"])
    standing.append(_Line(entry.annotator_id, values["created"], skipped, repeated))
    texts = {k: None if values[k] is None else json.dumps(values[k]) for k in ("choice", "ranking", "scores", "shown")}
    return {
        **values, **texts, "item_id": entry.item_id, "annotator_id": entry.annotator_id, "undone": False,
        "repeated": repeated, "repeatable": not repeated and not skipped,
    }  # fmt: skip


def undo(connection: Connection, judgement_id: int, item_id: int, annotator_id: int, repeated: bool) -> None:
    """Take a judgement back; where it was a repeat, the first one may be repeated again."""
    before = _places(_lines(connection, {item_id})[item_id])
    gone = update(judgements).where(judgements.c.id == judgement_id)
    connection.execute(gone.values(undone=True, repeatable=False))
    if repeated:
        _mark(connection, [(item_id, annotator_id)], repeatable=True)
    after = _places(_lines(connection, {item_id})[item_id])
    _recount(connection, {item_id: before}, {item_id: after}, 1)


def count_new_items(connection: Connection, number: int) -> None:
    """Count items that were just added and that nobody has judged."""
    _add(connection, Counter({Place(EVERYBODY, 0, False): number}))


def numbers_of(connection: Connection, annotator_id: int, overlap: int) -> dict[str, int]:
    """All items, and how many an annotator has judged, has skipped, and may still judge, as ``Counts`` names them."""
    t = tallies.c
    rows = connection.execute(select(tallies).where(t.annotator_id.in_([EVERYBODY, annotator_id]))).all()
    mine = [row for row in rows if row.annotator_id == annotator_id]
    everybody = [row for row in rows if row.annotator_id == EVERYBODY]
    few = sum(row.number for row in everybody if row.judges < overlap)
    return {
        "total": sum(row.number for row in everybody),
        "judged": sum(row.number for row in mine if not row.skipped),
        "skipped": sum(row.number for row in mine if row.skipped),
        "left": few - sum(row.number for row in mine if row.judges < overlap),
    }


def numbers_of_all(connection: Connection) -> list[tuple[str, int, int]]:
    """Name, judged and skipped items of each annotator who has answered."""
    t, who = tallies.c, annotators.c
    rows = connection.execute(select(who.name, t.skipped, t.number).join(tallies, t.annotator_id == who.id))
    found: dict[str, list[int]] = {}
    for name, skipped, number in rows.all():
        found.setdefault(name, [0, 0])[skipped] += number
    return [(name, judged, skipped) for name, (judged, skipped) in sorted(found.items()) if judged or skipped]


def _lines(connection: Connection, item_ids: set[int]) -> dict[int, list[_Line]]:
    """What has been said of each item and is not undone."""
    j, ordered = judgements.c, sorted(item_ids)
    lines: dict[int, list[_Line]] = {item_id: [] for item_id in ordered}
    columns = select(j.item_id, j.annotator_id, j.created, j.skipped, j.repeated).order_by(j.id)
    for start in range(0, len(ordered), _CHUNK):
        some = columns.where(j.item_id.in_(ordered[start : start + _CHUNK]), ~j.undone)
        for item_id, *line in connection.execute(some):
            lines[item_id].append(_Line(*line))
    return lines


def _known(connection: Connection, column: Any, values: Sequence[Any]) -> set[Any]:
    """Those values that a column holds already."""
    known: set[Any] = set()
    for start in range(0, len(values), _CHUNK):
        known |= set(connection.scalars(select(column).where(column.in_(values[start : start + _CHUNK]))))
    return known


def _places(standing: Iterable[_Line]) -> Counter[Place]:
    """Where the tallies count an item of which this was said."""
    standing = list(standing)
    judges = len({line.annotator_id for line in standing if not line.skipped})
    answered = {line.annotator_id: line.skipped for line in reversed(standing) if not line.repeated}
    places = Counter({Place(EVERYBODY, judges, False): 1})
    places.update(Place(annotator_id, judges, skipped) for annotator_id, skipped in answered.items())
    return places


def _recount(
    connection: Connection, before: Mapping[int, Counter[Place]], after: Mapping[int, Counter[Place]], changes: int
) -> None:
    """Bring the tallies, and the items' own numbers of judges, from one standing to another."""
    difference: Counter[Place] = Counter()
    moved: dict[int, list[int]] = defaultdict(list)
    for item_id, places in after.items():
        difference.update(places)
        difference.subtract(before[item_id])
        if (judges := _judges(places)) != _judges(before[item_id]):
            moved[judges].append(item_id)
    for judges, item_ids in moved.items():
        for start in range(0, len(item_ids), _CHUNK):
            some = items.c.id.in_(item_ids[start : start + _CHUNK])
            connection.execute(update(items).where(some).values(judges=judges))
    _add(connection, difference)
    connection.execute(update(state).values(changes=state.c.changes + changes))


def _judges(places: Counter[Place]) -> int:
    return next(place.judges for place in places if place.annotator_id == EVERYBODY)


def _add(connection: Connection, difference: Counter[Place]) -> None:
    t = tallies.c
    for place, number in difference.items():
        if not number:
            continue
        here = and_(t.annotator_id == place.annotator_id, t.judges == place.judges, t.skipped == place.skipped)
        done = connection.execute(update(tallies).where(here).values(number=t.number + number))
        if not done.rowcount:
            connection.execute(insert(tallies).values(**place._asdict(), number=number))


def _mark(connection: Connection, pairs: Sequence[tuple[int, int]], repeatable: bool) -> None:
    """Say of the first judgements of some items by some annotators whether they may be repeated."""
    j = judgements.c
    for item_id, annotator_id in pairs:
        first = and_(j.item_id == item_id, j.annotator_id == annotator_id, ~j.repeated, ~j.skipped, ~j.undone)
        connection.execute(update(judgements).where(first).values(repeatable=repeatable))


def _release(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """End the leases of those who have judged."""
    lease = leases.c
    mine = and_(lease.item_id == bindparam("of_item"), lease.annotator_id == bindparam("of_annotator"))
    pairs = [{"of_item": row["item_id"], "of_annotator": row["annotator_id"]} for row in rows]
    connection.execute(delete(leases).where(mine), pairs)


def _reopen(connection: Connection, skipped: Sequence[Mapping[str, Any]]) -> None:
    """Let others look again at an item that they passed while somebody held it who now has skipped it."""
    for row in skipped:
        others = and_(annotators.c.passed >= row["item_id"], annotators.c.id != row["annotator_id"])
        connection.execute(update(annotators).where(others).values(passed=row["item_id"] - 1))
