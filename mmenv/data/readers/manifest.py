"""Rows of a folder of images and sounds with a ``metadata.jsonl`` or ``.csv`` beside them, or of such a file.

The layout is that of Hugging Face's image and audio folders: an entry a line. docs/data.md lists the columns.
Lines, paths and the headers of the media are checked here; pixels and waves are read when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmenv.data.dataset import SPLIT_NAMES, CheckedRows, DatasetRow, DatasetTurn
from mmenv.data.faults import Faults
from mmenv.data.media import SOUNDS, DatasetError, check_image, check_sound, path_inside
from mmenv.data.readers.checks import checked_text, checked_texts, parsed, shortened
from mmenv.data.readers.csv_rows import SUFFIXES, csv_entries
from mmenv.data.sample import CAPTION_PROMPT

MANIFESTS = ("metadata.jsonl", "metadata.csv", "metadata.tsv")  # the first that is there counts
LONGEST_LINE = 10_000_000  # bytes
PROMPTS = ("prompt", "question")
CAPTIONS = ("captions", "caption", "text")
ANSWERS = ("references", "answers", "answer", *CAPTIONS, "transcription", "chosen")
IMAGES = ("image", "image_file_name", "images", "images_file_names")
AUDIOS = ("audio", "audio_file_name")
EXAMPLE = '{"file_name": "1.png", "prompt": "what is it ?", "answer": "a dog"}'
_NUMBERED = re.compile(r"(.+?)_(\d{1,6})(_file_name)?$")


def read_manifest(manifest: Path, split: str = "") -> CheckedRows:
    """All rows of a manifest, and all faults.

    Args:
        manifest: the ``.jsonl``, ``.csv`` or ``.tsv`` file; media are looked for beside it.
        split: of its rows where they have no column of that name.
    """
    root = manifest.parent.resolve()
    rows: list[DatasetRow] = []
    folders: list[str] = []
    faults = Faults()
    entries = csv_entries if manifest.suffix.lower() in SUFFIXES else _lines
    for line, entry in entries(manifest, faults):
        row = faults.check_entry(f"{manifest}, line {line}", _row, root, manifest, line, entry, split)
        if row is not None:
            rows.append(row)
            folders.append(_top_folder(entry))
    if rows and not split and not any(row.split for row in rows) and all(f in SPLIT_NAMES for f in folders):
        # As ``datasets`` reads it: the folders that hold the pictures are the splits.
        rows = [replace(row, split=SPLIT_NAMES[folder]) for row, folder in zip(rows, folders, strict=True)]
    return CheckedRows(str(manifest), rows, faults.sentences)


def _top_folder(entry: dict[str, Any]) -> str:
    name = next((entry[key] for key in ("file_name", *IMAGES, *AUDIOS) if isinstance(entry.get(key), str)), "")
    return Path(name).parts[0].lower() if len(Path(name).parts) > 1 else ""


def _lines(manifest: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line that is not blank; other lines are faults."""
    for number, raw in enumerate(manifest.read_bytes().splitlines(), 1):
        entry = faults.check(_parsed, f"{manifest}, line {number}", raw)
        if entry is not None:
            yield number, entry


def _parsed(where: str, raw: bytes) -> dict[str, Any] | None:
    if len(raw) > LONGEST_LINE:
        raise DatasetError(f"{where}: {len(raw):,} bytes, more than {LONGEST_LINE:,}: put what it holds into files")
    try:
        text = raw.decode("utf-8-sig").strip()
        entry = parsed(text) if text else None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{where}: no UTF-8 text ({error}): save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: invalid JSON ({error}): write one object a line, as {EXAMPLE}") from error
    if text and not isinstance(entry, dict):
        raise DatasetError(f"{where}: {text[:60]} is no object: write one object a line, as {EXAMPLE}")
    return entry


def _row(root: Path, manifest: Path, line: int, entry: dict[str, Any], default_split: str) -> DatasetRow:
    """A line, checked as far as that is cheap.

    Raises:
        EntryError: names everything that is wrong.
    """
    where, faults = f"{manifest}, line {line}", Faults()
    image, audio = _media(root, where, entry, faults)
    parts = faults.check(_dialogue, where, entry) or []
    if parts and audio is not None:
        faults.add(f"{where}: a sound beside the turns of a dialogue: write it into the turn that it belongs to")
    turns = [_spoken_turn(root, where, part, faults) for part in parts]
    turns = turns or [_turn(where, entry, audio, any(key in entry for key in AUDIOS), faults)]
    name = faults.check(_id, where, entry, f"{manifest.parent.name}/{line}")
    split = faults.check(_split, where, entry, default_split)
    faults.raise_any()
    return DatasetRow(where, str(name), image, tuple(turns), split or "")


