"""Comparisons on disk: JSON lines, one comparison each, and the columns that preference trainers read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mmenv.feedback.comparison import Comparison, ComparisonError

# ``datasets`` turns the column ``images_file_names`` of an image folder into ``images``, with the pictures in it.
IMAGES_COLUMN = "images_file_names"
WITH_IMAGES = "metadata.jsonl"
WITHOUT_IMAGES = "preferences.jsonl"


class Fault(NamedTuple):
    """A line that cannot be read: its number, from 1, and why."""

    line: int
    reason: str


class ComparisonLines(NamedTuple):
    """The good lines of a file, and the bad ones by number."""

    comparisons: list[Comparison]
    faults: list[Fault]


def read_comparisons(path: str | Path) -> ComparisonLines:
    """Read all comparisons of a JSON lines file; a bad line costs that line alone.

    A line with ``chosen`` and ``rejected`` is read as a preference.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: give JSON lines of comparisons, such as a run's samples.jsonl")
    comparisons, faults = [], []
    for number, line in numbered_lines(path):
        try:
            comparisons.append(comparison_of_line(line, f"{path.stem}/{number}"))
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or not a comparison
            faults.append(Fault(number, str(error)))
    return ComparisonLines(comparisons, faults)


def numbered_lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers, from 1."""
    return [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]


def comparison_of_line(line: bytes, name: str) -> Comparison:
    """The comparison of a line; ``name`` is the ``sample_id`` of a preference without one.

    Raises:
        ValueError, RecursionError: the line is not UTF-8, not JSON, or not a comparison.
    """
    row = row_of_line(line)
    if isinstance(row, dict) and not row.keys().isdisjoint(("chosen", "rejected")):
        return comparison_of_preference(row, name)
    return Comparison.from_row(row)


def row_of_line(line: bytes) -> Any:
    """The value of a line of JSON; in an object, null is the same as a missing key."""
    row = json.loads(line.decode("utf-8-sig"))
    return {key: value for key, value in row.items() if value is not None} if isinstance(row, dict) else row


def comparison_of_preference(row: Any, sample_id: str) -> Comparison:
    """A comparison of two responses, the chosen one first.

    Args:
        row: with ``prompt``, ``chosen``, ``rejected`` and, with media, ``images``, ``images_file_names`` or ``image``,
            and ``audio``.
        sample_id: for rows that have none.

    Raises:
        ComparisonError: a column is missing or is not text, or there is more than one picture.
    """
    if not isinstance(row, dict):
        raise ComparisonError(f"{str(row)[:60]!r} is not an object: write one preference a line")
    for key in ("prompt", "chosen", "rejected"):
        if not isinstance(row.get(key), str):
            raise ComparisonError(f"{key} {row.get(key)!r} is not text: write a string")
    if row["chosen"] == row["rejected"]:
        raise ComparisonError(f"chosen and rejected are the same, {row['chosen'][:60]!r}: remove the line")
    if not isinstance(row.get("audio", ""), str | None):
        raise ComparisonError(f"audio {row['audio']!r:.80} is not a path: give one, relative to the file")
    optional = ("sample_id", "annotator", "created", "audio")
    texts = {key: row[key] for key in optional if isinstance(row.get(key), str)}
    return Comparison(
        **{"sample_id": sample_id, **texts},
        prompt=row["prompt"],
        responses=(row["chosen"], row["rejected"]),
        choice=0,
        image=_image_of(row),
    )


def _image_of(row: dict[str, Any]) -> str | None:
    """The path of a preference's picture, which different trainers keep in different columns."""
    images = row.get(IMAGES_COLUMN, row.get("images")) or []
    if isinstance(images, list):
        images = [path for path in (*images, row.get("image")) if path is not None]
    if not isinstance(images, list) or len(set(map(str, images))) > 1 or not all(isinstance(p, str) for p in images):
        raise ComparisonError(f"images {images!r}: give a list of one path at most, relative to the file")
    return images[0] if images else None


def write_comparisons(path: str | Path, comparisons: Iterable[Comparison]) -> None:
    """Replace a file: after a kill it holds either the old lines or the new ones."""
    write_atomically(Path(path), "".join(as_json(c.to_row()) + "\n" for c in comparisons))


def preference_rows(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Rows of ``prompt``, ``chosen``, ``rejected`` and ``images`` (a list of paths, as TRL's DPO reads them)."""
    rows = []
    for comparison in comparisons:
        images = [] if comparison.image is None else [comparison.image]
        for better, worse in comparison.preference_pairs():
            chosen, rejected = comparison.responses[better], comparison.responses[worse]
            rows.append({"prompt": comparison.prompt, "chosen": chosen, "rejected": rejected, "images": images})
    return rows


def write_preferences(folder: Path, comparisons: Iterable[Comparison]) -> int:
    """Write a row for each pair that the judgements state, in a folder for ``datasets``; ties state no pair.

    The file is ``metadata.jsonl`` of an image folder, or ``preferences.jsonl`` if there are no pictures.

    Args:
        folder: exists already; media paths are relative to it.
        comparisons: with media in ``folder``.

    Returns:
        The number of rows.
    """
    rows = preference_rows(comparisons)
    with_images = any(row["images"] for row in rows)
    for row in rows:
        images = row.pop("images")
        if with_images:
            row[IMAGES_COLUMN] = images
    write_atomically(
        folder / (WITH_IMAGES if with_images else WITHOUT_IMAGES), "".join(as_json(r) + "\n" for r in rows)
    )
    # The file of an earlier export: ``datasets`` would read both.
    (folder / (WITHOUT_IMAGES if with_images else WITH_IMAGES)).unlink(missing_ok=True)
    return len(rows)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON that UTF-8 can hold: readable, except for halves of surrogate pairs, which stay escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return json.dumps(value, indent=indent) if re.search("[\ud800-\udfff]", text) else text


def write_atomically(path: Path, text: str) -> None:
    """Replace a file at once; a symbolic link at its temporary name is not followed."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("x", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
