"""Tables of the feedback store, their version, and how an older version becomes this one."""

from __future__ import annotations

try:
    from sqlalchemy import (
        JSON,
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
        update,
    )
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing: pip install -c constraints.txt -e ".[labelling]"') from error

VERSION = 2
METADATA = MetaData()

version_table = Table("feedback_schema", METADATA, Column("version", Integer, nullable=False))

items = Table(
    "feedback_items", METADATA,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("content", Text, nullable=False),  # the undecided comparison as its C12 object
    Column("folder", Text),  # where its media paths begin; relative ones begin beside the SQLite file
)  # fmt: skip

annotators = Table(
    "feedback_annotators", METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created", String(40), nullable=False),
)  # fmt: skip

_NULLABLE_JSON = JSON(none_as_null=True)

# Nothing is ever deleted here: what is taken back stays as ``undone``, so that its key stays known.
judgements = Table(
    "feedback_judgements", METADATA,
    Column("id", Integer, primary_key=True),
    Column("key", String(200), nullable=False, unique=True),
    Column("item_id", ForeignKey("feedback_items.id"), nullable=False),
    Column("annotator_id", ForeignKey("feedback_annotators.id"), nullable=False, index=True),
    Column("choice", _NULLABLE_JSON),
    Column("ranking", _NULLABLE_JSON),
    Column("scores", _NULLABLE_JSON),
    Column("skipped", Boolean, nullable=False, server_default=false()),
    Column("undone", Boolean, nullable=False, server_default=false()),
    Column("repeated", Boolean, nullable=False, server_default=false()),
    Column("shown", _NULLABLE_JSON),
    Column("seconds", Float),
    Column("created", String(40), nullable=False),
    Index("ix_feedback_judgements_pair", "item_id", "annotator_id"),
)  # fmt: skip

leases = Table(
    "feedback_leases", METADATA,
    Column("item_id", ForeignKey("feedback_items.id"), primary_key=True),
    Column("annotator_id", ForeignKey("feedback_annotators.id"), primary_key=True),
    Column("repeated", Boolean, nullable=False),
    Column("taken", Float, nullable=False),  # seconds since the epoch
    Column("expires", Float, nullable=False),
)  # fmt: skip

# From each version to the next. Leases are worth minutes: they are made anew.
MIGRATIONS = {
    1: (
        "ALTER TABLE feedback_judgements ADD COLUMN undone BOOLEAN DEFAULT false NOT NULL",
        "ALTER TABLE feedback_judgements ADD COLUMN repeated BOOLEAN DEFAULT false NOT NULL",
        "ALTER TABLE feedback_judgements ADD COLUMN shown JSON",
        "ALTER TABLE feedback_judgements ADD COLUMN seconds FLOAT",
        "CREATE INDEX ix_feedback_judgements_pair ON feedback_judgements (item_id, annotator_id)",
        "DROP TABLE feedback_leases",
    ),
}


def version_of(connection: Connection) -> int | None:
    """Version of the schema in a database; None where there is none yet."""
    if not inspect(connection).has_table(version_table.name):
        return None
    return connection.scalar(select(version_table.c.version))


def bring_up_to_date(connection: Connection) -> None:
    """Make the tables, or migrate older ones, in the transaction that the connection is in."""
    version = version_of(connection)
    for old in range(VERSION if version is None else version, VERSION):
        for statement in MIGRATIONS[old]:
            connection.exec_driver_sql(statement)
    METADATA.create_all(connection)
    if version is None:
        connection.execute(insert(version_table).values(version=VERSION))
    elif version < VERSION:
        connection.execute(update(version_table).values(version=VERSION))
