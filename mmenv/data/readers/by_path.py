"""A dataset by its path: detects the layout, collects the faults, and makes the samples."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qsl

from mmenv.data.cache import source_key
from mmenv.data.dataset import SPLIT_NAMES, CheckedRows, MediaDataset, without_doubles
from mmenv.data.faults import Faults
from mmenv.data.media import DEFAULT_SIDE, RATE, DatasetError, check_image
from mmenv.data.readers.checks import is_file
from mmenv.data.readers.coco_family import read_annotated, read_object
from mmenv.data.readers.csv_rows import SUFFIXES
from mmenv.data.readers.manifest import EXAMPLE, MANIFESTS, read_manifest
from mmenv.data.sample import DatasetWarning, divided
from mmenv.tokenizer import learn_tokenizer

BROKEN = ("refuse", "skip")
OPTIONS = ("broken", "images", "annotations")
FILES = (".jsonl", *SUFFIXES, ".json")
TABLES = (".parquet", ".arrow")
_PROBED = 8  # pictures whose size is read to warn of photographs
_SHRUNK = 8  # a picture whose side shrinks by more than this factor gives a warning
_NAMED = 20  # most faults that a warning lists


def read_dataset(
    path: str | Path,
    image_size: int | None = None,
    broken: str = "refuse",
    images: str | Path | None = None,
    annotations: str | Path | None = None,
) -> MediaDataset:
    """The samples of a folder or a file; read once a process, and again when the file has changed.

    Args:
        path: a folder with ``metadata.jsonl`` or ``metadata.csv``, or with subfolders ``train``, ``validation``,
            ``test`` that hold one; a ``.jsonl``, ``.csv`` or ``.tsv`` file; COCO's captions or VQAv2's questions
            (``.json``). A string may end in options, as in ``"photos?broken=skip"`` or
            ``"questions.json?images=train2014&annotations=answers.json"``.
        image_size: side in pixels of the square that images are fitted into; None for 96.
        broken: ``"refuse"`` raises where an entry is broken; ``"skip"`` decodes everything once, leaves broken entries
            out and warns with their names.
        images: folder of the pictures of a ``.json`` file; None looks beside it.
        annotations: file of the answers to VQAv2's questions; None looks beside them.

    Raises:
        DatasetError: names the file, the line and the remedy.
    """
    path, from_path = _options(path)
    options = {"broken": broken, "images": images, "annotations": annotations} | from_path
    if options["broken"] not in BROKEN:
        raise DatasetError(f"broken={options['broken']!r} is none of {BROKEN}: give one of these")
    files = _files(path)
    more = tuple(None if options[key] is None else Path(str(options[key])).absolute() for key in OPTIONS[1:])
    stamps = tuple(file.stat().st_mtime_ns for file in files)
    return _read(path.absolute(), image_size, str(options["broken"]), more, stamps)


def read_vqa(
    questions: str | Path,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    image_size: int | None = None,
    broken: str = "refuse",
) -> MediaDataset:
    """The samples of VQAv2's files, wherever they lie: see ``read_dataset``."""
    return read_dataset(questions, image_size, broken, images, annotations)


def check_dataset(path: str | Path) -> tuple[MediaDataset | None, list[str]]:
    """The dataset without its faulty entries (None if none is left), and every fault; decodes all media."""
    path, options = _options(path)
    images, annotations = (None if options.get(k) is None else Path(options[k]).absolute() for k in OPTIONS[1:])
    _files(path)
    checked = _rows(path.absolute(), images, annotations)
    dataset = MediaDataset(checked.name, checked.rows, DEFAULT_SIDE)
    by_row = dataset.faults()
    faults = [*checked.faults, *(fault for several in by_row.values() for fault in several)]
    rows = [row for i, row in enumerate(checked.rows) if i not in by_row]
    return (MediaDataset(checked.name, rows, DEFAULT_SIDE, cache=dataset.cache) if rows else None), faults


