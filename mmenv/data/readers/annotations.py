"""What JSON files of data share: reading them without nulls, checking their texts, finding pictures that they name."""

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
        DatasetError: it is none, is too long, or holds half a surrogate pair.
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


def shortened(value: Any, most: int = 80) -> str:
    """A value for an error message, of so many characters at most."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        DatasetError: it holds none.
    """
    try:
        found = parsed(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: no UTF-8 text ({error}): save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: invalid JSON ({error}): download or write the file again") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{path} holds {type(found).__name__}, not an object: give an annotations file")
    return found


def entries(path: Path, content: dict[str, Any], key: str, faults: list[str]) -> dict[int, dict[str, Any]]:
    """The objects of a list in the file, by their place; what is none goes to ``faults``.

    Raises:
        DatasetError: there is no list under that key.
    """
    found = content.get(key)
    if not isinstance(found, list):
        raise DatasetError(f"{path}: {key} is no list of objects: see docs/data.md for the layout")
    told = {i: entry for i, entry in enumerate(found) if entry is not None}
    odd = {i: entry for i, entry in told.items() if not isinstance(entry, dict)}
    faults += [f"{path}, {key}[{i}]: {shortened(e)} is no object: remove it" for i, e in odd.items()]
    return {i: entry for i, entry in told.items() if i not in odd}


def key_of(entry: dict[str, Any], key: str) -> int | str | None:
    """A number or name by which entries refer to each other; None where it is neither."""
    found = entry.get(key)
    return found if isinstance(found, int | str) else None


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or half a surrogate pair
        return False


def image_folder(file: Path, images: Path | None, subset: str, name: str) -> Path:
    """Where the pictures lie: as given, or the first usual place that holds one by ``name``.

    Args:
        file: the annotations.
        images: as given; None looks beside the file and beside its folder.
        subset: ``"train2014"``, say.
        name: file name of a picture.

    Raises:
        DatasetError: nowhere.
    """
    if images is not None:
        if not images.is_dir():
            raise DatasetError(f"images={str(images)!r} is no folder: give the one that holds {name}")
        return images.resolve()
    places = [base / part for base in (file.parent, file.parent.parent) for part in (".", subset, "images")]
    places += [base / "images" / subset for base in (file.parent, file.parent.parent)]
    for place in places:
        if is_file(place / name):
            return place.resolve()
    raise DatasetError(f"{file}: no folder with {name} near it: give images=FOLDER, or dataset='{file}?images=FOLDER'")
