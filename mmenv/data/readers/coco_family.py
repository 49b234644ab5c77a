"""Rows of COCO's captions and of VQAv2: JSON files of annotations, with the pictures of COCO in a folder.

COCO, https://cocodataset.org/#format-data: ``images`` with ``id`` and ``file_name``, ``annotations`` with ``image_id``
and ``caption``. A picture is one sample, its captions are the references.

VQAv2, https://visualqa.org/download.html: ``v2_OpenEnded_mscoco_train2014_questions.json`` with
``v2_mscoco_train2014_annotations.json`` beside it. The ten answers are the references, the commonest first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmenv.data.dataset import CheckedRows, DatasetRow, DatasetTurn
from mmenv.data.faults import Faults
from mmenv.data.media import DatasetError, check_image, path_inside
from mmenv.data.readers.checks import checked_text, is_file, parsed, shortened
from mmenv.data.sample import CAPTION_PROMPT

_PICTURES = ("COCO_{subset}_{number:012d}.jpg", "{number:012d}.jpg", "COCO_{subset}_{number:012d}.png", "{number}.png")
_TRIED = 20  # entries whose pictures are looked for, to find the folder


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        DatasetError: it holds none.
    """
    try:
        content = parsed(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: no UTF-8 text ({error}): save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: invalid JSON ({error}): download or write the file again") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds {type(content).__name__}, not an object: give an annotations file")
    return content


def read_annotated(path: Path, content: dict[str, Any], images: Path | None, annotations: Path | None) -> CheckedRows:
    """The rows of a ``.json`` file, by what it holds.

    Args:
        path: the file, for errors.
        content: what it holds.
        images: folder of the pictures; None looks in the usual places.
        annotations: file of VQAv2's answers; None looks beside the questions, and goes without where there is none.

    Raises:
        DatasetError: the layout is another one, or the pictures are nowhere.
    """
    if "questions" in content:
        return read_vqav2(path, content, annotations, images)
    if "images" in content:
        return read_coco(path, content, images)
    if "annotations" in content:
        raise DatasetError(f"{path} holds the answers of VQAv2: give the file of questions, with this one beside it")
    keys = ", ".join(sorted(content)[:5])
    raise DatasetError(f"{path} holds {keys}: neither images and annotations, as COCO, nor questions, as VQAv2")


def _entries(path: Path, content: dict[str, Any], key: str, faults: Faults) -> dict[int, dict[str, Any]]:
    """The objects of a list in the file, by their place; other entries are faults.

    Raises:
        DatasetError: there is no list under that key.
    """
    listed = content.get(key)
    if not isinstance(listed, list):
        raise DatasetError(f"{path}: {key} is no list of objects: see docs/data.md for the layout")
    objects = {}
    for i, entry in enumerate(listed):
        if isinstance(entry, dict):
            objects[i] = entry
        elif entry is not None:
            faults.add(f"{path}, {key}[{i}]: {shortened(entry)} is no object: remove it")
    return objects


def _key_of(entry: dict[str, Any], key: str) -> int | str | None:
    """A number or name by which entries refer to each other; None where it is neither."""
    value = entry.get(key)
    return value if isinstance(value, int | str) else None


def _image_folder(file: Path, images: Path | None, subset: str, name: str) -> Path:
    """The folder of the pictures: ``images``, or the first usual place that holds one by ``name``.

    Args:
        file: the annotations.
        images: the folder, where the caller named one; None looks beside the file and beside its folder.
        subset: ``"train2014"``, say.
        name: file name of a picture.

    Raises:
        DatasetError: nowhere.
    """
    if images is not None:
        if not images.is_dir():
            raise DatasetError(f"images={str(images)!r} is no folder: give the one that holds {name}")
        return images.resolve()
    bases = (file.parent, file.parent.parent)
    places = [base / part for base in bases for part in (".", subset, "images")]
    places += [base / "images" / subset for base in bases]
    for place in places:
        if is_file(place / name):
            return place.resolve()
    raise DatasetError(f"{file}: no folder with {name} near it: give images=FOLDER, or dataset='{file}?images=FOLDER'")


