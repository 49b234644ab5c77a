"""Tables of the feedback store, and their version."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sql
from sqlalchemy import Column, Connection, ForeignKey, Index, Integer, Table, Text

from mmenv.feedback.store.database import StoreError

VERSION = 3
METADATA = sql.MetaData()


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _counter(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def _flag(name: str) -> Column[bool]:
    return Column(name, sql.Boolean, nullable=False, server_default=sql.false())


def _text(name: str, length: int, **options: Any) -> Column[str]:
    return Column(name, sql.String(length), nullable=False, **options)


# One row. ``changes`` counts judgements and undone ones: a cached result is valid while it stays the same.
state = Table("feedback_schema", METADATA, Column("version", Integer, primary_key=True), _counter("changes"))

items = Table(
    "feedback_items",
    METADATA,
    _id(),
    _text("digest", 64, unique=True),
    Column("content", Text, nullable=False),  # the undecided comparison as its JSON object
    Column("folder", Text),  # that its media paths are relative to; itself relative to that of the SQLite file
    Column("responses", Integer, nullable=False),  # how many
    Column("policies", Text),  # JSON list of their policies, if the provenance names one for each
    _counter("judges"),  # annotators who judged it; skips do not count
    Index("ix_feedback_items_judges", "judges", "id"),
)

# Every item up to ``passed`` is closed to this annotator at this overlap: answered, judged by enough annotators, or
# under a lease (assignment.py looks at leases by themselves).
annotators = Table(
    "feedback_annotators",
    METADATA,
    _id(),
    _text("name", 200, unique=True),
    _text("created", 40),
    _counter("passed"),
    _counter("passed_overlap"),
)

# Rows are never deleted: an undone judgement stays as ``undone``, so that its key stays known.
judgements = Table(
    "feedback_judgements",
    METADATA,
    _id(),
    _text("key", 200, unique=True),
    Column("item_id", ForeignKey("feedback_items.id"), nullable=False),
    Column("annotator_id", ForeignKey("feedback_annotators.id"), nullable=False),
    Column("choice", Text),  # JSON, like the next three
    Column("ranking", Text),
    Column("scores", Text),
    Column("shown", Text),
    _flag("skipped"),
    _flag("undone"),
    _flag("repeated"),
    _flag("repeatable"),  # a first judgement, not yet repeated
    Column("seconds", sql.Float),
    _text("created", 40),
    # With ``undone``: otherwise SQLite rates the next index equal, and takes the one that was made first.
    Index("ix_feedback_judgements_pair", "item_id", "annotator_id", "undone"),
    Index("ix_feedback_judgements_last", "annotator_id", "undone", "id"),
    Index("ix_feedback_judgements_repeatable", "annotator_id", "repeatable", "id"),
)

leases = Table(
    "feedback_leases",
    METADATA,
    Column("item_id", ForeignKey("feedback_items.id"), primary_key=True),
    Column("annotator_id", ForeignKey("feedback_annotators.id"), primary_key=True),
    Column("repeated", sql.Boolean, nullable=False),
    Column("taken", sql.Float, nullable=False),  # seconds since the epoch
    Column("expires", sql.Float, nullable=False),
    Index("ix_feedback_leases_annotator", "annotator_id", "taken"),
)

# How many items with so many judges an annotator has judged or skipped; annotator 0 stands for all items.
tallies = Table(
    "feedback_tallies",
    METADATA,
    Column("annotator_id", Integer, primary_key=True),
    Column("judges", Integer, primary_key=True),
    Column("skipped", sql.Boolean, primary_key=True),
    Column("number", Integer, nullable=False),
)

# Files that were added completely: a server that starts again need not read them.
sources = Table(
    "feedback_sources", METADATA, _text("digest", 64, primary_key=True), Column("number", Integer, nullable=False)
)


def version_of(connection: Connection) -> int | None:
    """Version of the schema in a database; None for a database without one."""
    if not sql.inspect(connection).has_table(state.name):
        return None
    return connection.scalar(sql.select(state.c.version))


def check_version(version: int | None, name: str) -> None:
    """Check that this code reads the schema of a database.

    Raises:
        StoreError: it has another version.
    """
    if version not in (None, VERSION):
        raise StoreError(
            f"{name} has schema version {version}, and this mmenv reads only {VERSION}: export its judgements with the "
            "mmenv that made it, and import them into a new store"
        )


def create(connection: Connection) -> None:
    """Create the tables, in the connection's transaction."""
    METADATA.create_all(connection)
    if connection.scalar(sql.select(state.c.version)) is None:
        connection.execute(sql.insert(state).values(version=VERSION, changes=0))
