"""Rows of a ``datasets.Dataset``: which column is the picture, the sound, the prompt, the references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmenv.data.dataset import SPLIT_NAMES, CheckedRows, DatasetRow, DatasetTurn, MediaDataset, without_doubles
from mmenv.data.faults import Faults
from mmenv.data.media import DatasetError, Packed, Source, check_sound
from mmenv.data.readers.by_path import as_dataset
from mmenv.data.readers.checks import checked_text, checked_texts, is_file
from mmenv.data.readers.manifest import ANSWERS, CAPTIONS, PROMPTS
from mmenv.data.sample import CAPTION_PROMPT

_NAMES = {
    "image": ("image", "img", "picture", "images"),
    "audio": ("audio", "sound", "speech"),
    "prompt": PROMPTS,
    "references": ANSWERS,
    "id": ("id", "question_id"),
}
_MEDIA = ("image", "audio")


def from_datasets(
    dataset: Any,
    image: str | None = None,
    audio: str | None = None,
    prompt: str | None = None,
    references: str | None = None,
    id: str | None = None,
    image_size: int | None = None,
    broken: str = "refuse",
) -> MediaDataset:
    """Samples of a ``datasets.Dataset``, or of a ``DatasetDict`` whose keys are its splits.

    Args:
        dataset: with the media in columns of type ``Image`` and ``Audio``.
        image, audio, prompt, references, id: names of the columns; None looks for usual names. ``references`` holds a
            text or a list of them; without ``prompt`` the task is captioning, or the sound is the prompt.
        image_size: side in pixels of the square that images are fitted into; None for 96.
        broken: ``"refuse"``, or ``"skip"`` to leave broken rows out.

    Raises:
        DatasetError: names the column and the remedy.
    """
    tables = dict(dataset) if isinstance(dataset, Mapping) else {"": dataset}
    requested = {"image": image, "audio": audio, "prompt": prompt, "references": references, "id": id}
    named = _ids_are_unique(tables, id)
    rows: list[DatasetRow] = []
    faults: list[str] = []
    for name, table in tables.items():
        part = _checked(table, requested, _split_of(name) if len(tables) > 1 or name else "", named)
        rows += part.rows
        faults += part.faults
    key = ":".join(str(table._fingerprint) for table in tables.values())
    checked = without_doubles(CheckedRows(f"datasets {key}", rows, faults))
    return as_dataset(checked, image_size, broken)


def _split_of(name: str) -> str:
    if name and str(name).lower() not in SPLIT_NAMES:
        raise DatasetError(
            f"split {name!r} is none of train, validation and test: pass the Dataset, not the dictionary"
        )
    return SPLIT_NAMES[str(name).lower()] if name else ""


def _ids_are_unique(tables: Mapping[str, Any], id: str | None) -> bool:
    """Whether the values of the column of ids are unique over all splits."""
    ids: list[str] = []
    for table in tables.values():
        if "Iterable" in type(table).__name__:
            raise DatasetError("a streamed dataset has no length: load it without streaming=True")
        column = _column(table, "id", id)
        ids += [] if column is None else map(str, table[column])
    return len(set(ids)) == len(ids)


def _checked(table: Any, requested: dict[str, str | None], split: str, named: bool) -> CheckedRows:
    columns = {role: _column(table, role, name) for role, name in requested.items()}
    if columns["image"] is None and columns["audio"] is None:
        raise DatasetError(f"no column of pictures or sounds among {table.column_names}: name it, image='...'")
    if requested["id"] is None and not named:
        columns["id"] = None
    raw = _undecoded(table, columns)
    texts = table.select_columns([c for role, c in columns.items() if c is not None and role not in _MEDIA])
    is_question = columns["references"] in CAPTIONS or columns["audio"] is None
    outside = {role: _sources(raw, c) for role in _MEDIA if (c := columns[role]) is not None}
    rows: list[DatasetRow] = []
    faults = Faults()
    label = f"row{f' of {split}' if split else ''}"
    for i in range(len(table)):
        where, entry = f"{label} {i}", texts[i] if texts.column_names else {}
        media = {role: source for role, files in outside.items() if (source := files(where, i)) is not None}
        row = faults.check_entry(
            where, _row, where, entry, columns, media, i, CAPTION_PROMPT if is_question else "", split
        )
        rows += [] if row is None else [row]
    return CheckedRows("", rows, faults.sentences)


def _column(table: Any, role: str, name: str | None) -> str | None:
    """The column of a role: as given, by its type, or by a usual name."""
    if name is not None:
        if name not in table.column_names:
            raise DatasetError(f"{role}={name!r} is no column: there are {', '.join(table.column_names)}")
        return name
    typed = [c for c, feature in table.features.items() if type(feature).__name__.lower() == role]
    if role in _MEDIA and len(typed) == 1:
        return typed[0]
    return next((c for c in _NAMES[role] if c in table.column_names and (role not in _MEDIA or not typed)), None)


def _undecoded(table: Any, columns: dict[str, str | None]) -> Any:
    """The media columns alone, as bytes."""
    import datasets

    kinds = {"image": datasets.Image, "audio": datasets.Audio}
    raw = table.select_columns([c for role in _MEDIA if (c := columns[role]) is not None])
    for role, kind in kinds.items():
        column = columns[role]
        if column is None:
            continue
        feature = table.features[column]
        plain = isinstance(feature, datasets.Value) and feature.dtype in ("string", "binary")
        if not plain and not isinstance(feature, datasets.Image | datasets.Audio):
            remedy = f"table.cast_column({column!r}, datasets.{kind.__name__}())"
            raise DatasetError(f"column {column!r} is {feature}, no {role}: {remedy}")
        raw = raw.cast_column(column, kind(decode=False))
    return raw


def _sources(raw: Any, column: str) -> Callable[[str, int], Source | None]:
    """What finds the medium of a row, by its name for errors and its number; None where the cell is empty.

    A row that names a file instead of holding it is that file: of one it is noticed when it changes.
    """
    names = raw.select_columns([column]).flatten()[f"{column}.path"]

    def find(where: str, i: int) -> Source | None:
        if not names[i]:
            cell = raw[i][column]
            return Packed(where, raw, column, i) if cell is not None and cell["bytes"] else None
        outside = is_file(Path(names[i])) and not raw[i][column]["bytes"]
        return Path(names[i]) if outside else Packed(where, raw, column, i)

    return find


def _row(
    where: str,
    entry: dict[str, Any],
    columns: dict[str, str | None],
    media: Mapping[str, Source],
    i: int,
    default: str,
    split: str,
) -> DatasetRow:
    """A row.

    Raises:
        DatasetError: something is wrong with it.
    """
    cells = {role: None if c is None or role in _MEDIA else entry[c] for role, c in columns.items()}
    prompt = default if cells["prompt"] is None else cells["prompt"]
    texts = checked_texts(where, str(columns["references"]), cells["references"], "fill it in")
    if not media:
        raise DatasetError(f"{where}: neither a picture nor a sound: fill it in, or drop the row")
    sound = media.get("audio")
    name = f"{split or 'row'}/{i}" if cells["id"] is None else str(cells["id"])
    frames = 0 if sound is None else check_sound(sound, where)
    turn = DatasetTurn(checked_text(where, str(columns["prompt"]), prompt), sound, texts, frames)
    return DatasetRow(where, name, media.get("image"), (turn,), split)
