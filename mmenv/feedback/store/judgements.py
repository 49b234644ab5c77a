"""Judgements in the store: checking, writing, undoing and reading them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, bindparam, delete, insert, select, update

from mmenv.feedback.comparison import Comparison, ComparisonError, check_judgement, now
from mmenv.feedback.identity import json_digest
from mmenv.feedback.judgement import JudgementRecord, policy_names
from mmenv.feedback.store.annotators import annotator_number, check_text, checked_name, normalised_name
from mmenv.feedback.store.items import Item, MediaFolders, item_of
from mmenv.feedback.store.progress import Answer, read_answers, recount, tallies_of
from mmenv.feedback.store.schema import annotators, items, judgements, leases

CREATED_LENGTH = 40  # of the column
MAX_SECONDS = 1e9  # thirty years
_CHUNK = 500  # values in one query


class JudgedItem(NamedTuple):
    """An item, and its comparison with a judgement."""

    item: Item
    comparison: Comparison


@dataclass(frozen=True)
class NewJudgement:
    """A judgement to write.

    Attributes:
        item_id, annotator_id: of the judgement.
        columns: key, created, choice, ranking, scores, skipped, shown, seconds.
        repeat: whether the annotator was shown the item again.
        merged: whether it comes from elsewhere: then the same annotator, item and time are the same judgement.
    """

    item_id: int
    annotator_id: int
    columns: Mapping[str, Any]
    repeat: bool = False
    merged: bool = False


def check_new(n: int, columns: Mapping[str, Any]) -> None:
    """Check that a judgement fits ``n`` responses, and that it is either an answer or a skip.

    Raises:
        ComparisonError: names the value and the remedy.
    """
    answer = {key: columns[key] for key in ("choice", "ranking", "scores")}
    check_judgement(n, **answer)
    if columns["skipped"] == any(value is not None for value in answer.values()):
        raise ComparisonError("give either a choice, a ranking or scores, or skipped=True")
    _check_circumstances(n, columns["shown"], columns["seconds"])


def check_mergeable(comparison: Comparison, annotator: str) -> None:
    """Check that the store can take a comparison's judgement, if it holds one.

    Raises:
        ComparisonError: names the value and the remedy.
    """
    if comparison.decided:
        provenance = comparison.provenance
        checked_name(annotator)
        check_text("created", comparison.created or now(), CREATED_LENGTH)
        _check_circumstances(len(comparison.responses), provenance.get("order"), provenance.get("seconds"))


def _check_circumstances(n: int, order: Any, seconds: Any) -> None:
    is_list = isinstance(order, list | tuple) and all(isinstance(i, int) for i in order)
    if order and not (is_list and sorted(order) == list(range(n))):
        raise ComparisonError(f"order {order!r} does not name each of {n} responses once: give the order shown")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and 0 <= seconds <= MAX_SECONDS):
        raise ComparisonError(f"seconds {str(seconds)[:40]} is not a time: give 0 to {MAX_SECONDS:,.0f}")


def merge(connection: Connection, judged: Sequence[tuple[int, Comparison]], annotator: str) -> int:
    """Write judgements from elsewhere, each with its item's number, unless they are here already; how many were new.

    Their keys are made of their content; ``annotator`` is the name for those without one.
    """
    names = sorted({comparison.annotator or annotator for _, comparison in judged})
    numbers = {name: annotator_number(connection, name) for name in names}
    new = []
    for item_id, comparison in judged:
        name, row, provenance = comparison.annotator or annotator, comparison.to_row(), comparison.provenance
        content = {key: row.get(key) for key in ("choice", "ranking", "scores", "created")}
        columns = {
            "key": "merged-" + json_digest({**content, "item": item_id, "annotator": name}),
            "created": comparison.created or now(),
            "choice": comparison.choice,
            "ranking": comparison.ranking,
            "scores": comparison.scores,
            "skipped": False,
            "shown": provenance.get("order") or None,
            "seconds": provenance.get("seconds"),
        }
        repeat = provenance.get("repeat") is True
        new.append(NewJudgement(item_id, numbers[name], columns, repeat, merged=True))
    return sum(write(connection, new))


def write(connection: Connection, new: Sequence[NewJudgement]) -> list[bool]:
    """Write judgements, except those with a known key, and second ones of an item that was not shown again.

    Returns:
        For each whether it was written.
    """
    keys = _stored_keys(connection, [judgement.columns["key"] for judgement in new])
    answers = read_answers(connection, {judgement.item_id for judgement in new})
    before = {item_id: tallies_of(earlier) for item_id, earlier in answers.items()}
    rows = [_row_of(judgement, answers[judgement.item_id], keys) for judgement in new]
    written = [row for row in rows if row is not None]
    if written:
        connection.execute(insert(judgements), written)
        for row in written:
            if row["repeated"]:
                _mark_repeatable(connection, row["item_id"], row["annotator_id"], False)
            if row["skipped"]:
                _reopen(connection, row["item_id"], row["annotator_id"])
        _end_leases(connection, written)
        after = {item_id: tallies_of(current) for item_id, current in answers.items()}
        recount(connection, before, after, len(written))
    return [row is not None for row in rows]


def _row_of(new: NewJudgement, answers: list[Answer], keys: set[str]) -> dict[str, Any] | None:
    """The row of a judgement, which is added to ``answers`` and ``keys``; None if it is not to be written."""
    columns = new.columns
    earlier = [answer for answer in answers if answer.annotator_id == new.annotator_id]
    if columns["key"] in keys or (new.merged and any(answer.created == columns["created"] for answer in earlier)):
        return None
    if earlier and not new.repeat:
        return None
    repeated, skipped = bool(earlier), bool(columns["skipped"])
    keys.add(columns["key"])
    answers.append(Answer(new.annotator_id, columns["created"], skipped, repeated))
    as_json = {key: _to_json(columns[key]) for key in ("choice", "ranking", "scores", "shown")}
    ids = {"item_id": new.item_id, "annotator_id": new.annotator_id}
    marks = {"undone": False, "repeated": repeated, "repeatable": not repeated and not skipped}
    return {**columns, **as_json, **ids, **marks}


def undo_last(connection: Connection, annotator_id: int) -> tuple[int, bool] | None:
    """Undo an annotator's last judgement or skip; None if there is none.

    If it was of a repeat, the first judgement may be repeated again.

    Returns:
        Its item's number, and whether it was of a repeat.
    """
    j = judgements.c
    mine = select(j.id, j.item_id, j.repeated).where(j.annotator_id == annotator_id, ~j.undone)
    last = connection.execute(mine.order_by(j.id.desc()).limit(1)).first()
    if last is None:
        return None
    before = tallies_of(read_answers(connection, {last.item_id})[last.item_id])
    undone = update(judgements).where(j.id == last.id)
    connection.execute(undone.values(undone=True, repeatable=False))
    if last.repeated:
        _mark_repeatable(connection, last.item_id, annotator_id, True)
    after = tallies_of(read_answers(connection, {last.item_id})[last.item_id])
    recount(connection, {last.item_id: before}, {last.item_id: after}, 1)
    return last.item_id, last.repeated


def _stored_keys(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Those of the keys that the database has."""
    stored: set[str] = set()
    for start in range(0, len(keys), _CHUNK):
        chunk = judgements.c.key.in_(keys[start : start + _CHUNK])
        stored |= set(connection.scalars(select(judgements.c.key).where(chunk)))
    return stored


