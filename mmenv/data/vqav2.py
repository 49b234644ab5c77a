"""Rows of VQAv2: a file of questions, a file of ten answers to each, and COCO's pictures.

https://visualqa.org/download.html: ``v2_OpenEnded_mscoco_train2014_questions.json`` with
``v2_mscoco_train2014_annotations.json`` beside it. The ten answers are the references, the commonest first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmenv.data.annotations import entries, image_folder, key_of, read_object
from mmenv.data.dataset import Reading, Row, Turn, tried
from mmenv.data.media import DatasetError, check_image, path_inside

_PICTURES = ("COCO_{subset}_{number:012d}.jpg", "{number:012d}.jpg", "COCO_{subset}_{number:012d}.png", "{number}.png")


def annotations_beside(questions: Path, subset: str) -> Path | None:
    """The file of answers that belongs to a file of questions, by the official names; None where there is none."""
    official = questions.name.replace("OpenEnded_", "").replace("questions", "annotations")
    path = questions.with_name(official)
    if path != questions and path.is_file():
        return path
    others = sorted(questions.parent.glob(f"*{subset}*annotations.json")) if subset else []
    return others[0] if len(others) == 1 else None


def read_vqav2(path: Path, content: dict[str, Any], annotations: Path | None, images: Path | None) -> Reading:
    """All questions with their answers, and all faults.

    Args:
        path: the file of questions.
        content: what it holds.
        annotations: file of the answers; None looks beside the questions, and goes without where there is none.
        images: folder of the pictures; None looks in the usual places.

    Raises:
        DatasetError: the layout is another one, or the pictures are nowhere.
    """
    questions = entries(path, content, "questions")
    faults: list[str] = []
    told = str(content.get("data_subtype", ""))
    if not re.fullmatch(r"[\w-]*", told):  # it becomes a part of paths
        raise DatasetError(f"{path}: data_subtype {told!r} is no name: write one such as train2014")
    subset = told.replace("test-dev", "test")
    annotations = annotations or annotations_beside(path, told)
    answers = {} if annotations is None else _answers(annotations, faults)
    root = _root(path, images, subset, questions)
    names: dict[Any, str | None] = {}
    checked: dict[Any, list[str]] = {}  # several questions ask about one picture, which is looked at once
    rows = []
    for i, entry in enumerate(questions):
        where, number = f"{path}, questions[{i}]", key_of(entry, "image_id")
        if number not in names:
            names[number] = _name(root, subset, number)
            checked[number] = _check(root, where, names[number], entry.get("image_id"))
        wrong = list(checked[number])
        if not isinstance(entry.get("question"), str) or not entry["question"].strip():
            wrong.append(f"{where}: question {entry.get('question')!r} is no text: write one, or remove the entry")
        given = answers.get(key_of(entry, "question_id"), ())
        if answers and not given:
            wrong.append(f"{where}: question_id {entry.get('question_id')!r} has no answers in {annotations}: add them")
        faults += wrong
        if not wrong:
            turns = (Turn(entry["question"], references=given),)
            rows.append(Row(where, str(entry.get("question_id", i)), root / str(names[number]), turns))
    return Reading(str(path), rows, faults)


def _root(path: Path, images: Path | None, subset: str, questions: list[dict[str, Any]]) -> Path:
    numbers = [n for q in questions[:20] if isinstance(n := q.get("image_id"), int)]
    for number in numbers:
        for pattern in _PICTURES:
            found = tried([], image_folder, path, images, subset, pattern.format(subset=subset, number=number))
            if found is not None and (images is None or _name(found, subset, number) is not None):
                return found
    first = _PICTURES[0].format(subset=subset, number=numbers[0] if numbers else 0)
    return image_folder(path, images, subset, first)


def _name(root: Path, subset: str, number: Any) -> str | None:
    """The file of a picture; None where there is none by any usual name."""
    if not isinstance(number, int):
        return None
    names = (pattern.format(subset=subset, number=number) for pattern in _PICTURES)
    return next((name for name in names if (root / name).is_file()), None)


def _check(root: Path, where: str, name: str | None, number: Any) -> list[str]:
    wrong: list[str] = []
    if name is None:
        return [f"{where}: image_id {number!r} has no picture in {root}: put it there or remove the question"]
    picture = tried(wrong, path_inside, root, where, "image_id", name)
    if picture is not None:
        tried(wrong, check_image, picture, where)
    return wrong


def _answers(path: Path, faults: list[str]) -> dict[Any, tuple[str, ...]]:
    """The answers to each question, the commonest first."""
    found: dict[Any, tuple[str, ...]] = {}
    for i, entry in enumerate(entries(path, read_object(path), "annotations")):
        told = entry.get("answers")
        given = [a.get("answer") for a in told if isinstance(a, dict)] if isinstance(told, list) else []
        texts = [text for text in given if isinstance(text, str) and text.strip()]
        if not texts or len(texts) != len(given):
            faults.append(f"{path}, annotations[{i}]: answers {str(told)[:60]} are no texts: give ten answers")
            continue
        best = entry.get("multiple_choice_answer") or max(texts, key=texts.count)
        found[key_of(entry, "question_id")] = tuple(sorted(texts, key=lambda text: text != best))
    return found


def refuse_annotations(path: Path) -> DatasetError:
    """What to say to somebody who gives the file of answers."""
    return DatasetError(f"{path} holds the answers of VQAv2: give the file of questions, with this one beside it")
