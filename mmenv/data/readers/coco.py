"""Rows of COCO's captions: ``captions_train2014.json`` and whatever has its layout.

https://cocodataset.org/#format-data: ``images`` with ``id`` and ``file_name``, ``annotations`` with ``image_id`` and
``caption``. A picture is one sample, its captions are the references.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmenv.data.dataset import Reading, Row, Turn, row_of, tried
from mmenv.data.media import DatasetError, check_image, path_inside
from mmenv.data.readers.annotations import checked_text, entries, image_folder, key_of
from mmenv.data.sample import CAPTION_PROMPT


def read_coco(path: Path, content: dict[str, Any], images: Path | None = None) -> Reading:
    """All pictures with their captions, and all faults.

    Args:
        path: the file, for errors.
        content: what it holds.
        images: folder of the pictures; None looks in the usual places.

    Raises:
        DatasetError: the layout is another one, or the pictures are nowhere.
    """
    faults: list[str] = []
    pictures = entries(path, content, "images", faults)
    captions = _captions(path, content, {key_of(p, "id") for p in pictures.values()}, faults)
    names = [p["file_name"] for p in pictures.values() if isinstance(p.get("file_name"), str)]
    if not names:
        raise DatasetError(f"{path}: images name no files: give each a file_name")
    subset = path.stem.rpartition("_")[2]  # captions_train2014
    folders = [found for name in names[:20] if (found := _folder(path, images, subset, name)) is not None]
    root = folders[0] if folders else image_folder(path, images, subset, names[0])
    rows = []
    for i, picture in pictures.items():
        where = f"{path}, images[{i}]"
        row = row_of(faults, where, _row, root, where, picture, captions, faults)
        rows += [] if row is None else [row]
    return Reading(str(path), rows, faults)


def _row(
    root: Path, where: str, picture: dict[str, Any], captions: dict[Any, list[str]], faults: list[str]
) -> Row | None:
    """A picture with its captions; None where something is wrong, which goes to ``faults``."""
    wrong: list[str] = []
    name = tried(wrong, path_inside, root, where, "file_name", picture.get("file_name"))
    if name is not None:
        tried(wrong, check_image, name, where)
    number = key_of(picture, "id")
    if number is None:
        wrong.append(f"{where}: id {picture.get('id')!r} is no number: give each picture one")
    faults += wrong
    turn = Turn(CAPTION_PROMPT, references=tuple(captions.get(number, ())))
    return None if wrong else Row(where, str(number), name, (turn,))


def _folder(path: Path, images: Path | None, subset: str, name: str) -> Path | None:
    return tried([], image_folder, path, images, subset, name)


def _captions(path: Path, content: dict[str, Any], known: set[Any], faults: list[str]) -> dict[Any, list[str]]:
    """Captions by the id of their picture."""
    found: dict[Any, list[str]] = {}
    if "annotations" not in content:  # image_info_test2014.json has none
        return found
    for i, entry in entries(path, content, "annotations", faults).items():
        where, picture = f"{path}, annotations[{i}]", key_of(entry, "image_id")
        text = tried(faults, checked_text, where, "caption", entry.get("caption"))
        if text is None:
            continue
        if not text.strip():
            faults.append(f"{where}: caption {text!r} is no text: write one, or remove the entry")
        elif picture is None or picture not in known:
            odd = entry.get("image_id")
            faults.append(f"{where}: image_id {odd!r} is none of the images: add it, or remove the entry")
        else:
            found.setdefault(picture, []).append(" ".join(text.split()))
    return found
