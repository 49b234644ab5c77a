"""The columns that preference trainers read: prompt, chosen, rejected and images, in a folder for ``datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmenv.feedback.comparison import IMAGES_COLUMN, Comparison, as_json, to_preferences, write_whole

WITH_IMAGES, WITHOUT = "metadata.jsonl", "preferences.jsonl"


def write_preferences(folder: Path, comparisons: list[Comparison]) -> tuple[Path, int]:
    """Write all pairs that some comparisons state; ties state none.

    Args:
        folder: made where it is missing; media paths begin there.
        comparisons: with media in ``folder``.

    Returns:
        The file, and its number of rows: ``metadata.jsonl`` of an image folder, or ``preferences.jsonl`` without
        pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = to_preferences(comparisons)
    pictured = any(row["images"] for row in rows)
    path, other = (folder / name for name in ((WITH_IMAGES, WITHOUT) if pictured else (WITHOUT, WITH_IMAGES)))
    named = [_columns(row, pictured) for row in rows]
    write_whole(path, "".join(as_json(row) + "\n" for row in named))
    other.unlink(missing_ok=True)  # of an earlier export: ``datasets`` would read both
    return path, len(rows)


def _columns(row: dict[str, Any], pictured: bool) -> dict[str, Any]:
    text = {key: row[key] for key in ("prompt", "chosen", "rejected")}
    return {**text, IMAGES_COLUMN: row["images"]} if pictured else text
