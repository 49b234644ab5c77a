"""Reading Label Studio's JSON exports: an item from each task, and a judgement from each annotation.

An annotation is a list of regions, one for each tag of the labelling interface: Choices and Pairwise give a choice,
Ranker a ranking, Rating and Number a score each. JSON-MIN exports have a flat object for each annotation instead, with
a column for each tag.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from mmenv.feedback.comparison import TIE, Choice, Comparison, ComparisonError
from mmenv.feedback.comparison_media import SPOKEN
from mmenv.feedback.exchange.label_studio import LOCAL_FILES

# Columns that JSON-MIN puts beside the data and the tags, and those of the data.
_ANNOTATION_COLUMNS = {"annotation_id", "annotator", "lead_time", "created_at", "updated_at"}
_DATA_COLUMNS = set(
    "id sample_id prompt image audio responses options stops provenance predictions drafts annotations completions "
    "was_cancelled skipped".split()
)
# Keys of a region's value, and its type if it has another name.
_VALUE_KEYS = ("choices", "selected", "ranker", "rating", "number", "text")
_TYPES = {"selected": "pairwise", "text": "textarea"}
_OPTION = re.compile(r"Response (\d{1,4})")


class ReadTask(NamedTuple):
    """What was read from a task.

    Attributes:
        comparisons: the undecided one, and then one for each judgement.
        faults: of annotations that cannot be read.
        notes: on cancelled and empty annotations, drafts and predictions, which are not judgements.
    """

    comparisons: list[Comparison]
    faults: Sequence[str] = ()
    notes: Sequence[str] = ()


def read_tasks(path: Path) -> list[Any]:
    """The tasks of an export.

    Raises:
        ComparisonError: the file is not a JSON list, or is incomplete.
    """
    try:
        tasks = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ComparisonError(f"{path} is not complete JSON ({error}): export it again") from error
    if isinstance(tasks, dict) and {"data", "task", "responses"} & tasks.keys():
        return [tasks]  # a target storage gets one file each
    if not isinstance(tasks, list):
        raise ComparisonError(f"{path} holds no list of tasks: export as JSON")
    return tasks


def read_task(task: Any) -> ReadTask:
    """Read a task of any JSON export; an annotation that cannot be read costs no other.

    The forms are JSON (``annotations``, or ``completions`` before Label Studio 1.0), JSON-MIN, and the files of a
    target storage (an annotation with its ``task``).

    Raises:
        ComparisonError: the task's data lack something.
    """
    task = _as_json_export(task)
    data = task["data"]
    shown = ShownResponses.of(data)
    row = {
        "sample_id": str(data.get("sample_id") or f"label-studio/{task.get('id', 'task')}"),
        "prompt": data.get("prompt"),
        "responses": shown.texts,
        "stops": data.get("stops"),
        "provenance": data.get("provenance"),
    }
    row |= {name: _local_path(data[name]) for name in ("image", "audio") if data.get(name)}
    item = Comparison.from_row(row)
    comparisons = [item]
    faults: list[str] = []
    notes: list[str] = []
    for number, annotation in enumerate(task["annotations"], 1):
        name = f"annotation {annotation.get('id') or number}"
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            notes.append(f"{name} was cancelled")
        elif not annotation.get("result"):
            notes.append(f"{name} is empty")
        else:
            try:
                comparisons.append(_judgement(item, shown, annotation))
            except ComparisonError as error:
                faults.append(f"{name}: {error}" if len(task["annotations"]) > 1 else str(error))
    for kind in ("predictions", "drafts"):
        left_out = task.get(kind)
        if left_out:
            number = len(left_out) if isinstance(left_out, list) else 1
            notes.append(f"{number} {kind} left out: not submitted by a person")
    return ReadTask(comparisons, faults, notes)


def _as_json_export(task: Any) -> dict[str, Any]:
    """A task of any form as JSON exports have it, with ``data`` and a list of ``annotations``."""
    if isinstance(task, dict) and isinstance(task.get("task"), dict) and "result" in task:
        task = {**task["task"], "annotations": [{key: value for key, value in task.items() if key != "task"}]}
    if not isinstance(task, dict) or not isinstance(task.get("data", task), dict):
        raise ComparisonError(f"{str(task)[:60]!r} is not a task: export as JSON")
    annotations = []
    for key in ("annotations", "completions"):
        entries = task.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ComparisonError(f"annotations {str(entries)[:60]!r} are not a list of objects: export as JSON")
        annotations += entries
    if "data" not in task and not annotations and _ANNOTATION_COLUMNS & task.keys():
        annotations = [_annotation_of_columns(task)]
    return {**task, "data": task.get("data", task), "annotations": annotations}


def _annotation_of_columns(task: Mapping[str, Any]) -> dict[str, Any]:
    """The annotation of a JSON-MIN task, whose tags are columns among those of the data."""
    shown = ShownResponses.of(task)
    regions = []
    for name, value in task.items():
        if name not in _ANNOTATION_COLUMNS | _DATA_COLUMNS and not name.startswith(f"{SPOKEN}_"):
            regions += _regions_of_column(name, value, shown)
    annotation = {key: task.get(key) for key in ("created_at", "lead_time", "was_cancelled", "skipped")}
    ids = {"id": task.get("annotation_id"), "completed_by": task.get("annotator")}
    return {**annotation, **ids, "result": regions or [{"type": "none", "value": {}}]}


def _regions_of_column(name: str, value: Any, shown: ShownResponses) -> list[dict[str, Any]]:
    """The regions of a JSON-MIN column; the tag's type follows from the value's form."""
    if value is None:
        return []
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return [region for entry in value for region in _regions_of_column(name, entry, shown)]
    keys = [key for key in _VALUE_KEYS if isinstance(value, dict) and key in value]
    ids = [str(entry) for entry in value] if isinstance(value, list) else []
    if keys:
        kind, content = _TYPES.get(keys[0], keys[0]), value
    elif name.startswith("rank") or isinstance(value, dict) or (len(ids) > 1 and set(ids) <= shown.index_of.keys()):
        kind, content = "ranker", {"ranker": value}
    elif isinstance(value, str | list) and (name.startswith("choice") or shown.offers(value)):
        kind, content = "choices", {"choices": [value] if isinstance(value, str) else value}
    elif isinstance(value, str) and value in ("left", "right"):
        kind, content = "pairwise", {"selected": value}
    elif isinstance(value, int | float) and re.search(r"\d$", name):
        kind, content = "number", {"number": value}
    else:
        kind, content = "textarea", {"text": [str(value)]}
    return [{"from_name": name, "type": kind, "value": dict(content)}]


class ShownResponses(NamedTuple):
    """The responses of a task as its annotators see them.

    Attributes:
        texts: in the item's order.
        order: the response index at each place on the screen.
        index_of: the response index of each id.
    """

    texts: list[Any]
    order: list[int]
    index_of: dict[str, int]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> ShownResponses:
        """From a list of texts, or of a List tag's objects; ids that are not indices number the list."""
        listed = data.get("responses")
        if not isinstance(listed, list):
            raise ComparisonError(f"no list of responses among {sorted(data)}: name the task's column responses")
        texts = [entry.get("body", entry.get("title")) if isinstance(entry, dict) else entry for entry in listed]
        ids = [str(entry.get("id", k)) if isinstance(entry, dict) else str(k) for k, entry in enumerate(listed)]
        indices = [str(i) for i in range(len(listed))]
        if sorted(ids) != sorted(indices):
            return cls(texts, list(range(len(ids))), {name: k for k, name in enumerate(ids)})
        return cls([texts[ids.index(i)] for i in indices], [int(i) for i in ids], {i: int(i) for i in indices})

    def index_at(self, place: int) -> int:
        """Index of the response at a place on the screen."""
        if not 0 <= place < len(self.order):
            raise ComparisonError(f"response {place + 1} is outside the {len(self.order)} responses: give one of them")
        return self.order[place]

    def offers(self, value: Any) -> bool:
        """Whether a value is an option of a task of ours, or a response."""
        text = value[0] if isinstance(value, list) and len(value) == 1 else value
        return isinstance(text, str) and bool(text.lower() == TIE or _OPTION.fullmatch(text) or text in self.texts)

    def choice(self, chosen: Any) -> Choice:
        """The choice of an option of ours, or of a response's text."""
        text = chosen[0] if isinstance(chosen, list) and len(chosen) == 1 else chosen
        if isinstance(text, str):
            option = _OPTION.fullmatch(text)
            if text.lower() == TIE:
                return TIE
            if option:
                return self.index_at(int(option[1]) - 1)
            if self.texts.count(text) == 1:
                return self.texts.index(text)
        raise ComparisonError(f"choice {text!r} is none of the responses: give one of them, 'Response 1' or 'tie'")

    def side(self, selected: Any) -> int:
        """The choice of the left or the right response."""
        if selected not in ("left", "right"):
            raise ComparisonError(f"{selected!r} is not a side of a pair: give 'left' or 'right'")
        return self.index_at(int(selected == "right"))

    def ranking(self, ranked: Any) -> list[int]:
        """Indices in order, from a list of ids or from the only list in a Ranker's object."""
        lists = [ids for ids in ranked.values() if ids] if isinstance(ranked, dict) else [ranked]
        if len(lists) == 1 and isinstance(lists[0], list) and all(str(i) in self.index_of for i in lists[0]):
            return [self.index_of[str(i)] for i in lists[0]]
        raise ComparisonError(f"ranking {ranked!r} is not an order of {len(self.order)} responses: rank by their ids")

    def scored(self, tag: str) -> int:
        """Index of the response that a tag such as score_0 scores."""
        digits = re.search(r"\d{1,4}$", tag)
        if digits is None and len(self.order) == 1:
            return 0
        if digits is None:
            raise ComparisonError(
                f"{tag!r} does not name the response that it scores: call the tags score_0, score_1, .."
            )
        return self.index_at(int(digits[0]))


