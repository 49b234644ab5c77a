"""The picture and the sounds of a comparison: their paths, loading them, and copying them beside an export."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mmenv.data.media import DEFAULT_SIDE, path_inside, read_audio, read_image
from mmenv.data.sample import Sample
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.identity import file_digest

SPOKEN = "spoken"  # in the provenance: paths of the responses as sounds, None for a response without one
MEDIA_FOLDER = "media"


def spoken_paths(comparison: Comparison) -> list[str | None]:
    """The path of each response's sound, in the item's order, from the provenance."""
    paths = comparison.provenance.get(SPOKEN)
    if not isinstance(paths, list) or len(paths) != len(comparison.responses):
        return [None] * len(comparison.responses)
    return [path if isinstance(path, str) else None for path in paths]


def media_paths(comparison: Comparison) -> dict[str, str]:
    """Paths of all media by name: ``image``, ``audio``, and ``spoken-0`` for the first response as a sound."""
    paths = {"image": comparison.image, "audio": comparison.audio}
    paths |= {f"{SPOKEN}-{i}": path for i, path in enumerate(spoken_paths(comparison))}
    return {name: path for name, path in paths.items() if path is not None}


def with_media(comparison: Comparison, paths: Mapping[str, str]) -> Comparison:
    """A comparison with these paths, by the names of ``media_paths``, and no others."""
    provenance = comparison.provenance
    if any(spoken_paths(comparison)):
        spoken = [paths.get(f"{SPOKEN}-{i}") for i in range(len(comparison.responses))]
        provenance = {**provenance, SPOKEN: spoken}
    return replace(comparison, image=paths.get("image"), audio=paths.get("audio"), provenance=provenance)


def sample_of(comparison: Comparison, folder: str | Path, index: int = 0, side: int = DEFAULT_SIDE) -> Sample:
    """The ``Sample`` of a comparison, with its media from ``folder``; paths may not leave it.

    Args:
        comparison: from a file in ``folder``.
        folder: that its media paths are relative to.
        index: number of the sample.
        side: of the square in pixels that an image is fitted into.

    Raises:
        DatasetError: a path leaves the folder, or a file is missing or broken.
    """
    root, where = Path(folder).resolve(), f"{folder}, {comparison.sample_id}"
    image = audio = None
    if comparison.image is not None:
        image = read_image(path_inside(root, where, "image", comparison.image), side, where)
    if comparison.audio is not None:
        audio = read_audio(path_inside(root, where, "audio", comparison.audio), where)
    return Sample(comparison.sample_id, index, comparison.prompt, image, audio)


def check_media(comparison: Comparison, folder: Path) -> None:
    """Check that the media of a comparison lie in ``folder``.

    Raises:
        DatasetError: a path leaves it, or a file is missing.
    """
    for name, path in media_paths(comparison).items():
        path_inside(folder.resolve(), comparison.sample_id, name, path)


def copy_media(comparison: Comparison, source: Path | None, target: Path) -> Comparison:
    """A comparison with media in ``target``: those outside it are copied to ``target/media`` under their digest.

    Args:
        comparison: with media paths relative to ``source``.
        source: folder of its media; None if it is unknown: then the paths stay as they are.
        target: folder of the export.

    Raises:
        DatasetError: a media file is missing, or its path leaves ``source``.
    """
    if source is None:
        return comparison
    paths = {}
    for name, path in media_paths(comparison).items():
        file = path_inside(source.resolve(), comparison.sample_id, name, path).resolve()
        paths[name] = _path_in(file, target.resolve())
    return with_media(comparison, paths)


def _path_in(file: Path, target: Path) -> str:
    """The path of a file relative to ``target``, copied there if it lies elsewhere."""
    if file.is_relative_to(target):
        return file.relative_to(target).as_posix()
    copy = target / MEDIA_FOLDER / f"{file_digest(file)[:24]}{file.suffix.lower()}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return copy.relative_to(target).as_posix()
