"""Decoded pictures on disk, so that a second epoch or run need not decode them again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.data.media import Source

VARIABLE = "MMENV_CACHE"
LIMIT = "MMENV_CACHE_GB"  # environment variable: most gigabytes of all files together
DEFAULT_LIMIT = "10"
VERSION = "2"  # of how pictures are checked, decoded and fitted; another one leaves old files alone
_CHECK = 4  # bytes of a slot that say whether the rest is what it should be


def cache_folder() -> Path | None:
    """Folder of decoded pictures: ``MMENV_CACHE`` or the user's cache of this platform; None where that is "off"."""
    value = os.environ.get(VARIABLE)
    if value is not None:
        return Path(value) if value and value != "off" else None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))) / "mmenv" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mmenv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmenv"


def clear_cache(folder: Path | None = None) -> None:
    """Delete all decoded pictures; they are decoded again when they are used.

    Args:
        folder: None for ``cache_folder()``.
    """
    for path in _files(folder or cache_folder()):
        path.unlink(missing_ok=True)


def _files(folder: Path | None) -> list[Path]:
    """The files of the cache, that of the longest unused dataset first."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(folder.glob("*.images"), key=lambda path: path.stat().st_mtime_ns)


def _evict(folder: Path, room: int, keep: Path) -> None:
    """Delete files of the datasets that were unused for longest, until the others take no more than ``room`` bytes."""
    others = [path for path in _files(folder) if path != keep]
    sizes = [_allocated(path) for path in others]
    while others and sum(sizes) > room:
        with contextlib.suppress(OSError):  # Windows deletes no file that another process has open
            others[0].unlink()
        others, sizes = others[1:], sizes[1:]


def _allocated(path: Path) -> int:
    """Bytes that a file takes on the disk: slots that are empty take none."""
    status = path.stat()
    return int(getattr(status, "st_blocks", status.st_size / 512) * 512)


class ImageCache:
    """A file of slots, one for each picture of a dataset, read through a memory map.

    A slot begins with a checksum over its pixels and over path, size and time of the picture's file: an empty, a half
    written and an outdated slot all fail it, and the picture is decoded again. Where the folder cannot be written
    nothing is kept.

    All files together take at most ``MMENV_CACHE_GB`` gigabytes (10 by default): when a dataset is opened, files of
    those unused for longest are deleted until it fits. One that is larger than the limit is not kept.

    Args:
        name: of the dataset; with ``side`` it names the file.
        sources: its pictures.
        side: of the squares in pixels.
        folder: None for ``cache_folder()``.
    """

    def __init__(self, name: str, sources: Iterable[Source], side: int, folder: Path | None = None) -> None:
        self.slots = {key: i for i, key in enumerate(dict.fromkeys(map(source_key, sources)))}
        self.shape = (side, side, 3)
        folder = folder or cache_folder()
        key = hashlib.sha256(f"{VERSION}\n{name}\n{side}".encode()).hexdigest()[:24]
        self.path = None if folder is None else folder / f"{key}.images"
        self._map: np.ndarray | None = None
        self._ready = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None, "_ready": False}

    def get(self, source: Source) -> np.ndarray | None:
        """The cached pixels, uint8 (side, side, 3), read-only; None where there are none or the file has changed."""
        slots = self._open()
        if slots is None:
            return None
        slot = np.array(slots[self.slots[source_key(source)]])
        pixels = slot[_CHECK:]
        if slot[:_CHECK].tobytes() != _checksum(source, pixels.tobytes()):
            return None
        pixels.flags.writeable = False
        return pixels.reshape(self.shape)

    def put(self, source: Source, pixels: np.ndarray) -> None:
        """Cache pixels; does nothing on a full disk."""
        if self._open() is None or self.path is None:
            return
        raw = pixels.tobytes()
        # Not through the map: a full disk would end the process instead of raising.
        with contextlib.suppress(OSError), self.path.open("r+b") as file:
            file.seek(self.slots[source_key(source)] * (_CHECK + len(raw)))
            file.write(_checksum(source, raw) + raw)

    def _open(self) -> np.ndarray | None:
        """The map, (slots, bytes); made anew where the file is missing or of another size."""
        if not self._ready:
            self._ready = True
            with contextlib.suppress(OSError):
                self._map = self._mapped()
        return self._map

    def _mapped(self) -> np.ndarray | None:
        width = _CHECK + int(np.prod(self.shape))
        if self.path is None or not self.slots:
            return None
        size = len(self.slots) * width
        limit = int(float(os.environ.get(LIMIT) or DEFAULT_LIMIT) * 1e9)
        if size > limit:
            return None
        _evict(self.path.parent, limit - size, self.path)
        if not self.path.is_file() or self.path.stat().st_size != size:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                file.truncate(size)  # takes no room until slots are filled
            temporary.replace(self.path)
        os.utime(self.path)  # used now: eviction begins with the oldest
        with self.path.open("r+b"):  # raises where nothing could be kept
            return np.memmap(self.path, np.uint8, "r", shape=(len(self.slots), width))


def source_key(source: Source) -> tuple[str, str, int]:
    """What identifies a picture: path, or table, column and row."""
    return (str(source), "", 0) if isinstance(source, Path) else (source.name, source.column, source.number)


def _checksum(source: Source, pixels: bytes) -> bytes:
    """Checksum of pixels and of the file they come from; never that of an empty slot."""
    stamp = repr(source_key(source))
    if isinstance(source, Path):
        with contextlib.suppress(OSError):  # a file that is gone is missed when it is decoded
            status = source.stat()
            stamp += f"|{status.st_size}|{status.st_mtime_ns}"
    return max(1, zlib.crc32(pixels, zlib.crc32(stamp.encode()))).to_bytes(_CHECK, "little")
