"""Tables of the feedback store, and their version."""

from __future__ import annotations

from mmenv.arguments import require

with require("labelling"):
    from sqlalchemy import (
        Boolean,
        Column,
        Connection,
        Float,
        ForeignKey,
        Index,
        Integer,
        MetaData,
        String,
        Table,
        Text,
        false,
        insert,
        inspect,
        select,
    )

VERSION = 3
METADATA = MetaData()

# One row. ``changes`` counts judgements and undone ones: whoever keeps a result knows by it whether it is still true.
state = Table(
    "feedback_schema", METADATA,
    Column("version", Integer, primary_key=True),
    Column("changes", Integer, nullable=False, server_default="0"),
)  # fmt: skip

items = Table(
    "feedback_items", METADATA,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("content", Text, nullable=False),  # the undecided comparison as its C12 object
    Column("folder", Text),  # where its media paths begin; relative ones begin beside the SQLite file
    Column("responses", Integer, nullable=False),  # how many
    Column("policies", Text),  # JSON list of their policies, where the provenance names one for each
    Column("judges", Integer, nullable=False, server_default="0"),  # annotators who judged it; skips do not count
    Index("ix_feedback_items_judges", "judges", "id"),
)  # fmt: skip

# Every item up to ``passed`` is of no use to this annotator at this overlap: he has answered it, it has its judges, or
# somebody holds a lease on it (assignment.py looks at leases by themselves).
annotators = Table(
    "feedback_annotators", METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created", String(40), nullable=False),
    Column("passed", Integer, nullable=False, server_default="0"),
    Column("passed_overlap", Integer, nullable=False, server_default="0"),
)  # fmt: skip

# Nothing is ever deleted here: what is taken back stays as ``undone``, so that its key stays known.
judgements = Table(
    "feedback_judgements", METADATA,
    Column("id", Integer, primary_key=True),
    Column("key", String(200), nullable=False, unique=True),
    Column("item_id", ForeignKey("feedback_items.id"), nullable=False),
    Column("annotator_id", ForeignKey("feedback_annotators.id"), nullable=False),
    Column("choice", Text),  # JSON, like the next three
    Column("ranking", Text),
    Column("scores", Text),
    Column("shown", Text),
    Column("skipped", Boolean, nullable=False, server_default=false()),
    Column("undone", Boolean, nullable=False, server_default=false()),
    Column("repeated", Boolean, nullable=False, server_default=false()),
    Column("repeatable", Boolean, nullable=False, server_default=false()),  # a first judgement, not yet repeated
    Column("seconds", Float),
    Column("created", String(40), nullable=False),
    # With ``undone``: else SQLite finds the next index as good, and takes whichever of the two was made first.
    Index("ix_feedback_judgements_pair", "item_id", "annotator_id", "undone"),
    Index("ix_feedback_judgements_last", "annotator_id", "undone", "id"),
    Index("ix_feedback_judgements_repeatable", "annotator_id", "repeatable", "id"),
)  # fmt: skip

leases = Table(
    "feedback_leases", METADATA,
    Column("item_id", ForeignKey("feedback_items.id"), primary_key=True),
    Column("annotator_id", ForeignKey("feedback_annotators.id"), primary_key=True),
    Column("repeated", Boolean, nullable=False),
    Column("taken", Float, nullable=False),  # seconds since the epoch
    Column("expires", Float, nullable=False),
    Index("ix_feedback_leases_annotator", "annotator_id", "taken"),
)  # fmt: skip

# How many items with so many judges an annotator has judged or skipped; annotator 0 stands for all items.
tallies = Table(
    "feedback_tallies", METADATA,
    Column("annotator_id", Integer, primary_key=True),
    Column("judges", Integer, primary_key=True),
    Column("skipped", Boolean, primary_key=True),
    Column("number", Integer, nullable=False),
)  # fmt: skip

# Files that were added whole: a server that is started again need not read them.
sources = Table(
    "feedback_sources", METADATA,
    Column("digest", String(64), primary_key=True),
    Column("number", Integer, nullable=False),  # of its items
)  # fmt: skip


def version_of(connection: Connection) -> int | None:
    """Version of the schema in a database; None where there is none yet."""
    if not inspect(connection).has_table(state.name):
        return None
    return connection.scalar(select(state.c.version))


def create(connection: Connection) -> None:
    """Make the tables, in the transaction that the connection is in."""
    METADATA.create_all(connection)
    if connection.scalar(select(state.c.version)) is None:
        connection.execute(insert(state).values(version=VERSION, changes=0))
