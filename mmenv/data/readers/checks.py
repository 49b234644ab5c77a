"""What readers share: JSON without nulls, and checks of texts and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmenv.data.media import DatasetError

LONGEST_TEXT = 100_000  # characters of a prompt or an answer; a longer one is a file in the wrong place


def parsed(text: str) -> Any:
    """The value of a JSON text. A null in an object is the same as no entry: programs that export write either.

    Raises:
        ValueError: it is no JSON, or holds a number of thousands of digits.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_without_nulls)


def _without_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value is not None}


def checked_text(where: str, key: str, value: Any) -> str:
    """A text that can be stored and shown.

    Raises:
        DatasetError: it is no string, is too long, or holds half a surrogate pair.
    """
    if not isinstance(value, str):
        raise DatasetError(f"{where}: {key} {shortened(value)} is no text: write a string")
    if len(value) > LONGEST_TEXT:
        raise DatasetError(f"{where}: {key} has {len(value):,} characters, more than {LONGEST_TEXT:,}: shorten it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{where}: {key} holds half a surrogate pair ({error}): write the character") from error
    return value


def checked_texts(where: str, key: str, value: Any, remedy: str) -> tuple[str, ...]:
    """A text or a list of texts, without nulls.

    Args:
        where: file and line, for errors.
        key: name of the column.
        value: what it holds.
        remedy: for a text of spaces.

    Raises:
        DatasetError: one of them cannot be stored and shown, or is empty.
    """
    values = value if isinstance(value, list) else [value]
    texts = tuple(checked_text(where, key, text) for text in values if text is not None)
    if not all(text.strip() for text in texts):
        raise DatasetError(f"{where}: {key} {shortened(values)} holds an empty text: {remedy}")
    return texts


def shortened(value: Any, most: int = 80) -> str:
    """A value for an error message, of at most ``most`` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or half a surrogate pair
        return False