def _judgement(item: Comparison, shown: ShownResponses, annotation: Mapping[str, Any]) -> Comparison:
    if not isinstance(annotation["result"], list):
        raise ComparisonError(f"result {str(annotation['result'])[:60]!r} is not a list of regions: export as JSON")
    regions = [region for region in annotation["result"] if isinstance(region, dict)]
    answer = _answer(regions, shown)
    if not answer:
        kinds = ", ".join(sorted({str(region.get("type")) for region in regions}))
        raise ComparisonError(
            f"an annotation without choice, ranking or scores (it has {kinds}): does it come from another project?"
        )
    metas = [region["meta"] for region in regions if isinstance(region.get("meta"), dict)]
    meta = metas[0] if metas else {}
    user = annotation.get("completed_by")
    if isinstance(user, dict):
        user = user.get("email") or user.get("id")
    provenance = {**item.provenance, "order": shown.order}
    if annotation.get("lead_time") is not None:
        provenance["seconds"] = annotation["lead_time"]
    provenance |= {key: meta[key] for key in ("seconds", "order", "repeat") if key in meta}
    judgement = {
        "annotator": meta.get("annotator") or (None if user is None else f"label-studio/{user}"),
        "created": meta.get("created") or _iso_time(annotation.get("created_at")),
        "provenance": provenance,
    }
    return Comparison.from_row({**item.to_row(), **answer, **judgement})


