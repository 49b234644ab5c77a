"""Import and export of the feedback store: comparisons as JSON lines, preference columns, Label Studio.

python -m mmenv feedback import FILE --store DATABASE [--format comparisons | preferences | label-studio]
python -m mmenv feedback export FILE --store DATABASE [--format ...]
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console

from mmenv.data.media import DatasetError
from mmenv.feedback.comparison import (
    SPOKEN,
    Comparison,
    ComparisonError,
    Fault,
    as_json,
    comparison_of_preference,
    media_paths,
    read_comparisons,
    row_of_line,
    with_media,
    write_comparisons,
    write_whole,
)
from mmenv.feedback.exchange.label_studio import labelling_config, read_task, read_tasks, task_of
from mmenv.feedback.exchange.media import carry, check_media
from mmenv.feedback.exchange.preferences import write_preferences
from mmenv.feedback.store.checks import check_said
from mmenv.feedback.store.store import FeedbackStore, StoreError

Format = Literal["comparisons", "preferences", "label-studio"]
FORMATS: tuple[Format, ...] = ("comparisons", "preferences", "label-studio")


class Entry(NamedTuple):
    """A line or task.

    Attributes:
        number: from 1.
        comparisons: what could be read of it.
        faults: what could not.
        notes: on what was left out because it is no judgement.
    """

    number: int
    comparisons: list[Comparison]
    faults: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Imported:
    """What an import brought.

    Attributes:
        comparisons: how many were read.
        judgements: how many of them are new to the store.
        faults: all that was not imported, by line or task, with the reason.
        errors: how many of these are wrong, and not merely no judgements.
    """

    comparisons: int
    judgements: int
    faults: tuple[Fault, ...]
    errors: int = 0


def import_feedback(
    store: FeedbackStore, path: str | Path, form: Format = "comparisons", annotator: str = "unknown"
) -> Imported:
    """Put a file into the store; a bad line costs that line alone, and importing it again changes nothing.

    Args:
        store: gets items and judgements.
        path: of the file; media paths in it begin in its folder and may not leave it.
        form: what the file is.
        annotator: name for judgements that have none.

    Raises:
        FileNotFoundError: there is no such file.
        ComparisonError: a Label Studio export is no whole JSON file.
        StoreError: the database failed.
    """
    path = _found(Path(path), form)
    read: dict[Format, Callable[[Path], Iterator[Entry]]] = {
        "comparisons": _lines, "preferences": _preferences, "label-studio": _tasks
    }  # fmt: skip
    good: list[Comparison] = []
    faults: list[Fault] = []
    errors = 0
    for entry in read[form](path):
        wrong = list(entry.faults)
        for comparison in entry.comparisons:
            fault = _fault(comparison, path.parent, annotator)
            good += [comparison] if fault is None else []
            wrong += [] if fault is None or fault in wrong else [fault]  # media are missing of each judgement
        errors += len(wrong)
        faults += [Fault(entry.number, reason) for reason in (*wrong, *entry.notes)]
    return Imported(len(good), store.merge(good, path.parent, annotator), tuple(faults), errors)


def _found(path: Path, form: Format) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path of one that holds {_NOUNS[form]}")
    return path


def _fault(comparison: Comparison, folder: Path, annotator: str) -> str | None:
    """Why the store would refuse a comparison; None where it would not."""
    try:
        check_media(comparison, folder)
        check_said(comparison, comparison.annotator or annotator)
    except (DatasetError, ComparisonError) as error:
        return str(error)
    return None


def _lines(path: Path) -> Iterator[Entry]:
    reading = read_comparisons(path)
    faults = dict(reading.faults)
    good = iter(reading.comparisons)
    for number, _ in _filled_lines(path):
        yield Entry(number, [], [faults[number]]) if number in faults else Entry(number, [next(good)])


def _filled_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    return ((n, raw) for n, raw in enumerate(path.read_bytes().split(b"\n"), 1) if raw.strip())


def _preferences(path: Path) -> Iterator[Entry]:
    for number, raw in _filled_lines(path):
        try:
            yield Entry(number, [comparison_of_preference(row_of_line(raw), f"{path.stem}/{number}")])
        except (ValueError, RecursionError) as error:
            yield Entry(number, [], [str(error)])


def _tasks(path: Path) -> Iterator[Entry]:
    for number, task in enumerate(read_tasks(path), 1):
        try:
            yield Entry(number, *read_task(task))
        except ComparisonError as error:
            yield Entry(number, [], [str(error)])


def export_feedback(
    store: FeedbackStore, path: str | Path, form: Format = "comparisons", annotator: str | None = None
) -> int:
    """Write judgements to a file, with their media beside it where they are not there already.

    Args:
        store: whose judgements.
        path: a file, for preferences a folder. Label Studio gets all items, judged or not, and its labelling
            configuration beside them (``.xml``).
        form: what to write.
        annotator: only this one's judgements.

    Returns:
        How many lines, rows or tasks.

    Raises:
        DatasetError: a media file is missing.
        StoreError: the database failed.
    """
    path = Path(path)
    folder = path if form == "preferences" else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    if form == "label-studio":
        return _write_tasks(store, path, annotator)
    judged = store.judged(annotator)
    if form == "preferences":  # its columns have no place for sounds
        silent = [carry(_silent(one.comparison), one.item.folder, folder) for one in judged]
        return write_preferences(folder, silent)[1]
    write_comparisons(path, [carry(one.comparison, one.item.folder, folder) for one in judged])
    return len(judged)


def _silent(comparison: Comparison) -> Comparison:
    return with_media(comparison, {name: path for name, path in media_paths(comparison).items() if name == "image"})


def _write_tasks(store: FeedbackStore, path: Path, annotator: str | None) -> int:
    said: dict[int, list[Comparison]] = defaultdict(list)
    for one in store.judged(annotator):
        said[one.item.id].append(one.comparison)
    items = store.items()
    placed = [carry(item.comparison, item.folder, path.parent) for item in items]
    tasks = [task_of(item, said[old.id]) for item, old in zip(placed, items, strict=True)]
    write_whole(path, as_json(tasks, indent=1))
    most = max((len(item.responses) for item in placed), default=2)
    kinds = {name.partition("-")[0] for item in placed for name in media_paths(item)}
    write_whole(path.with_suffix(".xml"), labelling_config(most, "image" in kinds, "audio" in kinds, SPOKEN in kinds))
    return len(tasks)


def command(
    console: Console,
    direction: str,
    path: Path,
    store: str,
    form: Format,
    annotator: str | None,
    media: Iterable[Path] = (),
) -> int:
    """Import or export from the command line; 1 where the store failed or something could not be read."""
    if direction == "import":
        _found(path, form)  # before a store is made for it
    try:
        with FeedbackStore(store, create=direction == "import", media=media) as database:
            if direction == "export":
                count = export_feedback(database, path, form, annotator)
                console.print(f"{path}: {count:,} {_NOUNS[form]}", soft_wrap=True, highlight=False, markup=False)
                return 0
            brought = import_feedback(database, path, form, annotator or "unknown")
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    new = f"{brought.comparisons:,} comparisons read, {brought.judgements:,} judgements new to {store}"
    console.print(new, soft_wrap=True, highlight=False, markup=False)
    for number, reason in brought.faults:
        print(f"{path}, {'task' if form == 'label-studio' else 'line'} {number}: {reason}", file=sys.stderr)
    return 1 if brought.errors else 0


_NOUNS: dict[Format, str] = {"comparisons": "judgements", "preferences": "preferences", "label-studio": "tasks"}