def _options(path: str | Path) -> tuple[Path, dict[str, str]]:
    """A path and the options behind its question mark."""
    if isinstance(path, Path) or Path(path).exists() or "?" not in path:
        return Path(path), {}
    name, _, query = path.rpartition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = [key for key in options if key not in OPTIONS]
    if unknown or not options:
        raise DatasetError(f"dataset={path!r}: no option {', '.join(unknown) or repr(query)}: there are {OPTIONS}")
    return Path(name), options


def _files(path: Path) -> list[Path]:
    """The files that a dataset is read from.

    Raises:
        DatasetError: there is none of a kind that can be read.
    """
    try:
        if path.is_dir():
            return _manifests(path)
        exists = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name too long
        raise DatasetError(f"dataset={str(path)[:80]!r} cannot be read ({error}): check the path") from error
    if not exists:
        raise DatasetError(f"dataset={str(path)!r} does not exist: check the path")
    if path.suffix.lower() in TABLES:
        kind = path.suffix[1:].lower()
        call = f"datasets.load_dataset({kind!r}, data_files={str(path)!r}, split='train')"
        raise DatasetError(f"dataset={str(path)!r} is a table: load it with {call} and pass what that gives")
    if not path.suffix and not exists:
        raise DatasetError(f"dataset={str(path)!r} does not exist: check the path")
    if path.suffix.lower() not in FILES:
        raise DatasetError(
            f"dataset={str(path)!r} is neither a folder nor a {', '.join(FILES)} file: give one of these"
        )
    return [path]


def _manifests(path: Path) -> list[Path]:
    """The manifest of a folder, or those of its splits."""
    folders = [path, *_split_folders(path)]
    manifests = [next((f / name for name in MANIFESTS if (f / name).is_file()), None) for f in folders]
    files = [file for file in manifests if file is not None]
    if manifests[0] is not None:
        return files[:1]
    if not files:
        remedy = f"write one JSON object a line, for example {EXAMPLE}"
        if any(is_file(f / f"metadata{suffix}") for f in folders for suffix in TABLES):
            remedy = "a table of another kind is there, which datasets.load_dataset reads: pass what that gives"
        raise DatasetError(f"{path} holds none of {', '.join(MANIFESTS)}: {remedy}")
    return files


def _split_folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name.lower() in SPLIT_NAMES)


@functools.lru_cache(maxsize=16)
def _read(
    path: Path, image_size: int | None, broken: str, more: tuple[Path | None, ...], stamps: tuple[int, ...]
) -> MediaDataset:
    return as_dataset(_rows(path, *more), image_size, broken)


def as_dataset(checked: CheckedRows, image_size: int | None, broken: str) -> MediaDataset:
    """The samples of checked rows.

    With ``broken="skip"`` faulty entries are left out with a warning.

    Raises:
        DatasetError: there are faults and ``broken`` is ``"refuse"`` (the message has the first), or no row is left.
    """
    side = image_size or DEFAULT_SIDE
    if image_size is None:
        _warn_of_photographs(checked)
    remedy = "python -m mmenv check-data lists every fault, and ?broken=skip behind the path leaves such entries out"
    if broken == "refuse":
        if checked.faults:
            others = f" ({len(checked.faults)} faults in all: {remedy})" if len(checked.faults) > 1 else ""
            raise DatasetError(checked.faults[0] + others)
        if not checked.rows:
            raise DatasetError(f"{checked.name} is empty: write entries, for example {EXAMPLE}")
        return MediaDataset(checked.name, checked.rows, side)
    everything = MediaDataset(checked.name, checked.rows, side)
    by_row = everything.faults()
    faults = (*checked.faults, *(fault for several in by_row.values() for fault in several))
    rows = [row for i, row in enumerate(checked.rows) if i not in by_row]
    if not rows:
        raise DatasetError(f"{checked.name}: nothing is left without broken entries: {(*faults, 'it is empty')[0]}")
    if faults:
        named = "\n  ".join([*faults[:_NAMED], *([f"and {len(faults) - _NAMED} more"] if len(faults) > _NAMED else [])])
        warnings.warn(f"{checked.name}: broken entries are left out:\n  {named}", DatasetWarning, stacklevel=4)
    return MediaDataset(checked.name, rows, side, faults, everything.cache)


