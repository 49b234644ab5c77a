"""What the JSON files of COCO and of VQAv2 share: reading them, and finding the pictures that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmenv.data.media import DatasetError


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        DatasetError: it holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: no UTF-8 text ({error}): save the file as UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: invalid JSON ({error}): download or write the file again") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{path} holds {type(found).__name__}, not an object: give an annotations file")
    return found


def entries(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects in the file.

    Raises:
        DatasetError: there is none under that key.
    """
    found = content.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DatasetError(f"{path}: {key} is no list of objects: see docs/data.md for the layout")
    return found


def key_of(entry: dict[str, Any], key: str) -> int | str | None:
    """A number or name by which entries refer to each other; None where it is neither."""
    found = entry.get(key)
    return found if isinstance(found, int | str) else None


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
        if (place / name).is_file():
            return place.resolve()
    raise DatasetError(f"{file}: no folder with {name} near it: give images=FOLDER, or dataset='{file}?images=FOLDER'")
