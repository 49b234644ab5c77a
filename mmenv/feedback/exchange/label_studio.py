"""Label Studio: its tasks and annotations, to and from comparisons.

A task's data hold the comparison, the responses once as a list to be ranked and once as options to choose from:

    {"data": {"sample_id", "prompt", "image"?, "audio"?, "responses": [{"id": "1", "title": "Response 1", "body"}, ..],
              "options": [{"value": "Response 1"}, .., {"value": "tie"}], "spoken_0"?, "stops"?, "provenance"?},
     "annotations": [{"result": [..], "lead_time", "created_at"}]}

The responses stand in a blind order, another for each item: an id is the index in the item's order, while "Response 1",
spoken_0 (its sound) and score_0 are what is shown first.

Source of the shapes: Label Studio's docs of its JSON format and of the tags List, Ranker, Choices, Pairwise, Rating and
Number.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from mmenv.feedback.comparison import SPOKEN, TIE, Choice, Comparison, ComparisonError, media_paths
from mmenv.feedback.store.identity import identity

LOCAL_FILES = "/data/local-files/"
# What Label Studio has no place for travels in each region's ``meta``.
_META = ("annotator", "created", "seconds", "order", "repeat")


def labelling_config(responses: int, image: bool, audio: bool, spoken: bool = False) -> str:
    """Label Studio's XML for tasks of up to so many responses: choose one, rank them, or score each."""
    media = ['  <Image name="image" value="$image"/>'] * image + ['  <Audio name="audio" value="$audio"/>'] * audio
    sounds = [f'  <Audio name="spoken_{i}" value="$spoken_{i}"/>' for i in range(responses)] if spoken else []
    numbers = [f'  <Number name="score_{i}" toName="prompt"/>' for i in range(responses)]
    return "\n".join([
        "<View>", *media,
        '  <Text name="prompt" value="$prompt"/>',
        '  <List name="responses" value="$responses" title="Responses, best first"/>',
        *sounds,
        '  <Ranker name="ranking" toName="responses"/>',
        '  <Choices name="choice" toName="prompt" value="$options" choice="single-radio"/>',
        *numbers, "</View>", "",
    ])  # fmt: skip


def task_of(item: Comparison, judgements: Iterable[Comparison]) -> dict[str, Any]:
    """A task, with an annotation for each judgement.

    Args:
        item: undecided; media paths relative to the folder that Label Studio serves local files from.
        judgements: of this item.
    """
    order = shown_order(item)
    data: dict[str, Any] = {
        "sample_id": item.sample_id,
        "prompt": item.prompt,
        "responses": [{"id": str(i), "title": _option(k), "body": item.responses[i]} for k, i in enumerate(order)],
        "options": [{"value": _option(k)} for k in range(len(order))] + [{"value": TIE}],
    }
    places = {f"{SPOKEN}-{i}": f"{SPOKEN}_{k}" for k, i in enumerate(order)}
    data |= {places.get(name, name): LOCAL_FILES + "?d=" + quote(path) for name, path in media_paths(item).items()}
    data |= {"stops": list(item.stops)} if item.stops else {}
    data |= {"provenance": dict(item.provenance)} if item.provenance else {}
    return {"data": data, "annotations": [_annotation(judgement, order) for judgement in judgements]}


def shown_order(item: Comparison) -> list[int]:
    """The order in which an item's responses are shown, the same each time."""
    n = len(item.responses)
    return random.Random(identity(item)).sample(range(n), n)


def _option(i: int) -> str:
    return f"Response {i + 1}"


def _annotation(judgement: Comparison, order: list[int]) -> dict[str, Any]:
    """No ``completed_by``: Label Studio refuses names that are not its own users'."""
    known = {**judgement.provenance, "annotator": judgement.annotator, "created": judgement.created}
    meta = {key: known[key] for key in _META if key in known}
    regions: list[tuple[str, str, str, dict[str, Any]]] = []
    if judgement.choice is not None:
        said = TIE if judgement.choice == TIE else _option(order.index(judgement.choice))
        regions.append(("choice", "prompt", "choices", {"choices": [said]}))
    if judgement.ranking is not None:
        ids = {"ranker": {"ranking": [str(i) for i in judgement.ranking]}}
        regions.append(("ranking", "responses", "ranker", ids))
    for i, score in enumerate(judgement.scores or ()):
        regions.append((f"score_{order.index(i)}", "prompt", "number", {"number": score}))
    result = [
        {"id": f"r{k}", "from_name": name, "to_name": to, "type": kind, "value": value, "meta": meta}
        for k, (name, to, kind, value) in enumerate(regions)
    ]
    created = {"created_at": judgement.created} if judgement.created else {}
    return {"result": result, "was_cancelled": False, "lead_time": judgement.provenance.get("seconds"), **created}


