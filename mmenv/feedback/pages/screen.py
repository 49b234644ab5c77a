"""What an annotator sees of an item: responses in blind order, and media by address."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmenv.data.media import DatasetError, path_inside
from mmenv.feedback.comparison import SPOKEN, Comparison, media_paths, spoken_paths
from mmenv.feedback.store.records import Item

# What browsers play and show by themselves; SVG is left out because it can hold scripts.
MEDIA_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif",
    ".bmp": "image/bmp", ".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg",
}  # fmt: skip


def shown_order(annotator: str, item: Item) -> list[int]:
    """Which response stands in each place: drawn for this annotator and item, and turned round where it comes again.

    A repeat tells both whether people agree with themselves, and whether they go by the place.
    """
    order = list(range(len(item.comparison.responses)))
    random.Random(f"{annotator}\n{item.id}").shuffle(order)
    return order[::-1] if item.repeated else order


def sendable(text: str) -> str:
    """A text with halves of characters, which JSON can hold and UTF-8 cannot, replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def view_of(item: Item, annotator: str) -> dict[str, Any]:
    """An item for the page: nothing in it says which policy a response comes from."""
    comparison, base = item.comparison, f"/media/{item.id}"
    spoken = spoken_paths(comparison)
    return {
        "id": item.id,
        "prompt": sendable(comparison.prompt),
        "image": f"{base}/image" if comparison.image else None,
        "audio": f"{base}/audio" if comparison.audio else None,
        "responses": [
            {"text": sendable(comparison.responses[i]), "audio": f"{base}/{SPOKEN}-{i}" if spoken[i] else None}
            for i in shown_order(annotator, item)
        ],
    }


def media_file(item: Item, name: str) -> tuple[Path, str]:
    """File and media type of an item's ``image``, ``audio`` or ``spoken-INDEX``.

    Raises:
        DatasetError: the item has none, its path leaves the folder, or browsers do not know its kind.
    """
    comparison, where = item.comparison, f"item {item.id}"
    paths = media_paths(comparison)
    if item.folder is None or name not in paths:
        raise DatasetError(f"{where}: no {name!r}: give the folder of its media when adding it")
    path = path_inside(item.folder.resolve(), where, name, paths[name])
    kind = MEDIA_TYPES.get(path.suffix.lower(), "")
    if kind.partition("/")[0] != ("image" if name == "image" else "audio"):
        raise DatasetError(f"{where}: {name} {path.name!r} is of no kind that browsers know: use {_kinds()}")
    return path, kind


def _kinds() -> str:
    return ", ".join(MEDIA_TYPES)


def worth_asking(comparisons: Sequence[Comparison], mode: str) -> tuple[list[Comparison], int]:
    """Those that a mode can ask about, and how many cannot be: nothing to choose between."""
    if mode == "score":
        return list(comparisons), 0
    fit = [c for c in comparisons if len({*zip(c.responses, spoken_paths(c), strict=True)}) > 1]
    return fit, len(comparisons) - len(fit)
