"""Where a store's items have their media, and whether files may be read there."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path


class Folders:
    """Folders as a database keeps them: those below its own relative to it, so that all can be moved together.

    Args:
        root: the folder of a SQLite file; None for a server.
        named: folders in and below which media may be read beside that.
    """

    def __init__(self, root: Path | None, named: Iterable[Path] = ()) -> None:
        self.root = root
        self.named = {resolved(folder) for folder in (*named, *([root] if root else ()))}

    def name(self, folder: Path) -> None:
        """Let media be read in and below a folder."""
        self.named.add(resolved(folder))

    def kept(self, folder: Path | None) -> str | None:
        """A folder as the database has it."""
        if folder is None:
            return None
        inside = self.root is not None and folder.is_relative_to(self.root)
        return (folder.relative_to(self.root) if inside and self.root else folder).as_posix()

    def place(self, kept: str | None) -> Path | None:
        """The folder that ``kept`` stands for."""
        return None if kept is None else (self.root or Path()) / kept

    def trusts(self, folder: Path | None) -> bool:
        """Whether files may be read in a folder; a database from elsewhere could say any."""
        return folder is None or any(_remembered(folder).is_relative_to(named) for named in self.named)


def resolved(path: str | Path) -> Path:
    """A path without links; of links in a circle, which lead nowhere, as it is: whoever opens it says what is wrong."""
    return Path(os.path.realpath(path))


@functools.lru_cache(1024)
def _remembered(folder: Path) -> Path:
    return resolved(folder)