class TaskReading(NamedTuple):
    """A task's undecided comparison and its judgements, and why others of it were not read.

    Attributes:
        comparisons: the undecided one first.
        faults: of annotations that cannot be read.
        notes: on what is no judgement of a person: cancelled, empty, a draft, a model's prediction.
    """

    comparisons: list[Comparison]
    faults: list[str]
    notes: list[str]


def comparisons_of(task: Any) -> list[Comparison]:
    """The undecided comparison of a task, and then one for each judgement in it.

    Raises:
        ComparisonError: the task's data lack something, or an annotation says something impossible.
    """
    reading = read_task(task)
    if reading.faults:
        raise ComparisonError(reading.faults[0])
    return reading.comparisons


def read_task(task: Any) -> TaskReading:
    """A task of any JSON export: its annotations each by itself, so that one that cannot be read costs no other.

    These are JSON (``annotations``, or ``completions`` before Label Studio 1.0), JSON-MIN (a flat object for each
    annotation), and what a target storage gets (an annotation with its ``task``).

    Raises:
        ComparisonError: the task's data lack something.
    """
    task = _with_annotations(task)
    data = task["data"]
    shown = _shown(data)
    item = Comparison.from_row({
        "sample_id": str(data.get("sample_id") or f"label-studio/{task.get('id', 'task')}"),
        "prompt": data.get("prompt"), "responses": shown.responses, "stops": data.get("stops"),
        "provenance": data.get("provenance"), **{k: _path(data[k]) for k in ("image", "audio") if data.get(k)},
    })  # fmt: skip
    reading = TaskReading([item], [], [])
    for number, annotation in enumerate(task["annotations"], 1):
        name = f"annotation {annotation.get('id') or number}"
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            reading.notes.append(f"{name} was cancelled")
        elif not annotation.get("result"):
            reading.notes.append(f"{name} says nothing")
        else:
            try:
                reading.comparisons.append(_judgement(item, shown, annotation))
            except ComparisonError as error:
                reading.faults.append(f"{name}: {error}" if len(task["annotations"]) > 1 else str(error))
    for kind in ("predictions", "drafts"):
        if left_out := task.get(kind):
            number = len(left_out) if isinstance(left_out, list) else 1
            reading.notes.append(f"{number} {kind} left out: not submitted by a person")
    return reading


def _with_annotations(task: Any) -> dict[str, Any]:
    """A task as JSON exports have it, with ``data`` and a list of ``annotations``, from any of the forms."""
    if isinstance(task, dict) and isinstance(task.get("task"), dict) and "result" in task:
        task = {**task["task"], "annotations": [{k: v for k, v in task.items() if k != "task"}]}
    if not isinstance(task, dict) or not isinstance(task.get("data", task), dict):
        raise ComparisonError(f"{str(task)[:60]!r} is no task: export as JSON")
    lists = [task[key] for key in ("annotations", "completions") if task.get(key)]
    for some in lists:
        if not isinstance(some, list) or not all(isinstance(a, dict) for a in some):
            raise ComparisonError(f"annotations {str(some)[:60]!r} are no list of objects: export as JSON")
    found = [annotation for some in lists for annotation in some]
    if "data" not in task and not found and _OF_FLAT & task.keys():
        found = [_flat_annotation(task)]
    return {**task, "data": task.get("data", task), "annotations": found}


# Columns that JSON-MIN puts beside the data and the tags.
_OF_FLAT = {"annotation_id", "annotator", "lead_time", "created_at", "updated_at"}
_OF_DATA = {
    "id", "sample_id", "prompt", "image", "audio", "responses", "options", "stops", "provenance", "predictions",
    "drafts", "annotations", "completions", "was_cancelled", "skipped",
}  # fmt: skip
_KINDS = ("choices", "selected", "ranker", "rating", "number", "text")
_TYPES = {"selected": "pairwise", "text": "textarea"}
_JUDGING = ("choices", "pairwise", "ranker", "rating", "number")