def _media(root: Path, where: str, entry: dict[str, Any], faults: Faults) -> tuple[Path | None, Path | None]:
    """Paths of the image and of the sound, None where there is none; a line without any media is a fault."""
    keys = [key for key in ("file_name", *IMAGES, *AUDIOS) if key in entry]
    without = "turns" in entry or "rejected" in entry or any(key.startswith("audio_") for key in entry)
    if not keys and not without:  # preferences may be of text alone
        columns = shortened(sorted(entry), 300)
        faults.add(f"{where}: no column file_name, image or audio among {columns}: add one with the path of the media")
    image = audio = None
    for key in keys:
        name = faults.check(_one, where, key, entry[key])
        path = None if name is None else faults.check(path_inside, root, where, key, name)
        if path is None:
            continue
        if key in AUDIOS or (key == "file_name" and path.suffix.lower() in SOUNDS):
            audio = path
        else:
            image = path
    if image is not None:
        faults.check(check_image, image, where)
    return image, audio


def _one(where: str, key: str, value: Any) -> Any:
    """The one picture of a list, as columns of preferences have it; None of a list of nothing."""
    if not isinstance(value, list):
        return value
    value = [name for name in value if name is not None]
    if not value:
        return None
    if len(value) != 1:
        raise DatasetError(f"{where}: {key} {value!r} lists {len(value)} pictures: give one a line")
    return value[0]


def _dialogue(where: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of a dialogue: those of the column ``turns``, or of numbered columns; empty outside dialogue."""
    if "turns" in entry:
        turns = entry["turns"]
        if isinstance(turns, list):
            turns = [part for part in turns if part is not None]
        if isinstance(turns, list) and turns and all(isinstance(part, dict) for part in turns):
            return turns
        raise DatasetError(f"{where}: turns {shortened(turns)} is no list of objects: write one a turn, with its audio")
    numbered: dict[int, dict[str, Any]] = {}
    for key, value in entry.items():
        match = _NUMBERED.match(key)
        if match and match[1] in (*AUDIOS, *PROMPTS, *ANSWERS) and value is not None:
            numbered.setdefault(int(match[2]), {})[match[1]] = value
    if numbered and not any("audio" in part for part in numbered.values()):
        return []
    return [numbered[n] for n in sorted(numbered)]


def _spoken_turn(root: Path, where: str, part: dict[str, Any], faults: Faults) -> DatasetTurn:
    """A turn of a dialogue, which may have a sound of its own."""
    key = next((key for key in AUDIOS if key in part), None)
    audio = None if key is None else faults.check(path_inside, root, where, key, part[key])
    return _turn(where, part, audio, key is not None, faults)


def _turn(where: str, part: dict[str, Any], audio: Path | None, spoken: bool, faults: Faults) -> DatasetTurn:
    frames = 0 if audio is None else faults.check(check_sound, audio, where) or 0
    prompt = faults.check(_prompt, where, part, spoken or audio is not None)
    return DatasetTurn(prompt or "", audio, faults.check(_references, where, part) or (), frames)


def _id(where: str, entry: dict[str, Any], default: str) -> str:
    name = entry.get("id", default)
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        raise DatasetError(f"{where}: id {shortened(name)} is no text: write a unique string, or leave the column out")
    return checked_text(where, "id", str(name))


def _split(where: str, entry: dict[str, Any], default: str) -> str:
    name = entry.get("split", default)
    if name and (not isinstance(name, str) or name.lower() not in SPLIT_NAMES):
        raise DatasetError(f"{where}: split {shortened(name)} is none: write train, validation or test")
    return SPLIT_NAMES[name.lower()] if name else ""


def _prompt(where: str, entry: dict[str, Any], spoken: bool) -> str:
    for key in PROMPTS:
        if key in entry:
            return checked_text(where, key, entry[key])
    if spoken:
        return ""
    if any(key in entry for key in CAPTIONS):
        return CAPTION_PROMPT
    columns = shortened(sorted(entry), 300)
    raise DatasetError(
        f"{where}: no column prompt among {columns}: add what is asked, or a caption where captions are wanted"
    )


def _references(where: str, entry: dict[str, Any]) -> tuple[str, ...]:
    key = next((key for key in ANSWERS if key in entry), None)
    if key is None:
        return ()
    texts = checked_texts(where, key, entry[key], "fill it in, or leave it out")
    if key == "chosen" and checked_text(where, "rejected", entry.get("rejected", "")) == entry["chosen"]:
        raise DatasetError(f"{where}: chosen and rejected are the same: remove the line")
    return texts
