"""Label Studio: its tasks and annotations, to and from comparisons.

A task's data hold the comparison, the responses once as a list to be ranked and once as options to choose from:

    {"data": {"sample_id", "prompt", "image"?, "audio"?, "responses": [{"id": "0", "title", "body"}, ..],
              "options": [{"value": "Response 1"}, .., {"value": "tie"}], "stops"?, "provenance"?},
     "annotations": [{"result": [..], "lead_time", "created_at"}]}

Source of the shapes: Label Studio's docs of its JSON format and of the tags List, Ranker, Choices, Pairwise, Rating and
Number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from mmenv.feedback.comparison import TIE, Choice, Comparison, ComparisonError

LOCAL_FILES = "/data/local-files/"
# What Label Studio has no place for travels in each region's ``meta``.
_META = ("annotator", "created", "seconds", "order", "repeat")


def labelling_config(responses: int, image: bool, audio: bool) -> str:
    """Label Studio's XML for tasks of up to so many responses: choose one, rank them, or score each."""
    media = ['  <Image name="image" value="$image"/>'] * image + ['  <Audio name="audio" value="$audio"/>'] * audio
    numbers = [f'  <Number name="score_{i}" toName="prompt"/>' for i in range(responses)]
    return "\n".join([
        "<View>", *media,
        '  <Text name="prompt" value="$prompt"/>',
        '  <List name="responses" value="$responses" title="Responses, best first"/>',
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
    responses, n = item.responses, len(item.responses)
    data: dict[str, Any] = {
        "sample_id": item.sample_id,
        "prompt": item.prompt,
        "responses": [{"id": str(i), "title": _option(i), "body": text} for i, text in enumerate(responses)],
        "options": [{"value": _option(i)} for i in range(n)] + [{"value": TIE}],
    }
    data |= {key: LOCAL_FILES + "?d=" + quote(path) for key, path in _media(item).items()}
    data |= {"stops": list(item.stops)} if item.stops else {}
    data |= {"provenance": dict(item.provenance)} if item.provenance else {}
    return {"data": data, "annotations": [_annotation(judgement) for judgement in judgements]}


def _media(comparison: Comparison) -> dict[str, str]:
    paths = {"image": comparison.image, "audio": comparison.audio}
    return {key: path for key, path in paths.items() if path is not None}


def _option(i: int) -> str:
    return f"Response {i + 1}"


def _annotation(judgement: Comparison) -> dict[str, Any]:
    """No ``completed_by``: Label Studio refuses names that are not its own users'."""
    known = {**judgement.provenance, "annotator": judgement.annotator, "created": judgement.created}
    meta = {key: known[key] for key in _META if key in known}
    regions: list[tuple[str, str, str, dict[str, Any]]] = []
    if judgement.choice is not None:
        said = TIE if judgement.choice == TIE else _option(judgement.choice)
        regions.append(("choice", "prompt", "choices", {"choices": [said]}))
    if judgement.ranking is not None:
        order = {"ranker": {"ranking": [str(i) for i in judgement.ranking]}}
        regions.append(("ranking", "responses", "ranker", order))
    for i, score in enumerate(judgement.scores or ()):
        regions.append((f"score_{i}", "prompt", "number", {"number": score}))
    result = [
        {"id": f"r{k}", "from_name": name, "to_name": to, "type": kind, "value": value, "meta": meta}
        for k, (name, to, kind, value) in enumerate(regions)
    ]
    created = {"created_at": judgement.created} if judgement.created else {}
    return {"result": result, "was_cancelled": False, "lead_time": judgement.provenance.get("seconds"), **created}


def comparisons_of(task: Any) -> list[Comparison]:
    """The undecided comparison of a task, and then one for each of its annotations; cancelled ones say nothing.

    Raises:
        ComparisonError: the task's data lack something, or an annotation says something impossible.
    """
    if not isinstance(task, dict) or not isinstance(task.get("data", task), dict):
        raise ComparisonError(f"{str(task)[:60]!r} is no task: export as JSON")
    data = task.get("data", task)
    item = Comparison.from_row({
        "sample_id": str(data.get("sample_id", f"label-studio/{task.get('id', 'task')}")),
        "prompt": data.get("prompt"), "responses": _responses(data), "stops": data.get("stops"),
        "provenance": data.get("provenance"), **{k: _path(data[k]) for k in ("image", "audio") if data.get(k)},
    })  # fmt: skip
    annotations = task.get("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise ComparisonError(f"annotations {str(annotations)[:60]!r} are no list of objects: export as JSON")
    return [item, *(_judgement(item, a) for a in annotations if not a.get("was_cancelled") and a.get("result"))]


def _responses(data: Mapping[str, Any]) -> list[Any]:
    """Texts of the responses, from a list of texts or of a List tag's objects."""
    responses = data.get("responses")
    if not isinstance(responses, list):
        raise ComparisonError(f"no list of responses among {sorted(data)}: name the task's column responses")
    return [one.get("body", one.get("title")) if isinstance(one, dict) else one for one in responses]


def _path(url: Any) -> str:
    """A path relative to the file, from one or from the address of a local file."""
    text = str(url)
    if text.startswith(LOCAL_FILES):
        return parse_qs(urlsplit(text).query).get("d", [""])[0]
    if "://" in text or text.startswith("/"):
        raise ComparisonError(f"{text[:80]!r} is no file beside the export: put it there and write its path")
    return text


def _judgement(item: Comparison, annotation: Mapping[str, Any]) -> Comparison:
    if not isinstance(annotation["result"], list):
        raise ComparisonError(f"result {str(annotation['result'])[:60]!r} is no list of regions: export as JSON")
    regions = [region for region in annotation["result"] if isinstance(region, dict)]
    said: dict[str, Any] = {}
    scores: dict[int, Any] = {}
    for region in regions:
        kind, value = region.get("type"), region.get("value")
        if not isinstance(value, dict):
            raise ComparisonError(f"value {str(value)[:60]!r} of a region is no object: export as JSON")
        if kind == "choices":
            said["choice"] = _choice(value.get("choices"), item)
        elif kind == "pairwise":
            said["choice"] = _side(value.get("selected"))
        elif kind == "ranker":
            said["ranking"] = _ranking(value.get("ranker"), item)
        elif kind in ("rating", "number"):
            scores[_number_in(str(region.get("from_name")))] = value.get(kind)
    if scores:
        said["scores"] = [scores.get(i) for i in range(len(item.responses))]
        if None in said["scores"] or len(scores) != len(item.responses):
            raise ComparisonError(f"scores of responses {sorted(scores)} of {len(item.responses)}: score each of them")
    if not said:
        raise ComparisonError("an annotation without choice, ranking or scores: does it come from another project?")
    meta: dict[str, Any] = next((region["meta"] for region in regions if isinstance(region.get("meta"), dict)), {})
    return Comparison.from_row({**item.to_row(), **said, **_who_and_when(item, annotation, meta)})


def _who_and_when(item: Comparison, annotation: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    by = annotation.get("completed_by")
    name = by.get("email") or by.get("id") if isinstance(by, dict) else by
    own = {key: meta[key] for key in ("seconds", "order", "repeat") if key in meta}
    seconds = {} if annotation.get("lead_time") is None else {"seconds": annotation["lead_time"]}
    return {
        "annotator": meta.get("annotator") or (None if name is None else f"label-studio/{name}"),
        "created": meta.get("created") or annotation.get("created_at") or "",
        "provenance": {**item.provenance, **seconds, **own},
    }


def _choice(chosen: Any, item: Comparison) -> Choice:
    """What a choice means: our own options, or a response's text."""
    said = chosen[0] if isinstance(chosen, list) and len(chosen) == 1 else chosen
    if isinstance(said, str):
        if said.lower() == TIE:
            return TIE
        if re.fullmatch(r"Response \d+", said):
            return int(said.split()[1]) - 1
        if item.responses.count(said) == 1:
            return item.responses.index(said)
    raise ComparisonError(f"choice {said!r} is none of the responses: give one of them, 'Response 1' or 'tie'")


def _side(selected: Any) -> int:
    if selected not in ("left", "right"):
        raise ComparisonError(f"{selected!r} is no side of a pair: give 'left' or 'right'")
    return int(selected == "right")


def _ranking(ranked: Any, item: Comparison) -> list[int]:
    """Indices in order, from a list of ids or from the one list that a Ranker's object holds."""
    lists = [one for one in ranked.values() if one] if isinstance(ranked, dict) else [ranked]
    if len(lists) == 1 and isinstance(lists[0], list) and all(str(i).isdecimal() for i in lists[0]):
        return [int(i) for i in lists[0]]
    raise ComparisonError(f"ranking {ranked!r} is no order of {len(item.responses)} responses: rank by their ids")


def _number_in(name: str) -> int:
    digits = re.search(r"\d+$", name)
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
    except ValueError as error:
        raise ComparisonError(f"{path} is no whole JSON file ({error}): export it again") from error
    if not isinstance(tasks, list):
        raise ComparisonError(f"{path} holds no list of tasks: export as JSON")
    return tasks