def _flat_annotation(task: Mapping[str, Any]) -> dict[str, Any]:
    """The annotation of a JSON-MIN task, whose tags are columns among those of the data."""
    tags = {k: v for k, v in task.items() if k not in _OF_FLAT | _OF_DATA and not k.startswith(f"{SPOKEN}_")}
    regions = [region for name, value in tags.items() for region in _flat_regions(name, value, _shown(task))]
    return {
        "id": task.get("annotation_id"), "result": regions or [{"type": "none", "value": {}}],
        "completed_by": task.get("annotator"), "created_at": task.get("created_at"),
        "lead_time": task.get("lead_time"), "was_cancelled": task.get("was_cancelled"), "skipped": task.get("skipped"),
    }  # fmt: skip


def _flat_regions(name: str, value: Any, shown: Shown) -> list[dict[str, Any]]:
    """Regions of a column: of a tag by its shape; a column of the data that looks like none of ours says nothing."""
    if value is None:
        return []
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return [region for one in value for region in _flat_regions(name, one, shown)]
    known = [kind for kind in _KINDS if isinstance(value, dict) and kind in value]
    if known:
        return [_region(name, _TYPES.get(known[0], known[0]), value)]
    ids = [str(one) for one in value] if isinstance(value, list) else []
    if name.startswith("rank") or isinstance(value, dict) or (len(ids) > 1 and set(ids) <= shown.index_of.keys()):
        return [_region(name, "ranker", {"ranker": value})]
    if isinstance(value, str | list) and (name.startswith("choice") or _is_choice(value, shown)):
        return [_region(name, "choices", {"choices": [value] if isinstance(value, str) else value})]
    if isinstance(value, str) and value in ("left", "right"):
        return [_region(name, "pairwise", {"selected": value})]
    if isinstance(value, int | float) and re.search(r"\d$", name):
        return [_region(name, "number", {"number": value})]
    return [_region(name, "textarea", {"text": [str(value)]})]


def _region(name: str, kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "type": kind, "value": dict(value)}


def _is_choice(value: Any, shown: Shown) -> bool:
    """Whether a value is an option of ours or a response."""
    said = value[0] if isinstance(value, list) and len(value) == 1 else value
    return isinstance(said, str) and (
        said.lower() == TIE or re.fullmatch(r"Response \d{1,4}", said) is not None or said in shown.responses
    )


class Shown(NamedTuple):
    """A task's responses in the item's order, the order in which they are shown, and their ids' indices."""

    responses: list[Any]
    order: list[int]
    index_of: dict[str, int]


def _shown(data: Mapping[str, Any]) -> Shown:
    """From a list of texts, or of a List tag's objects; ids that are no indices stand in the order of the list."""
    listed = data.get("responses")
    if not isinstance(listed, list):
        raise ComparisonError(f"no list of responses among {sorted(data)}: name the task's column responses")
    texts = [one.get("body", one.get("title")) if isinstance(one, dict) else one for one in listed]
    ids = [str(one.get("id", k)) if isinstance(one, dict) else str(k) for k, one in enumerate(listed)]
    indices = [str(i) for i in range(len(listed))]
    if sorted(ids) != sorted(indices):
        return Shown(texts, list(range(len(ids))), {name: k for k, name in enumerate(ids)})
    return Shown([texts[ids.index(i)] for i in indices], [int(i) for i in ids], {i: int(i) for i in indices})


def _path(url: Any) -> str:
    """A path relative to the file, from one or from the address of a local file."""
    text = str(url)
    if text.startswith(LOCAL_FILES):
        return parse_qs(urlsplit(text).query).get("d", [""])[0]
    if "://" in text or text.startswith("/"):
        raise ComparisonError(f"{text[:80]!r} is no file beside the export: put it there and write its path")
    return text


def _judgement(item: Comparison, shown: Shown, annotation: Mapping[str, Any]) -> Comparison:
    if not isinstance(annotation["result"], list):
        raise ComparisonError(f"result {str(annotation['result'])[:60]!r} is no list of regions: export as JSON")
    regions = [region for region in annotation["result"] if isinstance(region, dict)]
    said: dict[str, Any] = {}
    scores: dict[int, Any] = {}
    for region in regions:
        kind, value = region.get("type"), region.get("value")
        if kind not in _JUDGING:  # a relation between regions, a comment: it may have no value
            continue
        if not isinstance(value, dict):
            raise ComparisonError(f"value {str(value)[:60]!r} of a region is no object: export as JSON")
        if kind == "choices":
            _set(said, "choice", _choice(value.get("choices"), item, shown))
        elif kind == "pairwise":
            _set(said, "choice", _side(value.get("selected"), shown))
        elif kind == "ranker":
            _set(said, "ranking", _ranking(value.get("ranker"), shown))
        elif kind in ("rating", "number"):
            _set(scores, _at(_number_in(str(region.get("from_name")), item), shown), value.get(kind))
    if scores:
        said["scores"] = [scores.get(i) for i in range(len(item.responses))]
        if None in said["scores"]:
            raise ComparisonError(f"scores of responses {sorted(scores)} of {len(item.responses)}: score each of them")
    if not said:
        kinds = ", ".join(sorted({str(region.get("type")) for region in regions}))
        raise ComparisonError(
            f"an annotation without choice, ranking or scores (it has {kinds}): does it come from another project?"
        )
    meta: dict[str, Any] = next((region["meta"] for region in regions if isinstance(region.get("meta"), dict)), {})
    more = _who_and_when(annotation, meta)
    more["provenance"] = {**item.provenance, "order": shown.order, **more["provenance"]}
    return Comparison.from_row({**item.to_row(), **said, **more})


