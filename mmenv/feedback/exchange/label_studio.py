"""Label Studio tasks and annotations, made of comparisons and their judgements.

A task's data hold the comparison, the responses once as a list to be ranked and once as options to choose from:

    {"data": {"sample_id", "prompt", "image"?, "audio"?, "responses": [{"id": "1", "title": "Response 1", "body"}, ..],
              "options": [{"value": "Response 1"}, .., {"value": "tie"}], "spoken_0"?, "stops"?, "provenance"?},
     "annotations": [{"result": [..], "lead_time", "created_at"}]}

The responses are in a blind order, drawn for each item: an id is the index in the item's order, while "Response 1",
spoken_0 (its sound) and score_0 belong to the response shown first.

Source of the formats: Label Studio's documentation of its JSON format and of the tags List, Ranker, Choices, Pairwise,
Rating and Number.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from mmenv.feedback.comparison import TIE, Comparison
from mmenv.feedback.comparison_media import SPOKEN, media_paths
from mmenv.feedback.identity import identity

LOCAL_FILES = "/data/local-files/"
# Stored in each region's ``meta``, because Label Studio has no field for them.
META_KEYS = ("annotator", "created", "seconds", "order", "repeat")


def labelling_config(responses: int, image: bool, audio: bool, spoken: bool = False) -> str:
    """Label Studio's XML for tasks of up to so many responses: choose one, rank them, or score each."""
    tags = []
    if image:
        tags.append('<Image name="image" value="$image"/>')
    if audio:
        tags.append('<Audio name="audio" value="$audio"/>')
    tags.append('<Text name="prompt" value="$prompt"/>')
    tags.append('<List name="responses" value="$responses" title="Responses, best first"/>')
    if spoken:
        tags += [f'<Audio name="spoken_{i}" value="$spoken_{i}"/>' for i in range(responses)]
    tags.append('<Ranker name="ranking" toName="responses"/>')
    tags.append('<Choices name="choice" toName="prompt" value="$options" choice="single-radio"/>')
    tags += [f'<Number name="score_{i}" toName="prompt"/>' for i in range(responses)]
    return "<View>\n" + "".join(f"  {tag}\n" for tag in tags) + "</View>\n"


def label_studio_task(item: Comparison, judgements: Iterable[Comparison]) -> dict[str, Any]:
    """A task, with an annotation for each judgement.

    Args:
        item: undecided, with media paths relative to the folder that Label Studio serves local files from.
        judgements: of this item.
    """
    order = blind_order(item)
    data: dict[str, Any] = {
        "sample_id": item.sample_id,
        "prompt": item.prompt,
        "responses": [{"id": str(i), "title": option(k), "body": item.responses[i]} for k, i in enumerate(order)],
        "options": [{"value": option(k)} for k in range(len(order))] + [{"value": TIE}],
    }
    fields = {f"{SPOKEN}-{i}": f"{SPOKEN}_{k}" for k, i in enumerate(order)}
    data |= {fields.get(name, name): LOCAL_FILES + "?d=" + quote(path) for name, path in media_paths(item).items()}
    if item.stops:
        data["stops"] = list(item.stops)
    if item.provenance:
        data["provenance"] = dict(item.provenance)
    return {"data": data, "annotations": [_annotation(judgement, order) for judgement in judgements]}


def blind_order(item: Comparison) -> list[int]:
    """The order in which an item's responses are shown, the same each time."""
    n = len(item.responses)
    return random.Random(identity(item)).sample(range(n), n)


def option(place: int) -> str:
    """Title of the response at a place on the screen."""
    return f"Response {place + 1}"


def _annotation(judgement: Comparison, order: list[int]) -> dict[str, Any]:
    """Without ``completed_by``: Label Studio accepts only the names of its own users there."""
    details = {**judgement.provenance, "annotator": judgement.annotator, "created": judgement.created}
    meta = {key: details[key] for key in META_KEYS if key in details}
    result: list[dict[str, Any]] = []

    def add(name: str, to_name: str, kind: str, value: Any) -> None:
        region = {"id": f"r{len(result)}", "from_name": name, "to_name": to_name, "type": kind}
        result.append({**region, "value": value, "meta": meta})

    if judgement.choice is not None:
        chosen = TIE if judgement.choice == TIE else option(order.index(judgement.choice))
        add("choice", "prompt", "choices", {"choices": [chosen]})
    if judgement.ranking is not None:
        add("ranking", "responses", "ranker", {"ranker": {"ranking": [str(i) for i in judgement.ranking]}})
    for i, score in enumerate(judgement.scores or ()):
        add(f"score_{order.index(i)}", "prompt", "number", {"number": score})
    annotation = {"result": result, "was_cancelled": False, "lead_time": judgement.provenance.get("seconds")}
    if judgement.created:
        annotation["created_at"] = judgement.created
    return annotation