def _warn_of_photographs(checked: CheckedRows) -> None:
    """Say that large pictures are shown small, where nobody chose that; the first few stand for all."""
    pictures = [row for row in checked.rows if row.image is not None][:_PROBED]
    sizes = [size for row in pictures if (size := Faults().check(check_image, row.image, row.where)) is not None]
    if sizes and max(map(max, sizes)) > _SHRUNK * DEFAULT_SIDE:
        width, height = max(sizes, key=max)
        shown = f"pictures such as one of {width} x {height} pixels are fitted into {DEFAULT_SIDE} x {DEFAULT_SIDE}"
        remedy = "give image_size=, and a policy that sees so much (the shipped networks do not)"
        message = f"{checked.name}: {shown}, where details are lost: {remedy}"
        warnings.warn(message, DatasetWarning, stacklevel=4)


def _rows(path: Path, images: Path | None, annotations: Path | None) -> CheckedRows:
    """All rows and faults of a path, whichever layout it has."""
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() != ".json":
        return without_doubles(read_manifest(path))
    return without_doubles(read_annotated(path, read_object(path), images, annotations))


def _folder(path: Path) -> CheckedRows:
    files = _files(path)
    if files[0].parent == path:
        return without_doubles(read_manifest(files[0]))
    parts = [read_manifest(file, SPLIT_NAMES[file.parent.name.lower()]) for file in files]
    rows = [row for part in parts for row in part.rows]
    return without_doubles(CheckedRows(str(path), rows, [fault for part in parts for fault in part.faults]))


def described_data(dataset: MediaDataset) -> dict[str, str]:
    """Samples, splits, media, texts and vocabulary of a dataset, by name."""
    turns = [turn for row in dataset.rows for turn in row.turns]
    images = {source_key(row.image) for row in dataset.rows if row.image is not None}
    frames, longest_dialogue = dataset.longest()
    texts = [*dataset.prompts(), *(text for several in dataset.references() for text in several)]
    tokenizer = learn_tokenizer(texts) if any(map(str.strip, texts)) else None
    lines = {"samples": f"{len(dataset):,}{_splits(dataset)}"}
    if images:
        lines["images"] = f"{len(images):,} files"
    if frames:
        sounds = sum(turn.audio is not None for turn in turns)
        lines["sounds"] = f"{sounds:,}, the longest {frames / RATE:.1f} s"
    if longest_dialogue > 1:
        lines["turns"] = f"{len(turns):,}, up to {longest_dialogue} a dialogue"
    referenced = sum(len(turn.references) for turn in turns)
    without = sum(not turn.references for turn in turns)
    lines["references"] = f"{referenced:,}{f', none for {without:,}' if without else ''}"
    if tokenizer is not None:
        lines["vocabulary"] = f"{tokenizer.vocab_size:,} tokens"
        lengths = {"prompt": dataset.prompts(), "reference": (t for several in dataset.references() for t in several)}
        longest = {name: max((len(tokenizer.encode(t)) for t in found), default=0) for name, found in lengths.items()}
        lines["longest"] = f"prompt {longest['prompt']}, reference {longest['reference']} tokens"
    return lines


def _splits(dataset: MediaDataset) -> str:
    counts = dict(Counter(row.split for row in dataset.rows if row.split))
    by = "" if counts else "by a hash of their ids "
    counts = counts or {name: len(places) for name, places in divided([row.id for row in dataset.rows]).items()}
    return f" ({by}{', '.join(f'{name} {n:,}' for name, n in counts.items())})"