def _set(said: dict[Any, Any], kind: Any, value: Any) -> None:
    """Note what a region says, unless another one said otherwise."""
    before = said.setdefault(kind, value)
    if before is not value and before != value:
        raise ComparisonError(f"{kind} is said twice, {said[kind]!r} and {value!r}: say it once")


def _who_and_when(annotation: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    by = annotation.get("completed_by")
    name = by.get("email") or by.get("id") if isinstance(by, dict) else by
    own = {key: meta[key] for key in ("seconds", "order", "repeat") if key in meta}
    seconds = {} if annotation.get("lead_time") is None else {"seconds": annotation["lead_time"]}
    return {
        "annotator": meta.get("annotator") or (None if name is None else f"label-studio/{name}"),
        "created": meta.get("created") or _time_of(annotation.get("created_at")),
        "provenance": {**seconds, **own},
    }


def _time_of(created: Any) -> str:
    """ISO 8601 of a time; before Label Studio 1.0 it was seconds since the epoch."""
    if isinstance(created, bool) or not isinstance(created, int | float):
        return str(created or "")
    try:
        return datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError) as error:
        raise ComparisonError(f"created_at {str(created)[:40]} is no time ({error}): write ISO 8601") from error


def _choice(chosen: Any, item: Comparison, shown: Shown) -> Choice:
    """What a choice means: our own options, or a response's text."""
    said = chosen[0] if isinstance(chosen, list) and len(chosen) == 1 else chosen
    if isinstance(said, str):
        if said.lower() == TIE:
            return TIE
        if re.fullmatch(r"Response \d{1,4}", said):
            return _at(int(said.split()[1]) - 1, shown)
        if item.responses.count(said) == 1:
            return item.responses.index(said)
    raise ComparisonError(f"choice {said!r} is none of the responses: give one of them, 'Response 1' or 'tie'")


def _side(selected: Any, shown: Shown) -> int:
    if selected not in ("left", "right"):
        raise ComparisonError(f"{selected!r} is no side of a pair: give 'left' or 'right'")
    return _at(int(selected == "right"), shown)


def _at(place: int, shown: Shown) -> int:
    """Index of the response that is shown at a place."""
    if not 0 <= place < len(shown.order):
        raise ComparisonError(f"response {place + 1} is outside the {len(shown.order)} responses: give one of them")
    return shown.order[place]


def _ranking(ranked: Any, shown: Shown) -> list[int]:
    """Indices in order, from a list of ids or from the one list that a Ranker's object holds."""
    lists = [one for one in ranked.values() if one] if isinstance(ranked, dict) else [ranked]
    if len(lists) == 1 and isinstance(lists[0], list) and all(str(i) in shown.index_of for i in lists[0]):
        return [shown.index_of[str(i)] for i in lists[0]]
    raise ComparisonError(f"ranking {ranked!r} is no order of {len(shown.order)} responses: rank by their ids")


def _number_in(name: str, item: Comparison) -> int:
    digits = re.search(r"\d{1,4}$", name)
    if digits is None and len(item.responses) == 1:
        return 0
    if digits is None:
        raise ComparisonError(f"{name!r} does not say which response it scores: call the tags score_0, score_1, ..")
    return int(digits[0])


def read_tasks(path: Path) -> list[Any]:
    """The tasks of an export.

    Raises:
        ComparisonError: the file is no JSON list, or stops in the middle.
    """
    try:
        tasks = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ComparisonError(f"{path} is no whole JSON file ({error}): export it again") from error
    if isinstance(tasks, dict) and {"data", "task", "responses"} & tasks.keys():
        return [tasks]  # what a target storage gets: a file each
    if not isinstance(tasks, list):
        raise ComparisonError(f"{path} holds no list of tasks: export as JSON")
    return tasks
