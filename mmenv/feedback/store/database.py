"""Engines, transactions, and errors that name the database and the remedy."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from mmenv.arguments import require

POSTGRES_LOCK = 0x6D6D656E  # "mmen": the advisory lock of all writers to a PostgreSQL database


class StoreError(RuntimeError):
    """The feedback store failed; the message names the database and the remedy."""


def open_engine(url: str | Path, wait_seconds: float, create: bool = True) -> Engine:
    """An engine whose commits are on disk when they return.

    Args:
        url: path of a SQLite file, or an SQLAlchemy URL.
        wait_seconds: how long to wait for another program's lock.
        create: whether a missing SQLite file is created.

    Raises:
        StoreError: the URL is not one of SQLite or PostgreSQL, or the file is missing and not to be created.
    """
    where = _url(url)
    if where.get_backend_name() == "sqlite":
        if where.database in (None, "", ":memory:"):
            raise StoreError(f"{url} is in memory and would lose its labels: give a file, such as feedback.db")
        if not where.query:
            _check_file(Path(str(where.database)), create)
        # Each connection opens three files, and a process may not open many: threads wait for one of eight.
        pool = {"pool_size": 8, "max_overflow": 0, "pool_timeout": 3 * wait_seconds}
        engine = create_engine(where, connect_args={"timeout": wait_seconds}, **pool)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    own_options = where.query.get("options", "")
    options = f"{own_options} -c synchronous_commit=on -c lock_timeout={round(wait_seconds * 1000)}"
    with require("postgres"):
        arguments = {"options": options, "connect_timeout": 10}
        return create_engine(where, connect_args=arguments, pool_pre_ping=True, pool_timeout=3 * wait_seconds)


def _check_file(file: Path, create: bool) -> None:
    """Check that a file exists or may be created, and create its folder."""
    if not create and not file.exists():
        raise StoreError(
            f"{file} does not exist: python -m mmenv label --run DIR makes a store beside a run's samples, "
            f"python -m mmenv feedback import FILE --store {file} makes one from a file of comparisons"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{file} cannot be opened, its folder cannot be made: {error}") from error


def _url(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() in ("sqlite", "postgresql"):
            return parsed
    except (ArgumentError, NoSuchModuleError):
        pass
    raise StoreError(f"{url.split('@')[-1]!r} is not a supported database: give a file or postgresql://...")


def name_of(engine: Engine) -> str:
    """Name of a database for people: a SQLite file, or a URL without its password."""
    url = engine.url
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def root_of(engine: Engine) -> Path | None:
    """The folder of a SQLite file; None for a server, and for a file with URI parameters."""
    url = engine.url
    return real_path(str(url.database)).parent if url.get_backend_name() == "sqlite" and not url.query else None


def real_path(path: str | Path) -> Path:
    """A path without links; links in a circle stay as they are: opening them is the error that names them."""
    return Path(os.path.realpath(path))


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin in ``_begin_sqlite``, not in the driver
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = FULL")  # a commit has reached the disk when it returns
    connection.execute("PRAGMA foreign_keys = ON")


def _write_ahead(connection: sqlite3.Connection, tries: int = 100) -> None:
    """Switch to a write-ahead log; SQLite does not wait for the lock that this takes, so it is tried again."""
    for left in reversed(range(tries)):
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not left or "locked" not in str(error):
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: a reader that then wants to write could be refused without a wait.
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reading") else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads a consistent state of the database.

    Raises:
        StoreError: it cannot be read.
    """
    with _explained(engine), engine.connect().execution_options(reading=True) as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other writer overlaps.

    Raises:
        StoreError: it cannot be written; then the transaction is rolled back.
    """
    with _explained(engine), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(POSTGRES_LOCK)))
        yield connection


@contextmanager
def _explained(engine: Engine) -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as error:
        raise StoreError(f"{name_of(engine)} is busy: too many requests wait for it; try again") from error
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        raise StoreError(_explanation(name_of(engine), cause)) from error


_NO_ANSWER = "does not answer: is the server running, and are host, port and name right?"
# Parts of the databases' error messages, and the remedy.
_REMEDIES = (
    (("is locked", "lock timeout", "is busy"), "is locked by another program: close it or wait, then try again"),
    (("readonly", "read-only"), "is read-only: make the file and its folder writable, or copy it to where they are"),
    (("is full", "no space left", "could not extend"), "has no room left: free some space, then try again"),
    (("unable to open",), "cannot be opened: is its folder there and writable?"),
    (("not a database", "malformed"), "is not a valid SQLite database: restore a copy, or give another file"),
    (("connection failed", "connection refused", "could not connect"), _NO_ANSWER),
    (("closed the connection", "shutting down", "starting up"), _NO_ANSWER),
)


def _explanation(name: str, cause: BaseException) -> str:
    message = " ".join(str(cause).split())
    for parts, remedy in _REMEDIES:
        if any(part in message.lower() for part in parts):
            return f"{name} {remedy} ({message})"
    return f"{name} failed: {message}; the transaction was rolled back, try again"
