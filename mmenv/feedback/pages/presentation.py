"""How an item is presented to an annotator: responses in blind order, and URLs of its media."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmenv.data.media import DatasetError, path_inside
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_media import SPOKEN, media_paths, spoken_paths
from mmenv.feedback.store import Item

# Formats that browsers play and show; SVG is left out because it can hold scripts.
IMAGE_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif", ".bmp": "bmp"}
AUDIO_TYPES = {".wav": "wav", ".flac": "flac", ".ogg": "ogg", ".mp3": "mpeg"}
MEDIA_TYPES = {suffix: f"image/{kind}" for suffix, kind in IMAGE_TYPES.items()}
MEDIA_TYPES |= {suffix: f"audio/{kind}" for suffix, kind in AUDIO_TYPES.items()}


def shown_order(annotator: str, item: Item) -> list[int]:
    """The response index at each place on the screen: drawn for this annotator and item, and reversed for a repeat.

    A repeat therefore shows both self-agreement and position bias.
    """
    order = list(range(len(item.comparison.responses)))
    random.Random(f"{annotator}\n{item.id}").shuffle(order)
    return order[::-1] if item.repeated else order


def valid_unicode(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def view_of(item: Item | None, annotator: str) -> dict[str, Any] | None:
    """An item as JSON for the page, without the policies of its responses; None for None."""
    if item is None:
        return None
    comparison = item.comparison
    base = f"/media/{item.id}"
    spoken = spoken_paths(comparison)
    return {
        "id": item.id,
        "prompt": valid_unicode(comparison.prompt),
        "image": f"{base}/image" if comparison.image else None,
        "audio": f"{base}/audio" if comparison.audio else None,
        "responses": [
            {"text": valid_unicode(comparison.responses[i]), "audio": f"{base}/{SPOKEN}-{i}" if spoken[i] else None}
            for i in shown_order(annotator, item)
        ],
    }


def media_file(item: Item, name: str) -> tuple[Path, str]:
    """File and media type of an item's ``image``, ``audio`` or ``spoken-INDEX``.

    Raises:
        DatasetError: the item has none, its path leaves the folder, or browsers do not know its format.
    """
    where = f"item {item.id}"
    paths = media_paths(item.comparison)
    if item.folder is None or name not in paths:
        raise DatasetError(f"{where}: no {name!r}: give the folder of its media when adding it")
    path = path_inside(item.folder.resolve(), where, name, paths[name])
    kind = MEDIA_TYPES.get(path.suffix.lower(), "")
    if kind.partition("/")[0] != ("image" if name == "image" else "audio"):
        raise DatasetError(
            f"{where}: {name} {path.name!r} has no format that browsers know: use {', '.join(MEDIA_TYPES)}"
        )
    return path, kind


def labellable(comparisons: Sequence[Comparison], mode: str) -> list[Comparison]:
    """Comparisons that can be labelled in a mode: all to score, those with different responses to choose between."""
    if mode == "score":
        return list(comparisons)
    return [c for c in comparisons if len({*zip(c.responses, spoken_paths(c), strict=True)}) > 1]
