"""Names of annotators, and their numbers in the database."""

from __future__ import annotations

import unicodedata

from sqlalchemy import Connection, insert, select

from mmenv.feedback.comparison import ComparisonError, now
from mmenv.feedback.store.schema import annotators

NAME_LENGTH = 200  # of the column
_JOINERS = "\u200c\u200d"  # between the parts of an emoji, and between letters that a script would join
_TAGS = dict.fromkeys(range(0xE0020, 0xE0080))  # spell the region of a flag


def check_text(kind: str, text: str, length: int = NAME_LENGTH) -> str:
    """Check a name, a key or a time, and return it.

    Raises:
        ComparisonError: it is empty, too long or not printable.
    """
    plain = text.translate({ord(joiner): None for joiner in _JOINERS} | _TAGS)
    if not 0 < len(text) <= length or not plain or not plain.isprintable():
        raise ComparisonError(f"{kind} {text[:40]!r} cannot be used: give 1 to {length} printable characters")
    return text


def normalised_name(name: str) -> str:
    """A name with composed characters (NFC), without spaces or joiners around it.

    A letter with its accent and a letter followed by an accent give the same name.
    """
    return unicodedata.normalize("NFC", name).strip(" " + _JOINERS)


def checked_name(name: str) -> str:
    """The normalised name of an annotator.

    Raises:
        ComparisonError: it is empty, too long or not printable.
    """
    return check_text("annotator", normalised_name(name))


def find_annotator(connection: Connection, name: str) -> int | None:
    """Number of an annotator; None for a name that has no row."""
    return connection.scalar(select(annotators.c.id).where(annotators.c.name == normalised_name(name)))


def annotator_number(connection: Connection, name: str) -> int:
    """Number of an annotator; a new one gets a row.

    Raises:
        ComparisonError: the name is empty, too long or not printable.
    """
    name = checked_name(name)
    number = find_annotator(connection, name)
    if number is not None:
        return number
    row = insert(annotators).values(name=name, created=now())
    return connection.execute(row.returning(annotators.c.id)).scalar_one()