# COCO


def read_coco(path: Path, content: dict[str, Any], images: Path | None = None) -> CheckedRows:
    """All pictures with their captions, and all faults; for the arguments see ``read_annotated``."""
    faults = Faults()
    pictures = _entries(path, content, "images", faults)
    captions = _captions(path, content, {_key_of(p, "id") for p in pictures.values()}, faults)
    names = [p["file_name"] for p in pictures.values() if isinstance(p.get("file_name"), str)]
    if not names:
        raise DatasetError(f"{path}: images name no files: give each a file_name")
    subset = path.stem.rpartition("_")[2]  # captions_train2014
    folders = (Faults().check(_image_folder, path, images, subset, name) for name in names[:_TRIED])
    root = next((folder for folder in folders if folder is not None), None)
    root = root or _image_folder(path, images, subset, names[0])
    rows = []
    for i, picture in pictures.items():
        where = f"{path}, images[{i}]"
        row = faults.check_entry(where, _captioned, root, where, picture, captions)
        rows += [] if row is None else [row]
    return CheckedRows(str(path), rows, faults.sentences)


def _captioned(root: Path, where: str, picture: dict[str, Any], captions: dict[Any, list[str]]) -> DatasetRow:
    """A picture with its captions."""
    faults = Faults()
    name = faults.check(path_inside, root, where, "file_name", picture.get("file_name"))
    if name is not None:
        faults.check(check_image, name, where)
    number = _key_of(picture, "id")
    if number is None:
        faults.add(f"{where}: id {picture.get('id')!r} is no number: give each picture one")
    faults.raise_any()
    turn = DatasetTurn(CAPTION_PROMPT, references=tuple(captions.get(number, ())))
    return DatasetRow(where, str(number), name, (turn,))


def _captions(path: Path, content: dict[str, Any], pictures: set[Any], faults: Faults) -> dict[Any, list[str]]:
    """Captions by the id of their picture."""
    captions: dict[Any, list[str]] = {}
    if "annotations" not in content:  # image_info_test2014.json has none
        return captions
    for i, entry in _entries(path, content, "annotations", faults).items():
        where, picture = f"{path}, annotations[{i}]", _key_of(entry, "image_id")
        text = faults.check(checked_text, where, "caption", entry.get("caption"))
        if text is None:
            continue
        if not text.strip():
            faults.add(f"{where}: caption {text!r} is no text: write one, or remove the entry")
        elif picture is None or picture not in pictures:
            number = entry.get("image_id")
            faults.add(f"{where}: image_id {number!r} is none of the images: add it, or remove the entry")
        else:
            captions.setdefault(picture, []).append(" ".join(text.split()))
    return captions


# VQAv2


class _Pictures:
    """The pictures of questions by their number; several questions ask about one, which is checked once."""

    def __init__(self, root: Path, subset: str) -> None:
        self.root, self.subset = root, subset
        self._paths: dict[Any, tuple[Path | None, list[str]]] = {}

    def path(self, where: str, number: Any) -> Path:
        """The checked file of a picture.

        Raises:
            DatasetError: there is none, or it is damaged.
        """
        key = number if isinstance(number, int | str) else None
        if key not in self._paths:
            faults = Faults()
            self._paths[key] = faults.check(self._checked, where, number), faults.sentences
        path, sentences = self._paths[key]
        if path is None:
            raise DatasetError(*sentences)
        return path

    def _checked(self, where: str, number: Any) -> Path:
        name = _picture_name(self.root, self.subset, number)
        if name is None:
            missing = f"image_id {shortened(number)} has no picture in {self.root}"
            raise DatasetError(f"{where}: {missing}: put it there or remove the question")
        path = path_inside(self.root, where, "image_id", name)
        check_image(path, where)
        return path


