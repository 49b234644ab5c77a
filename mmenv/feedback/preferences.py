"""The columns that preference trainers read: prompt, chosen, rejected and images, in a folder for ``datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmenv.feedback.comparison import Comparison, ComparisonError, as_json, to_preferences

# ``datasets`` turns the column ``images_file_names`` of an image folder into ``images``, with the pictures in it.
IMAGES = "images_file_names"
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
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(as_json(row) + "\n" for row in named), "utf-8")
    temporary.replace(path)
    other.unlink(missing_ok=True)  # of an earlier export: ``datasets`` would read both
    return path, len(rows)


def _columns(row: dict[str, Any], pictured: bool) -> dict[str, Any]:
    text = {key: row[key] for key in ("prompt", "chosen", "rejected")}
    return {**text, IMAGES: row["images"]} if pictured else text


def comparison_of_preference(row: Any, sample_id: str) -> Comparison:
    """A comparison of two responses, the chosen one first.

    Args:
        row: with ``prompt``, ``chosen``, ``rejected`` and, if there is a picture, ``images`` or ``images_file_names``.
        sample_id: for rows that have none.

    Raises:
        ComparisonError: a column is missing or is no text, or there is more than one picture.
    """
    if not isinstance(row, dict):
        raise ComparisonError(f"{str(row)[:60]!r} is no object: write one preference a line")
    for key in ("prompt", "chosen", "rejected"):
        if not isinstance(row.get(key), str):
            raise ComparisonError(f"{key} {row.get(key)!r} is no text: write a string")
    images = row.get(IMAGES, row.get("images")) or []
    if not isinstance(images, list) or len(images) > 1 or not all(isinstance(path, str) for path in images):
        raise ComparisonError(f"images {images!r}: give a list of one path at most, relative to the file")
    told = {key: row[key] for key in ("sample_id", "annotator", "created") if isinstance(row.get(key), str)}
    return Comparison(
        **{"sample_id": sample_id, **told},
        prompt=row["prompt"],
        responses=(row["chosen"], row["rejected"]),
        choice=0,
        image=images[0] if images else None,
    )
