"""The feedback store: what is to be judged, who judges what, and what they said, in SQLite or PostgreSQL."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

try:
    from sqlalchemy import Connection, Row, func, insert, select, update
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing: pip install -c constraints.txt -e ".[labelling]"') from error

from mmenv.feedback import assignment, schema
from mmenv.feedback.assignment import Held
from mmenv.feedback.checks import check_judged, check_name, check_said
from mmenv.feedback.comparison import Choice, Comparison, now
from mmenv.feedback.database import StoreError, open_engine, reading, root_of, speaking_of, writing
from mmenv.feedback.identity import digest_of, judgement_key, undecided

__all__ = ["Counts", "FeedbackStore", "Item", "Judged", "StoreConfig", "StoreError", "UnknownItemError"]

_CHUNK = 500  # digests that are looked up at once


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
    """Something to judge: an undecided comparison, and the folder where its media paths begin.

    ``repeated`` says whether whoever asks for it has judged it before; it makes no other item of it.
    """

    id: int
    comparison: Comparison
    folder: Path | None
    repeated: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Counts:
    """How far an annotator is: all items, judged, skipped, and those that ``next`` would still give."""

    total: int
    judged: int
    skipped: int
    left: int


class UnknownItemError(StoreError):
    """A number that no item has."""


class Judged(NamedTuple):
    """An item, and its comparison with what somebody said of it."""

    item: Item
    comparison: Comparison


class FeedbackStore:
    """Items, annotators and judgements in a database; safe between threads, and between processes.

    Args:
        url: path of a SQLite file, or an SQLAlchemy URL (``postgresql+psycopg://user@host/name``).
        config: waits and leases.
        create: whether a SQLite file that is not there is made.

    Raises:
        StoreError: the database cannot be opened, or was made by a later version. It names database and remedy.
    """

    def __init__(self, url: str | Path, config: StoreConfig | None = None, create: bool = True) -> None:
        self.config = config or StoreConfig()
        self._engine = open_engine(url, self.config.wait_seconds, create)
        self._lock = threading.Lock()  # threads queue here and not at the database, which knows no order among them
        self._random = random.Random(self.config.seed)
        with ExitStack() as undo:
            undo.callback(self._engine.dispose)
            self._root = root_of(self._engine)
            self._prepare()
            undo.pop_all()  # prepared: it stays open

    def _prepare(self) -> None:
        with self._reading() as connection:
            version = schema.version_of(connection)
        if version is not None and version > schema.VERSION:
            raise StoreError(
                f"{self.name} has schema version {version}, and this mmenv knows up to {schema.VERSION}: update mmenv"
            )
        if version != schema.VERSION:
            with self._writing() as connection:
                schema.bring_up_to_date(connection)

    @property
    def name(self) -> str:
        """The database as errors name it, without its password."""
        return speaking_of(self._engine)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with reading(self._engine) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that no other writer overlaps, durable when left."""
        if not self._lock.acquire(timeout=3 * self.config.wait_seconds):
            raise StoreError(f"{self.name} is busy: other requests have waited for it too; try again")
        try:
            with writing(self._engine) as connection:
                yield connection
        finally:
            self._lock.release()

    def add(self, comparisons: Iterable[Comparison], folder: Path | None = None) -> list[int]:
        """Items for comparisons, whatever they were judged before; the same content again is the same item.

        Args:
            comparisons: n of them.
            folder: where their media paths begin. Beside or below a SQLite file it is kept relative to that, so that
                both can be moved together. Where the folder that an item had is gone, this one takes its place.

        Returns:
            n ids, in order.

        Raises:
            DatasetError: a media path leaves the folder, or its file is missing.
        """
        root = None if folder is None else Path(folder).resolve()
        rows: list[dict[str, Any]] = []
        for comparison in map(undecided, comparisons):
            content = json.dumps(comparison.to_row())
            digest = digest_of(comparison, root)
            rows.append({"digest": digest, "content": content, "folder": self._kept(root)})
        with self._writing() as connection:
            known = _of_digests(connection, [row["digest"] for row in rows])
            ids = {digest: row.id for digest, row in known.items()}
            self._move(connection, known, rows)
            fresh = list({row["digest"]: row for row in rows if row["digest"] not in ids}.values())
            if fresh:
                statement = insert(schema.items).returning(
                    schema.items.c.digest, schema.items.c.id, sort_by_parameter_order=True
                )
                ids |= {row.digest: row.id for row in connection.execute(statement, fresh)}
        return [ids[row["digest"]] for row in rows]

    def _kept(self, folder: Path | None) -> str | None:
        """A folder as the database has it."""
        if folder is None:
            return None
        inside = self._root is not None and folder.is_relative_to(self._root)
        return (folder.relative_to(self._root) if inside and self._root else folder).as_posix()

    def _folder(self, kept: str | None) -> Path | None:
        """The folder that ``_kept`` stands for."""
        return None if kept is None else (self._root or Path()) / kept

    def _move(self, connection: Connection, known: Mapping[str, Row[Any]], rows: Iterable[dict[str, Any]]) -> None:
        """Give items whose folder is gone the one that they came with now, and the paths there."""
        for row in rows:
            old = known.get(row["digest"])
            had = None if old is None else self._folder(old.folder)
            if old is not None and had is not None and row["folder"] is not None and not had.is_dir():
                here = update(schema.items).where(schema.items.c.id == old.id)
                connection.execute(here.values(folder=row["folder"], content=row["content"]))

    def items(self) -> list[Item]:
        """All items, in the order of adding."""
        with self._reading() as connection:
            return [self._read(row) for row in connection.execute(select(schema.items).order_by(schema.items.c.id))]

    def item(self, item_id: int, annotator: str | None = None) -> Item:
        """One item, as an annotator has it in hand.

        Raises:
            StoreError: there is none of this number.
        """
        j, who = schema.judgements.c, schema.annotators.c
        before = select(j.id).join(schema.annotators, who.id == j.annotator_id)
        before = before.where(j.item_id == item_id, who.name == annotator, ~j.undone).limit(1)
        with self._reading() as connection:
            item = self._item(connection, item_id)
            return item if annotator is None else replace(item, repeated=connection.scalar(before) is not None)

    def _item(self, connection: Connection, item_id: int) -> Item:
        row = None
        if 0 < item_id < 2**31:  # what the column can hold
            row = connection.execute(select(schema.items).where(schema.items.c.id == item_id)).first()
        if row is None:
            raise UnknownItemError(f"item {item_id} is not in {self.name}: add its comparison first")
        return self._read(row)

    def _read(self, row: Row[Any]) -> Item:
        return Item(row.id, Comparison.from_row(json.loads(row.content)), self._folder(row.folder))

    def next(self, annotator: str, overlap: int = 1, repeats: float = 0.0, beside: Sequence[int] = ()) -> Item | None:
        """What an annotator should judge now, reserved for a while; None when nothing is left.

        Asked again without a judgement in between, it is the same item. Nobody gets an item twice, unless as a repeat.

        Args:
            annotator: name.
            overlap: how many annotators judge an item.
            repeats: probability that an item which this annotator judged some time ago comes again.
            beside: ids of items that the annotator has in hand already, in the order of judging. They stay reserved,
                and one more is given, to be judged after them.
        """
        with self._writing() as connection:
            me, at = _annotator_id(connection, annotator), time.time()
            assignment.keep(connection, beside, me, at, self.config.lease_seconds)
            held = assignment.held_by(connection, me, overlap, at, beside)
            held = held or self._choose(connection, me, overlap, repeats, at, beside)
            if held is None:
                return None
            assignment.reserve(connection, held, me, at - len(beside), self.config.lease_seconds)
            return replace(self._item(connection, held.item_id), repeated=held.repeated)

    def _choose(
        self, connection: Connection, me: int, overlap: int, repeats: float, at: float, beside: Sequence[int]
    ) -> Held | None:
        fresh = assignment.first_open(connection, me, overlap, at, beside)
        if fresh is not None and self._random.random() < repeats:
            candidates = assignment.repeatable(connection, me, self.config.repeat_gap)
            candidates = [item_id for item_id in candidates if item_id not in beside]
            if candidates:
                return Held(self._random.choice(candidates), True)
        return fresh

    def record(
        self,
        item_id: int,
        annotator: str,
        key: str,
        *,
        choice: Choice = None,
        ranking: Sequence[int] | None = None,
        scores: Sequence[float] | None = None,
        skipped: bool = False,
        order: Sequence[int] = (),
        seconds: float | None = None,
    ) -> bool:
        """Keep a judgement, durably when this returns.

        Args:
            item_id: what was judged.
            annotator: who judged.
            key: made by the client and sent again when it does not know whether it arrived.
            choice, ranking, scores: of the responses in the item's order.
            skipped: the annotator would not say.
            order: the order in which the responses were shown.
            seconds: how long it took.

        Returns:
            Whether it is new. False for a known key, and for an item that this annotator has judged already and was not
            given as a repeat: the first judgement stands.

        Raises:
            ComparisonError: the judgement does not fit the item, or says nothing.
            StoreError: no such item, or the database failed; with the same key it may be tried again.
        """
        said = {"choice": choice, "ranking": _list(ranking), "scores": _list(scores)}
        values = {**said, "skipped": skipped, "shown": _list(order) or None, "seconds": seconds}
        with self._writing() as connection:
            item = self._item(connection, item_id)
            check_judged(len(item.comparison.responses), said, skipped, order, seconds)
            return _insert_judgement(
                connection, item_id, annotator, {**values, "key": check_name("key", key), "created": now()}
            )

    def merge(self, comparisons: Iterable[Comparison], folder: Path | None = None, annotator: str = "unknown") -> int:
        """Items and what was said of them elsewhere; the same again changes nothing.

        Args:
            comparisons: decided or not.
            folder: where their media paths begin.
            annotator: name for judgements without one.

        Returns:
            How many judgements are new.

        Raises:
            ComparisonError: a name or a time will not do.
            DatasetError: a media path leaves the folder, or its file is missing.
        """
        comparisons = list(comparisons)
        for comparison in comparisons:
            check_said(comparison, comparison.annotator or annotator)
        ids = self.add(comparisons, folder)
        new = 0
        with self._writing() as connection:
            for item_id, comparison in zip(ids, comparisons, strict=True):
                if comparison.decided:
                    new += _merge_one(connection, item_id, comparison, comparison.annotator or annotator)
        return new

    def undo(self, annotator: str) -> Item | None:
        """Take back an annotator's last judgement or skip; its item is next again. None where there is nothing."""
        j = schema.judgements.c
        with self._writing() as connection:
            me, at = _annotator_id(connection, annotator), time.time()
            last = connection.execute(
                select(j.id, j.item_id, j.repeated)
                .where(j.annotator_id == me, ~j.undone)
                .order_by(j.id.desc())
                .limit(1)
            ).first()
            if last is None:
                return None
            connection.execute(update(schema.judgements).where(j.id == last.id).values(undone=True))
            held = Held(last.item_id, last.repeated)
            assignment.reserve(connection, held, me, at, self.config.lease_seconds)
            return replace(self._item(connection, last.item_id), repeated=last.repeated)

    def judgements(self, annotator: str | None = None) -> list[Comparison]:
        """Decided comparisons in the order recorded, without what was undone or skipped.

        Their provenance is the item's, with ``seconds``, ``order`` (as shown; empty where unknown) and ``repeat``.
        """
        return [judged.comparison for judged in self.judged(annotator)]

    def judged(self, annotator: str | None = None) -> list[Judged]:
        """``judgements``, each with the item that it speaks of."""
        j, who = schema.judgements, schema.annotators
        query = select(j, who.c.name).join(who, who.c.id == j.c.annotator_id).order_by(j.c.id)
        query = query.where(~j.c.undone, ~j.c.skipped)
        if annotator is not None:
            query = query.where(who.c.name == annotator)
        with self._reading() as connection:
            rows = connection.execute(query).all()
            of = {row.id: self._read(row) for row in connection.execute(select(schema.items))}
        return [Judged(of[row.item_id], _judged(of[row.item_id].comparison, row)) for row in rows]

    def counts(self, annotator: str, overlap: int = 1) -> Counts:
        """How far an annotator is."""
        j, count = schema.judgements.c, select(func.count()).select_from(schema.items)
        with self._reading() as connection:
            me = connection.scalar(select(schema.annotators.c.id).where(schema.annotators.c.name == annotator)) or 0
            mine = select(func.count()).where(j.annotator_id == me, ~j.undone, ~j.repeated)
            return Counts(
                total=connection.scalar(count) or 0,
                judged=connection.scalar(mine.where(~j.skipped)) or 0,
                skipped=connection.scalar(mine.where(j.skipped)) or 0,
                left=connection.scalar(count.where(assignment.open_to(me, overlap, time.time()))) or 0,
            )

    def annotators(self) -> list[str]:
        """Names of all who have asked for an item or judged one, in the order of coming."""
        with self._reading() as connection:
            return list(connection.scalars(select(schema.annotators.c.name).order_by(schema.annotators.c.id)))

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _judged(item: Comparison, row: Row[Any]) -> Comparison:
    """An item's comparison with a judgement of it."""
    provenance = {**item.provenance, "seconds": row.seconds, "order": row.shown or [], "repeat": row.repeated}
    return replace(
        item,
        choice=row.choice,
        ranking=None if row.ranking is None else tuple(row.ranking),
        scores=None if row.scores is None else tuple(map(float, row.scores)),
        annotator=row.name,
        created=row.created,
        provenance=provenance,
    )


def _list(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _annotator_id(connection: Connection, name: str) -> int:
    """Number of an annotator, new ones are taken down."""
    check_name("annotator", name)
    who = schema.annotators
    found = connection.scalar(select(who.c.id).where(who.c.name == name))
    if found is not None:
        return found
    return connection.execute(insert(who).values(name=name, created=now()).returning(who.c.id)).scalar_one()


def _of_digests(connection: Connection, digests: list[str]) -> dict[str, Row[Any]]:
    """Ids and folders of those contents that are there already."""
    c = schema.items.c
    found: dict[str, Row[Any]] = {}
    for start in range(0, len(digests), _CHUNK):
        known = select(c.digest, c.id, c.folder).where(c.digest.in_(digests[start : start + _CHUNK]))
        found |= {row.digest: row for row in connection.execute(known)}
    return found


def _insert_judgement(connection: Connection, item_id: int, annotator: str, values: dict[str, Any]) -> bool:
    """Write a judgement, unless its key is known or the annotator has judged the item and was not asked again."""
    j, lease = schema.judgements.c, schema.leases.c
    if connection.scalar(select(j.id).where(j.key == values["key"])) is not None:
        return False
    me = _annotator_id(connection, annotator)
    again = connection.scalar(select(lease.repeated).where(lease.item_id == item_id, lease.annotator_id == me))
    before = connection.scalar(select(j.id).where(j.item_id == item_id, j.annotator_id == me, ~j.undone).limit(1))
    repeated = values.pop("repeated", bool(again))
    if before is not None and not repeated:
        return False
    repeated = repeated and before is not None
    connection.execute(
        insert(schema.judgements).values(item_id=item_id, annotator_id=me, repeated=repeated, undone=False, **values)
    )
    assignment.release(connection, item_id, me)
    return True


def _merge_one(connection: Connection, item_id: int, comparison: Comparison, annotator: str) -> bool:
    """Write a judgement from elsewhere, unless it is here already."""
    j, who, more = schema.judgements.c, schema.annotators.c, comparison.provenance
    created = comparison.created or now()
    same = select(j.id).join(schema.annotators, who.id == j.annotator_id)
    same = same.where(j.item_id == item_id, who.name == annotator, j.created == created, ~j.undone)
    if connection.scalar(same.limit(1)) is not None:
        return False
    values = {
        "key": judgement_key(comparison, item_id, annotator), "created": created, "choice": comparison.choice,
        "ranking": _list(comparison.ranking), "scores": _list(comparison.scores), "skipped": False,
        "shown": more.get("order") or None, "seconds": more.get("seconds"), "repeated": more.get("repeat") is True,
    }  # fmt: skip
    return _insert_judgement(connection, item_id, annotator, values)
