"""Rows of VQAv2: a file of questions, a file of ten answers to each, and COCO's pictures.

https://visualqa.org/download.html: ``v2_OpenEnded_mscoco_train2014_questions.json`` with
``v2_mscoco_train2014_annotations.json`` beside it. The ten answers are the references, the commonest first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmenv.data.dataset import Reading, Row, Turn, row_of, tried
from mmenv.data.media import DatasetError, check_image, path_inside
from mmenv.data.readers.annotations import checked_text, entries, image_folder, is_file, key_of, read_object, shortened

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
    faults: list[str] = []
    questions = entries(path, content, "questions", faults)
    told = str(content.get("data_subtype", ""))
    if not re.fullmatch(r"[\w-]*", told):  # it becomes a part of paths
        raise DatasetError(f"{path}: data_subtype {told!r} is no name: write one such as train2014")
    subset = told.replace("test-dev", "test")
    annotations = annotations or annotations_beside(path, told)
    answers = {} if annotations is None else _answers(annotations, faults)
    root = _root(path, images, subset, [*questions.values()][:20])
    names: dict[Any, str | None] = {}
    checked: dict[Any, list[str]] = {}  # several questions ask about one picture, which is looked at once

    def row(i: int, entry: dict[str, Any]) -> Row | None:
        where, number = f"{path}, questions[{i}]", key_of(entry, "image_id")
        if number not in names:
            names[number] = _name(root, subset, number)
            checked[number] = _check(root, where, names[number], entry.get("image_id"))
        wrong = list(checked[number])
        text = tried(wrong, checked_text, where, "question", entry.get("question"))
        if text is not None and not text.strip():
            wrong.append(f"{where}: question {text!r} is no text: write one, or remove the entry")
        given = answers.get(key_of(entry, "question_id"), ())
        if answers and not given:
            odd = shortened(entry.get("question_id"))
            wrong.append(f"{where}: question_id {odd} has no answers in {annotations}: add them")
        faults.extend(wrong)
        turns = (Turn(text or "", references=given),)
        return None if wrong else Row(where, str(entry.get("question_id", i)), root / str(names[number]), turns)

    made = (row_of(faults, f"{path}, questions[{i}]", row, i, entry) for i, entry in questions.items())
    return Reading(str(path), [found for found in made if found is not None], faults)


def _root(path: Path, images: Path | None, subset: str, questions: list[dict[str, Any]]) -> Path:
    numbers = [n for q in questions if isinstance(n := q.get("image_id"), int)]
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
    return next((name for name in names if is_file(root / name)), None)


def _check(root: Path, where: str, name: str | None, number: Any) -> list[str]:
    wrong: list[str] = []
    if name is None:
        return [f"{where}: image_id {shortened(number)} has no picture in {root}: put it there or remove the question"]
    picture = tried(wrong, path_inside, root, where, "image_id", name)
    if picture is not None:
        tried(wrong, check_image, picture, where)
    return wrong


def _answers(path: Path, faults: list[str]) -> dict[Any, tuple[str, ...]]:
    """The answers to each question, the commonest first."""
    found: dict[Any, tuple[str, ...]] = {}
    for i, entry in entries(path, read_object(path), "annotations", faults).items():
        where, told = f"{path}, annotations[{i}]", entry.get("answers")
        listed = [a for a in told if a is not None] if isinstance(told, list) else []
        given = [a.get("answer") if isinstance(a, dict) else a for a in listed]
        wrong: list[str] = []
        texts = [text for a in given if (text := tried(wrong, checked_text, where, "answer", a)) and text.strip()]
        if not texts or len(texts) != len(given):
            faults.append(f"{where}: answers {shortened(told)} are no texts: give ten answers")
            continue
        best = entry.get("multiple_choice_answer") or max(texts, key=texts.count)
        found[key_of(entry, "question_id")] = tuple(sorted(texts, key=lambda text: text != best))
    return found


def refuse_annotations(path: Path) -> DatasetError:
    """What to say to somebody who gives the file of answers."""
    return DatasetError(f"{path} holds the answers of VQAv2: give the file of questions, with this one beside it")
