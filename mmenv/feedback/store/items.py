"""Items of the store: undecided comparisons, where their media lie, and whether files may be read there."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from mmenv.data.media import path_inside
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_media import media_paths, with_media
from mmenv.feedback.identity import content_digest, file_digest, undecided
from mmenv.feedback.judgement import policies_json
from mmenv.feedback.store.database import StoreError, real_path
from mmenv.feedback.store.progress import count_new_items
from mmenv.feedback.store.schema import items

_CHUNK = 500  # digests in one query


class UnknownItemError(StoreError):
    """No item has this number."""


@dataclass(frozen=True)
class Item:
    """Something to judge: an undecided comparison.

    Attributes:
        id: its number.
        comparison: with media paths relative to ``folder``.
        place: the folder of its media according to the database, which may not be trusted; None if it names none.
        trusted: whether files may be read there: it is the store's own folder, or the user named it.
        repeated: whether the annotator who gets it has judged it before; it is the same item.
    """

    id: int
    comparison: Comparison
    place: Path | None
    trusted: bool = field(default=True, compare=False)
    repeated: bool = field(default=False, compare=False)

    @property
    def folder(self) -> Path | None:
        """The folder that its media paths are relative to.

        Raises:
            StoreError: there are media, and the folder is not trusted; a database from elsewhere could name any.
        """
        if not self.trusted and media_paths(self.comparison):
            raise StoreError(
                f"item {self.id} has its media in {self.place}, outside the folder of the store: "
                f"give --media {self.place} if you want them to be read"
            )
        return self.place


class MediaFolders:
    """Folders of media: how the database stores them, and which may be read.

    Those below the SQLite file's folder are stored relative to it, so that all can be moved together.

    Args:
        root: the folder of a SQLite file; None for a server.
        trusted: further folders in and below which media may be read.
    """

    def __init__(self, root: Path | None, trusted: Iterable[Path] = ()) -> None:
        self.root = root
        self.trusted = {real_path(folder) for folder in (*trusted, *([root] if root else ()))}

    def trust(self, folder: Path) -> None:
        """Let media be read in and below a folder."""
        self.trusted.add(real_path(folder))

    def stored(self, folder: Path | None) -> str | None:
        """A folder as the database has it."""
        if folder is None:
            return None
        if self.root is not None and folder.is_relative_to(self.root):
            folder = folder.relative_to(self.root)
        return folder.as_posix()

    def path(self, stored: str | None) -> Path | None:
        """The folder that the database has as ``stored``."""
        return None if stored is None else (self.root or Path()) / stored

    def trusts(self, folder: Path | None) -> bool:
        """Whether files may be read in a folder."""
        return folder is None or any(_cached_real_path(folder).is_relative_to(one) for one in self.trusted)


@functools.lru_cache(1024)
def _cached_real_path(folder: Path) -> Path:
    return real_path(folder)


def item_of(row: Row[Any], folders: MediaFolders, number: int | None = None) -> Item:
    """The item of a row that has its content and folder; ``number`` is its id if the row's is another table's."""
    folder = folders.path(row.folder)
    comparison = Comparison.from_row(json.loads(row.content))
    return Item(row.id if number is None else number, comparison, folder, folders.trusts(folder))


def find_item(connection: Connection, item_id: int, folders: MediaFolders, store: str) -> Item:
    """An item by its number.

    Raises:
        UnknownItemError: no item of ``store``, the name of the database, has this number.
    """
    row = None
    if 0 < item_id < 2**31:  # what the column can hold
        row = connection.execute(select(items).where(items.c.id == item_id)).first()
    if row is None:
        raise UnknownItemError(f"item {item_id} is not in {store}: add its comparison first")
    return item_of(row, folders)


def item_rows(comparisons: Sequence[Comparison], root: Path | None, folders: MediaFolders) -> list[dict[str, Any]]:
    """Rows of comparisons without their judgements; digests are the same wherever the media lie.

    Raises:
        DatasetError: a media path leaves ``root``, or its file is missing.
    """
    digests: dict[str, str] = {}  # of files, by path: each is read once
    rows = []
    for comparison in map(undecided, comparisons):
        digested = comparison
        if root is not None:
            paths = media_paths(comparison)
            for name, path in paths.items():
                if path not in digests:
                    digests[path] = file_digest(path_inside(root, comparison.sample_id, name, path))
            digested = with_media(comparison, {name: digests[path] for name, path in paths.items()})
        row = {
            "digest": content_digest(digested),
            "content": json.dumps(comparison.to_row()),
            "folder": folders.stored(root),
            "responses": len(comparison.responses),
            "policies": policies_json(comparison),
        }
        rows.append(row)
    return rows


def add_items(connection: Connection, rows: Sequence[dict[str, Any]], folders: MediaFolders) -> dict[str, int]:
    """Ids of items by their digests; new items are added."""
    stored = _find_digests(connection, [row["digest"] for row in rows])
    _replace_missing_folders(connection, stored, rows, folders)
    ids = {digest: row.id for digest, row in stored.items()}
    new = list({row["digest"]: row for row in rows if row["digest"] not in ids}.values())
    if new:
        statement = insert(items).returning(items.c.digest, items.c.id, sort_by_parameter_order=True)
        ids |= {row.digest: row.id for row in connection.execute(statement, new)}
        count_new_items(connection, len(new))
    return ids


def _find_digests(connection: Connection, digests: list[str]) -> dict[str, Row[Any]]:
    """Ids and folders of the stored items among these digests."""
    stored: dict[str, Row[Any]] = {}
    query = select(items.c.digest, items.c.id, items.c.folder)
    for start in range(0, len(digests), _CHUNK):
        chunk = query.where(items.c.digest.in_(digests[start : start + _CHUNK]))
        stored |= {row.digest: row for row in connection.execute(chunk)}
    return stored


def _replace_missing_folders(
    connection: Connection, stored: Mapping[str, Row[Any]], rows: Iterable[dict[str, Any]], folders: MediaFolders
) -> None:
    """Give items whose folder no longer exists the folder, and the paths, that they were added with now."""
    for row in rows:
        old = stored.get(row["digest"])
        folder = None if old is None else folders.path(old.folder)
        if old is not None and folder is not None and row["folder"] is not None and not folder.is_dir():
            statement = update(items).where(items.c.id == old.id)
            connection.execute(statement.values(folder=row["folder"], content=row["content"]))
