"""The feedback store: what is to be judged, who judges what, and what they said, in SQLite or PostgreSQL."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from mmenv.arguments import require

with require("labelling"):
    from sqlalchemy import Connection, Row, insert, select, update

from mmenv.feedback.comparison import Choice, Comparison, now
from mmenv.feedback.store import assignment, judging, records, schema
from mmenv.feedback.store.assignment import Held, Request
from mmenv.feedback.store.checks import check_judged, check_name, check_said, normalised_name, proper_name
from mmenv.feedback.store.database import StoreError, open_engine, reading, root_of, speaking_of, writing
from mmenv.feedback.store.folders import Folders, resolved
from mmenv.feedback.store.identity import digests_of, undecided
from mmenv.feedback.store.records import Counts, Item, Judged, StoreConfig, UnknownItemError
from mmenv.feedback.store.verdicts import Verdict, policies_of

__all__ = ["Counts", "FeedbackStore", "Item", "Judged", "StoreConfig", "StoreError", "UnknownItemError"]

Line = TypeVar("Line")
Result = TypeVar("Result")
_CHUNK = 500  # digests that are looked up at once
_BATCH = 200  # items or judgements in one transaction: other writers get their turn in between
_PAUSE = 0.1  # most seconds between two such transactions


class FeedbackStore:
    """Items, annotators and judgements in a database; safe between threads, and between processes.

    Args:
        url: path of a SQLite file, or an SQLAlchemy URL (``postgresql+psycopg://user@host/name``).
        config: waits and leases.
        create: whether a SQLite file that is not there is made.
        media: folders, beside that of a SQLite file, in and below which media may be read.

    Raises:
        StoreError: the database cannot be opened, or was made by another version. It names database and remedy.
    """

    def __init__(
        self,
        url: str | Path,
        config: StoreConfig | None = None,
        create: bool = True,
        media: Iterable[Path] = (),
    ) -> None:
        self.config = config or StoreConfig()
        self._engine = open_engine(url, self.config.wait_seconds, create)
        self._lock = threading.Lock()  # threads queue here and not at the database, which knows no order among them
        self._random = random.Random(self.config.seed)
        with ExitStack() as undo:
            undo.callback(self._engine.dispose)
            self._folders = Folders(root_of(self._engine), media)
            self._prepare()
            undo.pop_all()  # prepared: it stays open

    def _prepare(self) -> None:
        with self._reading() as connection:
            version = schema.version_of(connection)
        if version not in (None, schema.VERSION):
            raise StoreError(
                f"{self.name} has schema version {version}, and this mmenv reads {schema.VERSION} alone: export its "
                "judgements with the mmenv that made it, and import them into a new store"
            )
        if version is None:
            with self._writing() as connection:
                schema.create(connection)

    @property
    def url(self) -> str:
        """The path of a SQLite file, or the address of a server."""
        return str(self._engine.url) if self._folders.root is None else self.name

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
            StoreError: the database failed; some items may have been added, and adding the same again adds the rest.
        """
        root = None if folder is None else resolved(folder)
        found = [undecided(comparison) for comparison in comparisons]
        rows: list[dict[str, Any]] = [
            {
                "digest": digest, "content": json.dumps(comparison.to_row()), "folder": self._folders.kept(root),
                "responses": len(comparison.responses), "policies": policies_of(comparison),
            }
            for comparison, digest in zip(found, digests_of(found, root), strict=True)
        ]  # fmt: skip
        if root is not None:
            self._folders.name(root)
        ids: dict[str, int] = {}
        for added in self._in_turns(rows, self._add):
            ids |= added
        return [ids[row["digest"]] for row in rows]

    def _in_turns(self, rows: Sequence[Line], write: Callable[[Connection, Sequence[Line]], Result]) -> list[Result]:
        """Write a long list in parts, each in a transaction of its own, with time for other writers between them."""
        results = []
        for start in range(0, len(rows), _BATCH):
            began = time.monotonic()
            with self._writing() as connection:
                results.append(write(connection, rows[start : start + _BATCH]))
            if start + _BATCH < len(rows):
                time.sleep(min(_PAUSE, time.monotonic() - began))
        return results

    def _add(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
        """Ids of items by their digests, new ones among them."""
        known = _of_digests(connection, [row["digest"] for row in rows])
        self._move(connection, known, rows)
        ids = {digest: row.id for digest, row in known.items()}
        fresh = list({row["digest"]: row for row in rows if row["digest"] not in ids}.values())
        if fresh:
            statement = insert(schema.items).returning(
                schema.items.c.digest, schema.items.c.id, sort_by_parameter_order=True
            )
            ids |= {row.digest: row.id for row in connection.execute(statement, fresh)}
            judging.count_new_items(connection, len(fresh))
        return ids

    def _move(self, connection: Connection, known: Mapping[str, Row[Any]], rows: Iterable[dict[str, Any]]) -> None:
        """Give items whose folder is gone the one that they came with now, and the paths there."""
        for row in rows:
            old = known.get(row["digest"])
            had = None if old is None else self._folders.place(old.folder)
            if old is not None and had is not None and row["folder"] is not None and not had.is_dir():
                here = update(schema.items).where(schema.items.c.id == old.id)
                connection.execute(here.values(folder=row["folder"], content=row["content"]))

    def remember(self, source: str, number: int) -> None:
        """Note that so many items came from a file of this digest."""
        with self._writing() as connection:
            if connection.scalar(select(schema.sources.c.number).where(schema.sources.c.digest == source)) is None:
                connection.execute(insert(schema.sources).values(digest=source, number=number))

    def remembered(self, source: str) -> int | None:
        """How many items came from a file of this digest; None where it was not added yet."""
        with self._reading() as connection:
            return connection.scalar(select(schema.sources.c.number).where(schema.sources.c.digest == source))

    def items(self) -> list[Item]:
        """All items, in the order of adding."""
        with self._reading() as connection:
            return [self._read(row) for row in connection.execute(select(schema.items).order_by(schema.items.c.id))]

    def strange_folders(self) -> list[Path]:
        """Folders that items have their media in and that nobody named; see ``Item.folder``."""
        with self._reading() as connection:
            kept = connection.scalars(select(schema.items.c.folder).distinct())
            folders = [self._folders.place(one) for one in kept]
            return sorted(folder for folder in folders if folder is not None and not self._folders.trusts(folder))

    def item(self, item_id: int, annotator: str | None = None) -> Item:
        """One item, as an annotator has it in hand.

        Raises:
            StoreError: there is none of this number.
        """
        j, who = schema.judgements.c, schema.annotators.c
        before = select(j.id).join(schema.annotators, who.id == j.annotator_id)
        before = before.where(j.item_id == item_id, who.name == normalised_name(annotator or ""), ~j.undone).limit(1)
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
        return self._item_of(row.id, row)

    def _item_of(self, item_id: int, row: Row[Any]) -> Item:
        folder = self._folders.place(row.folder)
        return Item(item_id, Comparison.from_row(json.loads(row.content)), folder, self._folders.trusts(folder))

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
            me = _annotator_id(connection, annotator)
            request = Request(me, overlap, time.time(), tuple(beside))
            assignment.keep(connection, request, self.config.lease_seconds)
            held = assignment.held_by(connection, request) or self._choose(connection, request, repeats)
            if held is None:
                return None
            assignment.reserve(connection, held, me, request.now - len(beside), self.config.lease_seconds)
            return replace(self._item(connection, held.item_id), repeated=held.repeated)

    def _choose(self, connection: Connection, request: Request, repeats: float) -> Held | None:
        fresh = assignment.first_open(connection, request)
        if fresh is not None and self._random.random() < repeats:
            return assignment.draw_repeat(connection, request, self.config.repeat_gap, self._random) or fresh
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
        said = {"choice": choice, "ranking": records.as_list(ranking), "scores": records.as_list(scores)}
        values = {
            **said, "skipped": skipped, "shown": records.as_list(order) or None, "seconds": seconds,
            "key": check_name("key", key), "created": now(),
        }  # fmt: skip
        with self._writing() as connection:
            item = self._item(connection, item_id)
            check_judged(len(item.comparison.responses), said, skipped, order, seconds)
            me = _annotator_id(connection, annotator)
            again = assignment.repeat_held(connection, item_id, me)
            return judging.write(connection, [judging.Entry(item_id, me, values, repeat=again)])[0]

    def merge(self, comparisons: Iterable[Comparison], folder: Path | None = None, annotator: str = "unknown") -> int:
        """Items and what was said of them elsewhere; the same again changes nothing.

        Other writers get their turn in between. Where it fails half way, what was merged stays, and merging the same
        again adds the rest.

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
        said = [(i, c) for i, c in zip(ids, comparisons, strict=True) if c.decided]

        def write(connection: Connection, some: Sequence[tuple[int, Comparison]]) -> int:
            names = {comparison.annotator or annotator for _, comparison in some}
            numbers = {name: _annotator_id(connection, name) for name in sorted(names)}
            return sum(
                judging.write(connection, [records.merged(i, c, c.annotator or annotator, numbers) for i, c in some])
            )

        return sum(self._in_turns(said, write))

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
            judging.undo(connection, last.id, last.item_id, me, last.repeated)
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
        items: dict[int, Item] = {}
        with self._reading() as connection:
            return [self._judged(row, items) for row in connection.execute(records.judged_rows(annotator))]

    def stream(self) -> Iterator[Comparison]:
        """``judgements`` in parts, read as they are asked for: nothing is held between two of them."""
        last = 0
        while True:
            with self._reading() as connection:
                some = records.judged_rows(None).where(schema.judgements.c.id > last).limit(_BATCH)
                rows = connection.execute(some).all()
            if not rows:
                return
            last = rows[-1].id
            items: dict[int, Item] = {}
            yield from (self._judged(row, items).comparison for row in rows)

    def _judged(self, row: Row[Any], items: dict[int, Item]) -> Judged:
        if row.item_id not in items:
            items[row.item_id] = self._item_of(row.item_id, row)
        item = items[row.item_id]
        return Judged(item, records.decided(item.comparison, row))

    def verdicts(self) -> list[Verdict]:
        """All judgements, as far as statistics need them."""
        with self._reading() as connection:
            return records.read_verdicts(connection)

    def counts(self, annotator: str, overlap: int = 1) -> Counts:
        """How far an annotator is."""
        who = schema.annotators.c
        with self._reading() as connection:
            me = connection.scalar(select(who.id).where(who.name == normalised_name(annotator))) or judging.NOBODY
            held = assignment.waiting(connection, Request(me, overlap, time.time()))
            changes = connection.scalar(select(schema.state.c.changes)) or 0
            return Counts(**judging.numbers_of(connection, me, overlap), held=held, changes=changes)

    def progress(self, overlap: int = 1) -> tuple[int, int]:
        """How many items there are, and how many of them have fewer judges than the overlap."""
        with self._reading() as connection:
            numbers = judging.numbers_of(connection, judging.NOBODY, overlap)
            return numbers["total"], numbers["left"]

    def people(self) -> list[tuple[str, int, int]]:
        """Name, judged and skipped items of each annotator who has answered, by name."""
        with self._reading() as connection:
            return judging.numbers_of_all(connection)

    def changes(self) -> int:
        """A number that grows with each judgement and each undone one."""
        with self._reading() as connection:
            return connection.scalar(select(schema.state.c.changes)) or 0

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


def _annotator_id(connection: Connection, name: str) -> int:
    """Number of an annotator; one who is new gets a row."""
    name = proper_name(name)
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
