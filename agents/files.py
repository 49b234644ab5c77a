"""Files of a run: JSON written atomically and validated when read, and errors of the operating system in words."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

INTERRUPTED = 130  # the exit of a run that was, as a shell reports it
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # where launchers put how many run
_REMEDIES = {
    "config.json": "copy it from a backup, or start again with --overwrite",
    "summary.json": "delete it, and --resume writes it again",
}


class RunError(ValueError):
    """A file of a run is damaged or in use; the message names it and the remedy."""


def standard(value: Any) -> Any:
    """A value as standard JSON can hold it: None stands for nan and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: standard(v) for k, v in value.items()}
    return [standard(v) for v in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    _replace(path, json.dumps(standard(value), indent=1, allow_nan=False))


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        RunError: it is no text, no JSON, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise damaged(path, f"holds a JSON {type(value).__name__} and no object")
    return value


def read_field(path: Path, values: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """The value of a field that ``read_json`` gave.

    Args:
        path: of the file, for the message.
        values: what the file holds.
        name: of the field.
        *kinds: types that it may have; bool is no int.

    Raises:
        RunError: the field is missing or of another type.
    """
    value = values.get(name)
    if name not in values or not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        fault = f"holds {name}={value!r}" if name in values else f"lacks {name}"
        raise damaged(path, f"{fault}, where {' or '.join(k.__name__ for k in kinds)} belongs")
    return value


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(value))


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines anew, all or none."""
    _replace(path, "".join(_line(row) for row in rows))


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add one JSON line."""
    with named(path), path.open("a", encoding="utf-8") as file:
        file.write(_line(row))


def read_lines(path: Path, report: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """All JSON lines; a last line that a kill cut short is left out.

    Args:
        path: of the file; none is a file without lines.
        report: takes a message about each other line that cannot be read, which is left out.

    Raises:
        RunError: there is such a line, and no ``report``.
    """
    if not path.is_file():
        return []
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines, rows = text.split(b"\n"), []
    for number, line in enumerate(lines, 1):
        try:
            rows += [_row(line)] if line.strip() else []
        except ValueError as error:
            if number == len(lines):
                continue  # no line end: a kill cut it short
            if report is None:
                raise RunError(
                    f"{path}, line {number} {error}: copy the file from a backup, or delete that line"
                ) from error
            report(f"{path}, line {number} {error}: it is left out")
    return rows


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError("holds no JSON object")
    return row


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(standard(row), allow_nan=False) + "\n"


def _replace(path: Path, text: str) -> None:
    # The name is unique to this process, and the file is new: a link that is already there is not followed.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with named(path):
        temporary.unlink(missing_ok=True)
        try:
            with temporary.open("x", encoding="utf-8") as file:
                file.write(text)
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the path to errors of the operating system that lack it, as those of a full disk do."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def explain(error: OSError) -> str:
    """An error of the operating system in a sentence: the file, what is wrong, and what to do."""
    if error.errno is None:
        return str(error)
    remedy = {
        errno.ENOSPC: "make room on its disk; a run that had begun goes on with --resume",
        errno.EDQUOT: "make room in your quota; a run that had begun goes on with --resume",
        errno.EROFS: "have the disk writable, or give another folder",
        errno.EACCES: "have the right to use it, or give another folder",
        errno.ENOENT: "give one that exists; a run whose folder was renamed goes on with --resume and its new name",
    }.get(error.errno, "see to that; a run that had begun goes on with --resume")
    return f"{error.filename or 'a file'}: {(error.strerror or str(error)).lower()}: {remedy}"


def may_pass(error: OSError) -> bool:
    """Whether an error of the operating system is temporary, like a full disk: a later attempt may succeed."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def algorithm_of(folder: Path) -> str:
    """What a folder's run is, by its ``config.json``.

    Raises:
        FileNotFoundError: the folder holds no run.
        RunError: the file does not say.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: begin a run there with --out {folder}")
    return str(read_field(path, read_json(path), "algorithm", str))


def damaged(path: Path, fault: str) -> RunError:
    return RunError(f"{path} {fault}: {_REMEDIES.get(path.name, 'copy it from a backup, or delete it')}")