def _mark_repeatable(connection: Connection, item_id: int, annotator_id: int, repeatable: bool) -> None:
    """Set whether an annotator's first judgement of an item may be repeated."""
    j = judgements.c
    first = and_(j.item_id == item_id, j.annotator_id == annotator_id, ~j.repeated, ~j.skipped, ~j.undone)
    connection.execute(update(judgements).where(first).values(repeatable=repeatable))


def _end_leases(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """End the leases of annotators who have answered."""
    lease = leases.c
    answered = and_(lease.item_id == bindparam("of_item"), lease.annotator_id == bindparam("of_annotator"))
    pairs = [{"of_item": row["item_id"], "of_annotator": row["annotator_id"]} for row in rows]
    connection.execute(delete(leases).where(answered), pairs)


def _reopen(connection: Connection, item_id: int, annotator_id: int) -> None:
    """Let others look at a skipped item again: they may have passed it while this annotator held it."""
    others = and_(annotators.c.passed >= item_id, annotators.c.id != annotator_id)
    connection.execute(update(annotators).where(others).values(passed=item_id - 1))


def judged_rows(annotator: str | None) -> Select[Any]:
    """Judgements with their items and the names of their annotators, in the order recorded."""
    query = _in_order(select(judgements, annotators.c.name, items.c.content, items.c.folder))
    return query if annotator is None else query.where(annotators.c.name == normalised_name(annotator))


def _in_order(query: Select[Any]) -> Select[Any]:
    j = judgements.c
    query = query.join(annotators, annotators.c.id == j.annotator_id).join(items, items.c.id == j.item_id)
    return query.where(~j.undone, ~j.skipped).order_by(j.id)


def judged_item(row: Row[Any], items: dict[int, Item], folders: MediaFolders) -> JudgedItem:
    """The item and the judgement of a row; ``items`` holds the items read so far."""
    if row.item_id not in items:
        items[row.item_id] = item_of(row, folders, row.item_id)
    item = items[row.item_id]
    scores = _from_json(row.scores)
    shown = list(_from_json(row.shown) or ())
    comparison = replace(
        item.comparison,
        choice=_from_json(row.choice),
        ranking=_from_json(row.ranking),
        scores=None if scores is None else tuple(map(float, scores)),
        annotator=row.name,
        created=row.created,
        provenance={**item.comparison.provenance, "seconds": row.seconds, "order": shown, "repeat": row.repeated},
    )
    return JudgedItem(item, comparison)


def read_records(connection: Connection) -> list[JudgementRecord]:
    """All judgements as statistics need them, in the order recorded; prompts and media are not read."""
    j, i = judgements.c, items.c
    answer = (j.choice, j.ranking, j.scores, j.shown)
    query = select(j.item_id, annotators.c.name, i.responses, *answer, j.repeated, i.policies, j.seconds)
    records = []
    for item, name, n, choice, ranking, scores, shown, repeated, policies, seconds in connection.execute(
        _in_order(query)
    ):
        values = (_from_json(choice), _from_json(ranking), _from_json(scores), _from_json(shown) or ())
        records.append(JudgementRecord(item, name, n, *values, repeated, policy_names(policies, n), seconds))
    return records


def _to_json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


@functools.lru_cache(4096)
def _from_json(text: str | None) -> Any:
    """A JSON value, a list as a tuple; few different ones occur."""
    value = None if text is None else json.loads(text)
    return tuple(value) if isinstance(value, list) else value
