"""Pictures and sounds that travel with exported comparisons."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from mmenv.data.media import path_inside
from mmenv.feedback.comparison import Comparison, media_paths, with_media

MEDIA_FOLDER = "media"


def check_media(comparison: Comparison, folder: Path) -> None:
    """Whether the media of a comparison lie in ``folder``.

    Raises:
        DatasetError: a path leaves it, or a file is missing.
    """
    for name, path in media_paths(comparison).items():
        path_inside(folder.resolve(), comparison.sample_id, name, path)


def carry(comparison: Comparison, source: Path | None, target: Path) -> Comparison:
    """A comparison whose media lie in ``target``: there already, or copied to ``target/media`` under their digest.

    Args:
        comparison: with media paths relative to ``source``.
        source: where its media paths begin; None where that is not known, and its paths stay as they are.
        target: the folder of the file that it will stand in.

    Raises:
        DatasetError: a media file is missing, or its path leaves ``source``.
    """
    if source is None:
        return comparison
    paths = media_paths(comparison).items()
    return with_media(comparison, {k: _carry_one(comparison.sample_id, k, path, source, target) for k, path in paths})


def _carry_one(where: str, key: str, path: str, source: Path, target: Path) -> str:
    root, to = source.resolve(), target.resolve()
    file = path_inside(root, where, key, path).resolve()
    if file.is_relative_to(to):
        return file.relative_to(to).as_posix()
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:24]
    copy = to / MEDIA_FOLDER / f"{digest}{file.suffix.lower()}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return copy.relative_to(to).as_posix()
