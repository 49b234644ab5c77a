"""What the store hands out: items, counts, judgements; and how they are made of the database's rows."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, select

from mmenv.feedback.comparison import Comparison, media_paths, now
from mmenv.feedback.store import judging, schema
from mmenv.feedback.store.checks import normalised_name
from mmenv.feedback.store.database import StoreError
from mmenv.feedback.store.identity import judgement_key
from mmenv.feedback.store.verdicts import Verdict, policy_names


@dataclass(frozen=True)
class StoreConfig:
    """How a store waits and hands out items.

    Attributes:
        lease_seconds: how long an item is kept for an annotator who has not answered.
        wait_seconds: how long to wait for a database that somebody else has locked.
        repeat_gap: judgements of an annotator between an item and its repeat, at least.
        seed: of the draw of repeats; None draws anew each time.
    """

    lease_seconds: float = 600.0
    wait_seconds: float = 10.0
    repeat_gap: int = 10
    seed: int | None = None


@dataclass(frozen=True)
class Item:
    """Something to judge: an undecided comparison.

    Attributes:
        id: its number.
        comparison: with media paths relative to ``folder``.
        place: the folder where its media paths begin, as the database says; None where it says nothing.
        trusted: whether files may be read there: it is in the store's own folder, or the person named it.
        repeated: whether whoever asks for it has judged it before; it makes no other item of it.
    """

    id: int
    comparison: Comparison
    place: Path | None
    trusted: bool = field(default=True, compare=False)
    repeated: bool = field(default=False, compare=False)

    @property
    def folder(self) -> Path | None:
        """Where its media paths begin.

        Raises:
            StoreError: there are media, in a folder that nobody named; a database from elsewhere could name any.
        """
        if not self.trusted and media_paths(self.comparison):
            raise StoreError(
                f"item {self.id} has its media in {self.place}, outside the folder of the store: "
                f"give --media {self.place} if you want them to be read"
            )
        return self.place


@dataclass(frozen=True)
class Counts:
    """How far an annotator is.

    Attributes:
        total: all items.
        judged, skipped: by this annotator.
        left: items that this annotator may still judge; of these
        held: so many are with others at present, and come back if they do not answer.
        changes: grows with each judgement and each undone one of anybody, so that later counts are known as later.
    """

    total: int
    judged: int
    skipped: int
    left: int
    held: int = 0
    changes: int = field(default=0, compare=False)


class UnknownItemError(StoreError):
    """A number that no item has."""


class Judged(NamedTuple):
    """An item, and its comparison with what somebody said of it."""

    item: Item
    comparison: Comparison


def judged_rows(annotator: str | None) -> Select[Any]:
    """Judgements with their items and the names of who judged, in the order recorded."""
    j, i, who = schema.judgements, schema.items, schema.annotators
    query = select(j, who.c.name, i.c.content, i.c.folder).join(who, who.c.id == j.c.annotator_id)
    query = query.join(i, i.c.id == j.c.item_id).where(~j.c.undone, ~j.c.skipped).order_by(j.c.id)
    return query if annotator is None else query.where(who.c.name == normalised_name(annotator))


def decided(item: Comparison, row: Row[Any]) -> Comparison:
    """An item's comparison with a judgement of it."""
    choice, ranking, scores, shown = (
        None if text is None else json.loads(text) for text in (row.choice, row.ranking, row.scores, row.shown)
    )
    provenance = {**item.provenance, "seconds": row.seconds, "order": shown or [], "repeat": row.repeated}
    return replace(
        item,
        choice=choice,
        ranking=None if ranking is None else tuple(ranking),
        scores=None if scores is None else tuple(map(float, scores)),
        annotator=row.name,
        created=row.created,
        provenance=provenance,
    )


def read_verdicts(connection: Connection) -> list[Verdict]:
    """All judgements as statistics need them, in the order recorded; nothing else is read of the items."""
    j, i, who = schema.judgements, schema.items, schema.annotators
    columns = (
        j.c.item_id, who.c.name, i.c.responses, j.c.choice, j.c.ranking, j.c.scores, j.c.shown, j.c.repeated,
        i.c.policies, j.c.seconds,
    )  # fmt: skip
    query = select(*columns).join(who, who.c.id == j.c.annotator_id).join(i, i.c.id == j.c.item_id)
    query = query.where(~j.c.undone, ~j.c.skipped).order_by(j.c.id)
    return [
        Verdict(
            item, name, n, _value(choice), _value(ranking), _value(scores), _value(shown) or (), repeated,
            policy_names(policies, n), seconds,
        )
        for item, name, n, choice, ranking, scores, shown, repeated, policies, seconds in connection.execute(query)
    ]  # fmt: skip


@functools.lru_cache(4096)
def _value(text: str | None) -> Any:
    """A JSON value; few different ones are ever said."""
    value = None if text is None else json.loads(text)
    return tuple(value) if isinstance(value, list) else value


def merged(item_id: int, comparison: Comparison, annotator: str, numbers: Mapping[str, int]) -> judging.Entry:
    """A judgement from elsewhere, to be written unless it is here already."""
    more = comparison.provenance
    values = {
        "key": judgement_key(comparison, item_id, annotator), "created": comparison.created or now(),
        "choice": comparison.choice, "ranking": as_list(comparison.ranking), "scores": as_list(comparison.scores),
        "skipped": False, "shown": more.get("order") or None, "seconds": more.get("seconds"),
    }  # fmt: skip
    return judging.Entry(item_id, numbers[annotator], values, repeat=more.get("repeat") is True, merged=True)


def as_list(values: Sequence[Any] | None) -> list[Any] | None:
    """A JSON list, where there are values."""
    return None if values is None else list(values)
