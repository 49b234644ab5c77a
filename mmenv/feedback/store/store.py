"""The feedback store: what is to be judged, who judges what, and the judgements, in SQLite or PostgreSQL."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import Connection, insert, select

from mmenv.feedback.comparison import Choice, Comparison, now
from mmenv.feedback.judgement import JudgementRecord
from mmenv.feedback.store import assignment, judgements, progress, schema
from mmenv.feedback.store.annotators import annotator_number, check_text, find_annotator
from mmenv.feedback.store.assignment import Assignment, ItemRequest, StoreConfig
from mmenv.feedback.store.database import StoreError, name_of, open_engine, reading, real_path, root_of, writing
from mmenv.feedback.store.items import Item, MediaFolders, add_items, find_item, item_of, item_rows
from mmenv.feedback.store.judgements import JudgedItem
from mmenv.feedback.store.progress import Counts

Line = TypeVar("Line")
Result = TypeVar("Result")
_BATCH = 200  # items or judgements in one transaction: other writers get their turn in between
_READ_BATCH = 1000  # judgements that are read at once
_PAUSE = 0.1  # most seconds between two such transactions


class FeedbackStore:
    """Items, annotators and judgements in a database; safe between threads, and between processes.

    Args:
        url: path of a SQLite file, or an SQLAlchemy URL (``postgresql+psycopg://user@host/name``).
        config: waits, leases and repeats.
        create: whether a missing SQLite file is created.
        media: folders, beside that of a SQLite file, in and below which media may be read.

    Raises:
        StoreError: the database cannot be opened, or has another schema version. It names database and remedy.
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
        self._lock = threading.Lock()  # threads queue here: the database does not keep their order
        self._random = random.Random(self.config.seed)
        with ExitStack() as on_failure:
            on_failure.callback(self._engine.dispose)
            self._folders = MediaFolders(root_of(self._engine), media)
            self._check_schema()
            on_failure.pop_all()

    def _check_schema(self) -> None:
        with self._reading() as connection:
            version = schema.version_of(connection)
        schema.check_version(version, self.name)
        if version is None:
            with self._writing() as connection:
                schema.create(connection)

    @property
    def url(self) -> str:
        """The path of a SQLite file, or the URL of a server."""
        return str(self._engine.url) if self._folders.root is None else self.name

    @property
    def name(self) -> str:
        """The database as errors name it, without its password."""
        return name_of(self._engine)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with reading(self._engine) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that no other writer overlaps; durable at its end."""
        if not self._lock.acquire(timeout=3 * self.config.wait_seconds):
            raise StoreError(f"{self.name} is busy: other requests wait for it too; try again")
        try:
            with writing(self._engine) as connection:
                yield connection
        finally:
            self._lock.release()

    def add(self, comparisons: Iterable[Comparison], folder: Path | None = None) -> list[int]:
        """Add items for comparisons, without their judgements; the same content again is the same item.

        Args:
            comparisons: n of them.
            folder: that their media paths are relative to. At or below a SQLite file's folder it is stored relative to
                that, so that both can be moved together. It replaces an item's folder that no longer exists.

        Returns:
            n ids, in order.

        Raises:
            DatasetError: a media path leaves the folder, or its file is missing.
            StoreError: the database failed; some items may have been added, and adding the same again adds the rest.
        """
        root = None if folder is None else real_path(folder)
        rows = item_rows(list(comparisons), root, self._folders)
        if root is not None:
            self._folders.trust(root)
        ids: dict[str, int] = {}
        for batch in self._in_batches(rows, lambda connection, part: add_items(connection, part, self._folders)):
            ids |= batch
        return [ids[row["digest"]] for row in rows]

    def _in_batches(self, rows: Sequence[Line], write: Callable[[Connection, Sequence[Line]], Result]) -> list[Result]:
        """Write a long list in parts, each in its own transaction, with time for other writers between them."""
        results = []
        for start in range(0, len(rows), _BATCH):
            began = time.monotonic()
            with self._writing() as connection:
                results.append(write(connection, rows[start : start + _BATCH]))
            if start + _BATCH < len(rows):
                time.sleep(min(_PAUSE, time.monotonic() - began))
        return results

    def record_source(self, digest: str, number: int) -> None:
        """Record that all items of a file with this digest were added, and how many they are."""
        sources = schema.sources
        with self._writing() as connection:
            if connection.scalar(select(sources.c.number).where(sources.c.digest == digest)) is None:
                connection.execute(insert(sources).values(digest=digest, number=number))

    def source_size(self, digest: str) -> int | None:
        """Number of items of a file with this digest; None if the file was not added yet."""
        with self._reading() as connection:
            return connection.scalar(select(schema.sources.c.number).where(schema.sources.c.digest == digest))

    def items(self) -> list[Item]:
        """All items, in the order of adding."""
        with self._reading() as connection:
            rows = connection.execute(select(schema.items).order_by(schema.items.c.id))
            return [item_of(row, self._folders) for row in rows]

    def item(self, item_id: int, annotator: str | None = None) -> Item:
        """One item, marked as repeated if ``annotator`` has judged it.

        Raises:
            UnknownItemError: no item has this number.
        """
        j = schema.judgements.c
        with self._reading() as connection:
            item = self._find(connection, item_id)
            me = None if annotator is None else find_annotator(connection, annotator)
            earlier = select(j.id).where(j.item_id == item_id, j.annotator_id == me, ~j.undone).limit(1)
            return replace(item, repeated=me is not None and connection.scalar(earlier) is not None)

    def _find(self, connection: Connection, item_id: int) -> Item:
        return find_item(connection, item_id, self._folders, self.name)

    def untrusted_folders(self) -> list[Path]:
        """Folders with media of items that may not be read; see ``Item.folder``."""
        with self._reading() as connection:
            stored = connection.scalars(select(schema.items.c.folder).distinct())
            folders = [self._folders.path(folder) for folder in stored]
            return sorted(folder for folder in folders if folder is not None and not self._folders.trusts(folder))

    def next(self, annotator: str, overlap: int = 1, repeats: float = 0.0, queue: Sequence[int] = ()) -> Item | None:
        """The item that an annotator should judge now, reserved for a while; None when none is left.

        Asked again without a judgement in between, it is the same item. No item comes twice, except as a repeat.

        Args:
            annotator: name.
            overlap: how many annotators judge an item.
            repeats: probability that an item which this annotator judged some time ago comes again.
            queue: ids of items that the annotator has fetched already, in the order of judging. They stay reserved, and
                the new item comes after them.
        """
        with self._writing() as connection:
            me = annotator_number(connection, annotator)
            request = ItemRequest(me, overlap, time.time(), tuple(queue))
            assigned = assignment.assign(connection, request, repeats, self.config, self._random)
            if assigned is None:
                return None
            return replace(self._find(connection, assigned.item_id), repeated=assigned.repeated)

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
        """Record a judgement; it is durable when this returns.

        Args:
            item_id: of the item that was judged.
            annotator: name.
            key: made by the client, and sent again when it does not know whether the judgement arrived.
            choice, ranking, scores: of the responses in the item's order.
            skipped: the annotator did not judge.
            order: the order in which the responses were shown.
            seconds: time that the annotator took.

        Returns:
            Whether it is new. False for a known key, and for an item that this annotator has judged already and did not
            get as a repeat: the first judgement stands.

        Raises:
            ComparisonError: the judgement does not fit the item, or is empty.
            StoreError: no such item, or the database failed; with the same key it may be tried again.
        """
        columns = {
            "key": check_text("key", key),
            "created": now(),
            "choice": choice,
            "ranking": None if ranking is None else list(ranking),
            "scores": None if scores is None else list(scores),
            "skipped": skipped,
            "shown": order or None,
            "seconds": seconds,
        }
        with self._writing() as connection:
            item = self._find(connection, item_id)
            judgements.check_new(len(item.comparison.responses), columns)
            me = annotator_number(connection, annotator)
            repeat = assignment.is_repeat(connection, item_id, me)
            return judgements.write(connection, [judgements.NewJudgement(item_id, me, columns, repeat)])[0]

    def merge(self, comparisons: Iterable[Comparison], folder: Path | None = None, annotator: str = "unknown") -> int:
        """Add items and judgements from elsewhere; the same again changes nothing.

        Other writers get their turn in between. After a failure half way, merging the same again adds the rest.

        Args:
            comparisons: with a judgement or without.
            folder: that their media paths are relative to.
            annotator: name for judgements without one.

        Returns:
            How many judgements are new.

        Raises:
            ComparisonError: a name or a time cannot be used.
            DatasetError: a media path leaves the folder, or its file is missing.
        """
        comparisons = list(comparisons)
        for comparison in comparisons:
            judgements.check_mergeable(comparison, comparison.annotator or annotator)
        ids = self.add(comparisons, folder)
        decided = [(item_id, c) for item_id, c in zip(ids, comparisons, strict=True) if c.decided]

        return sum(self._in_batches(decided, lambda connection, part: judgements.merge(connection, part, annotator)))

    def undo(self, annotator: str) -> Item | None:
        """Undo an annotator's last judgement or skip; its item is next again. None if there is none."""
        with self._writing() as connection:
            me = annotator_number(connection, annotator)
            last = judgements.undo_last(connection, me)
            if last is None:
                return None
            again = Assignment(*last)
            assignment.lease_item(connection, again, me, time.time(), self.config.lease_seconds)
            return replace(self._find(connection, again.item_id), repeated=again.repeated)

    def judgements(self, annotator: str | None = None) -> list[Comparison]:
        """Decided comparisons in the order recorded, without undone and skipped ones.

        Their provenance is the item's, with ``seconds``, ``order`` (as shown; empty if unknown) and ``repeat``.
        """
        return [judged.comparison for judged in self.judged_items(annotator)]

    def judged_items(self, annotator: str | None = None) -> Iterator[JudgedItem]:
        """``judgements``, each with its item, read in parts as they are iterated; the database is free in between."""
        last_id = 0
        while True:
            query = judgements.judged_rows(annotator).where(schema.judgements.c.id > last_id).limit(_READ_BATCH)
            with self._reading() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            last_id = rows[-1].id
            items: dict[int, Item] = {}
            yield from (judgements.judged_item(row, items, self._folders) for row in rows)

    def judgement_records(self) -> list[JudgementRecord]:
        """All judgements as statistics need them."""
        with self._reading() as connection:
            return judgements.read_records(connection)

    def counts(self, annotator: str, overlap: int = 1) -> Counts:
        """Progress of an annotator."""
        with self._reading() as connection:
            me = find_annotator(connection, annotator) or progress.NOBODY
            held = assignment.held_by_others(connection, ItemRequest(me, overlap, time.time()))
            changes = connection.scalar(select(schema.state.c.changes)) or 0
            return Counts(**progress.annotator_counts(connection, me, overlap), held=held, changes=changes)

    def progress(self, overlap: int = 1) -> tuple[int, int]:
        """How many items there are, and how many of them have fewer judges than the overlap."""
        with self._reading() as connection:
            counts = progress.annotator_counts(connection, progress.NOBODY, overlap)
            return counts["total"], counts["left"]

    def annotator_totals(self) -> list[tuple[str, int, int]]:
        """Name, judged and skipped items of each annotator who has answered, by name."""
        with self._reading() as connection:
            return progress.annotator_totals(connection)

    def changes(self) -> int:
        """A number that grows with each judgement and each undone one."""
        with self._reading() as connection:
            return connection.scalar(select(schema.state.c.changes)) or 0

    def annotators(self) -> list[str]:
        """Names of all who have asked for an item or judged one, in the order of their first request."""
        with self._reading() as connection:
            return list(connection.scalars(select(schema.annotators.c.name).order_by(schema.annotators.c.id)))

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