def _answer(regions: list[dict[str, Any]], shown: ShownResponses) -> dict[str, Any]:
    """Choice, ranking and scores of an annotation's regions."""
    answer: dict[str, Any] = {}
    scores: dict[int, Any] = {}
    for region in regions:
        kind, value = region.get("type"), region.get("value")
        if kind not in ("choices", "pairwise", "ranker", "rating", "number"):
            continue  # a relation between regions, or a comment: it may have no value
        if not isinstance(value, dict):
            raise ComparisonError(f"value {str(value)[:60]!r} of a region is not an object: export as JSON")
        if kind == "choices":
            _set_once(answer, "choice", shown.choice(value.get("choices")))
        elif kind == "pairwise":
            _set_once(answer, "choice", shown.side(value.get("selected")))
        elif kind == "ranker":
            _set_once(answer, "ranking", shown.ranking(value.get("ranker")))
        else:
            _set_once(scores, shown.scored(str(region.get("from_name"))), value.get(kind))
    if scores:
        answer["scores"] = [scores.get(i) for i in range(len(shown.texts))]
        if None in answer["scores"]:
            raise ComparisonError(f"scores of responses {sorted(scores)} of {len(shown.texts)}: score each of them")
    return answer


def _set_once(answer: dict[Any, Any], key: Any, value: Any) -> None:
    """Set a value, unless another region has set a different one."""
    earlier = answer.setdefault(key, value)
    if earlier is not value and earlier != value:
        raise ComparisonError(f"{key} is given twice, {earlier!r} and {value!r}: give it once")


def _local_path(url: Any) -> str:
    """A path relative to the file, from such a path or from the URL of a local file."""
    text = str(url)
    if text.startswith(LOCAL_FILES):
        return parse_qs(urlsplit(text).query).get("d", [""])[0]
    if "://" in text or text.startswith("/"):
        raise ComparisonError(f"{text[:80]!r} is not a file beside the export: put it there and write its path")
    return text


def _iso_time(created: Any) -> str:
    """ISO 8601 of a time; before Label Studio 1.0 it was seconds since the epoch."""
    if isinstance(created, bool) or not isinstance(created, int | float):
        return str(created or "")
    try:
        return datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError) as error:
        raise ComparisonError(f"created_at {str(created)[:40]} is not a time ({error}): write ISO 8601") from error