def read_vqav2(path: Path, content: dict[str, Any], annotations: Path | None, images: Path | None) -> CheckedRows:
    """All questions with their answers, and all faults; for the arguments see ``read_annotated``."""
    faults = Faults()
    questions = _entries(path, content, "questions", faults)
    subtype = str(content.get("data_subtype", ""))
    if not re.fullmatch(r"[\w-]*", subtype):  # it becomes a part of paths
        raise DatasetError(f"{path}: data_subtype {subtype!r} is no name: write one such as train2014")
    subset = subtype.replace("test-dev", "test")
    annotations = annotations or annotations_beside(path, subtype)
    answers = {} if annotations is None else _answers(annotations, faults)
    pictures = _Pictures(_picture_root(path, images, subset, [*questions.values()][:_TRIED]), subset)

    def row(where: str, i: int, entry: dict[str, Any]) -> DatasetRow:
        row_faults = Faults()
        picture = row_faults.check(pictures.path, where, entry.get("image_id"))
        text = row_faults.check(checked_text, where, "question", entry.get("question"))
        if text is not None and not text.strip():
            row_faults.add(f"{where}: question {text!r} is no text: write one, or remove the entry")
        references = answers.get(_key_of(entry, "question_id"), ())
        if answers and not references:
            number = shortened(entry.get("question_id"))
            row_faults.add(f"{where}: question_id {number} has no answers in {annotations}: add them")
        row_faults.raise_any()
        return DatasetRow(
            where, str(entry.get("question_id", i)), picture, (DatasetTurn(text or "", None, references),)
        )

    rows = []
    for i, entry in questions.items():
        where = f"{path}, questions[{i}]"
        checked = faults.check_entry(where, row, where, i, entry)
        rows += [] if checked is None else [checked]
    return CheckedRows(str(path), rows, faults.sentences)


def annotations_beside(questions: Path, subset: str) -> Path | None:
    """The file of answers that belongs to a file of questions, by the official names; None where there is none."""
    official = questions.name.replace("OpenEnded_", "").replace("questions", "annotations")
    path = questions.with_name(official)
    if path != questions and path.is_file():
        return path
    others = sorted(questions.parent.glob(f"*{subset}*annotations.json")) if subset else []
    return others[0] if len(others) == 1 else None


def _picture_root(path: Path, images: Path | None, subset: str, questions: list[dict[str, Any]]) -> Path:
    """The folder that holds the picture of one of the questions."""
    numbers = [n for q in questions if isinstance(n := q.get("image_id"), int)]
    for number in numbers:
        for pattern in _PICTURES:
            name = pattern.format(subset=subset, number=number)
            folder = Faults().check(_image_folder, path, images, subset, name)
            if folder is not None and (images is None or _picture_name(folder, subset, number) is not None):
                return folder
    first = _PICTURES[0].format(subset=subset, number=numbers[0] if numbers else 0)
    return _image_folder(path, images, subset, first)


def _picture_name(root: Path, subset: str, number: Any) -> str | None:
    """The file of a picture; None where there is none by any usual name."""
    if not isinstance(number, int):
        return None
    names = (pattern.format(subset=subset, number=number) for pattern in _PICTURES)
    return next((name for name in names if is_file(root / name)), None)


def _answers(path: Path, faults: Faults) -> dict[Any, tuple[str, ...]]:
    """The answers to each question, the commonest first."""
    answers: dict[Any, tuple[str, ...]] = {}
    for i, entry in _entries(path, read_object(path), "annotations", faults).items():
        where, value = f"{path}, annotations[{i}]", entry.get("answers")
        listed = [a for a in value if a is not None] if isinstance(value, list) else []
        answer_texts = [a.get("answer") if isinstance(a, dict) else a for a in listed]
        texts = [
            text for a in answer_texts if (text := Faults().check(checked_text, where, "answer", a)) and text.strip()
        ]
        if not texts or len(texts) != len(answer_texts):
            faults.add(f"{where}: answers {shortened(value)} are no texts: give ten answers")
            continue
        best = entry.get("multiple_choice_answer") or max(texts, key=texts.count)
        answers[_key_of(entry, "question_id")] = tuple(sorted(texts, key=lambda text: text != best))
    return answers
