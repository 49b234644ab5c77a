"""Import and export of the feedback store: comparisons as JSON lines, preference columns, Label Studio.

python -m mmenv feedback import FILE --store DATABASE [--format comparisons | preferences | label-studio]
python -m mmenv feedback export FILE --store DATABASE [--format ...]
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from mmenv.data.media import DatasetError
from mmenv.feedback.comparison import Comparison, ComparisonError
from mmenv.feedback.comparison_files import (
    Fault,
    as_json,
    comparison_of_line,
    numbered_lines,
    write_atomically,
    write_comparisons,
    write_preferences,
)
from mmenv.feedback.comparison_media import SPOKEN, check_media, copy_media, media_paths, with_media
from mmenv.feedback.exchange.label_studio import label_studio_task, labelling_config
from mmenv.feedback.exchange.label_studio_exports import ReadTask, read_task, read_tasks
from mmenv.feedback.store import FeedbackStore, StoreError
from mmenv.feedback.store.judgements import check_mergeable

Format = Literal["comparisons", "preferences", "label-studio"]
FORMATS: tuple[Format, ...] = ("comparisons", "preferences", "label-studio")
_NOUNS: dict[Format, str] = {"comparisons": "judgements", "preferences": "preferences", "label-studio": "tasks"}


@dataclass(frozen=True)
class Imported:
    """Result of an import.

    Attributes:
        comparisons: how many were read.
        judgements: how many of them are new to the store.
        faults: what was not imported, by line or task, with the reason.
        errors: how many of these are wrong; the others were left out because they are not judgements.
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
        path: of the file; media paths in it are relative to its folder and may not leave it.
        form: format of the file.
        annotator: name for judgements that have none.

    Raises:
        FileNotFoundError: there is no such file.
        ComparisonError: a Label Studio export is not complete JSON.
        StoreError: the database failed.
    """
    path = Path(path)
    _check_file(path, form)
    good: list[Comparison] = []
    faults: list[Fault] = []
    errors = 0
    for number, entry in (_read_tasks if form == "label-studio" else _read_lines)(path):
        reasons = list(entry.faults)
        for comparison in entry.comparisons:
            reason = _refusal(comparison, path.parent, annotator)
            if reason is None:
                good.append(comparison)
            elif reason not in reasons:  # all judgements of a task lack the same media
                reasons.append(reason)
        errors += len(reasons)
        faults += [Fault(number, reason) for reason in (*reasons, *entry.notes)]
    return Imported(len(good), store.merge(good, path.parent, annotator), tuple(faults), errors)


def _check_file(path: Path, form: Format) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path of one that holds {_NOUNS[form]}")


def _refusal(comparison: Comparison, folder: Path, annotator: str) -> str | None:
    """The reason for which the store would refuse a comparison; None if it would not."""
    try:
        check_media(comparison, folder)
        check_mergeable(comparison, comparison.annotator or annotator)
    except (DatasetError, ComparisonError) as error:
        return str(error)
    return None


def _read_lines(path: Path) -> Iterator[tuple[int, ReadTask]]:
    """Comparisons and preferences, line by line."""
    for number, line in numbered_lines(path):
        try:
            yield number, ReadTask([comparison_of_line(line, f"{path.stem}/{number}")])
        except (ValueError, RecursionError) as error:
            yield number, ReadTask([], [str(error)])


def _read_tasks(path: Path) -> Iterator[tuple[int, ReadTask]]:
    for number, task in enumerate(read_tasks(path), 1):
        try:
            yield number, read_task(task)
        except ComparisonError as error:
            yield number, ReadTask([], [str(error)])


def export_feedback(
    store: FeedbackStore, path: str | Path, form: Format = "comparisons", annotator: str | None = None
) -> int:
    """Write judgements to a file, and copy their media beside it unless they are there already.

    Args:
        store: whose judgements.
        path: a file, for preferences a folder. Label Studio gets all items, judged or not, and its labelling
            configuration beside them (``.xml``).
        form: format to write.
        annotator: only judgements of this one.

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
    judged = list(store.judged_items(annotator))
    if form == "preferences":
        return write_preferences(folder, [copy_media(_image_only(c), item.folder, folder) for item, c in judged])
    write_comparisons(path, [copy_media(comparison, item.folder, folder) for item, comparison in judged])
    return len(judged)


def _image_only(comparison: Comparison) -> Comparison:
    """A comparison without sounds: preference columns have no place for them."""
    return with_media(comparison, {name: path for name, path in media_paths(comparison).items() if name == "image"})


def _write_tasks(store: FeedbackStore, path: Path, annotator: str | None) -> int:
    judgements: dict[int, list[Comparison]] = defaultdict(list)
    for item, comparison in store.judged_items(annotator):
        judgements[item.id].append(comparison)
    tasks = []
    responses = 0  # most of an item
    kinds: set[str] = set()  # of media
    for item in store.items():
        comparison = copy_media(item.comparison, item.folder, path.parent)
        tasks.append(label_studio_task(comparison, judgements[item.id]))
        responses = max(responses, len(comparison.responses))
        kinds |= {name.partition("-")[0] for name in media_paths(comparison)}
    write_atomically(path, as_json(tasks, indent=1))
    config = labelling_config(responses or 2, "image" in kinds, "audio" in kinds, SPOKEN in kinds)
    write_atomically(path.with_suffix(".xml"), config)
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
    """Import or export from the command line; 1 if the store failed or something could not be read."""
    if direction == "import":
        _check_file(path, form)  # before a store is created for it
    try:
        with FeedbackStore(store, create=direction == "import", media=media) as database:
            if direction == "export":
                count = export_feedback(database, path, form, annotator)
                console.print(f"{path}: {count:,} {_NOUNS[form]}", soft_wrap=True, highlight=False, markup=False)
                return 0
            imported = import_feedback(database, path, form, annotator or "unknown")
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = f"{imported.comparisons:,} comparisons read, {imported.judgements:,} judgements new to {store}"
    console.print(counts, soft_wrap=True, highlight=False, markup=False)
    for number, reason in imported.faults:
        print(f"{path}, {'task' if form == 'label-studio' else 'line'} {number}: {reason}", file=sys.stderr)
    return 1 if imported.errors else 0
