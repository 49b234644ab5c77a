"""Data of one's own, written by tests: pictures of every mode, captions in several languages, official layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 20, 20), "green": (20, 180, 40), "blue": (30, 40, 220), "white": (250, 250, 250), "black": (5, 5, 5),
    "yellow": (240, 220, 30),
}  # fmt: skip
CAPTIONS = {
    "red": "A red picture.",
    "green": "Ein grünes Bild, übrigens groß.",
    "blue": "Μια μπλε εικόνα.",
    "white": "白い絵です。",
    "black": "صورة سوداء",
    "yellow": "🟡 👨‍👩‍👧 ❤️ jaune",
}
MODES = ("RGB", "P", "RGBA", "L", "LA", "I;16", "1", "CMYK", "turned")


def picture(path: Path, mode: str, colour: tuple[int, int, int], size: tuple[int, int]) -> Path:
    """A picture of one colour as ``path.png`` or ``path.jpg``, by what the mode can be saved as."""
    image = Image.new("RGB", size, colour)
    if mode in ("CMYK", "turned"):
        path, exif = path.with_suffix(".jpg"), Image.Exif()
        exif[0x0112] = 6 if mode == "turned" else 1
        (image.convert("CMYK") if mode == "CMYK" else image).save(path, exif=exif)
        return path
    path = path.with_suffix(".png")
    if mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L"), np.uint16) << 8).save(path)
    else:
        image.convert(mode).save(path)
    return path


def captioned(folder: Path, n: int = 500) -> Path:
    """``n`` captioned pictures of every mode, of any size."""
    folder.mkdir(exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    for i in range(n):
        name = list(COLOURS)[i % len(COLOURS)]
        size = (int(rng.integers(1, 160)), int(rng.integers(1, 160)))
        path = picture(folder / str(i), MODES[i % len(MODES)], COLOURS[name], size)
        lines.append(json.dumps({"file_name": path.name, "caption": CAPTIONS[name]}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def break_files(folder: Path) -> list[int]:
    """Break five files of the folder, each in another way; the lines that name them."""
    names = [json.loads(line)["file_name"] for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]
    broken = [7, 99, 200, 353, 499]
    paths = [folder / names[i] for i in broken]
    paths[0].write_bytes(b"")
    paths[1].write_text("no picture")
    paths[2].unlink()
    paths[3].write_bytes(paths[3].read_bytes()[:-40])
    whole = bytearray(paths[4].read_bytes())
    whole[45:-12] = bytes(len(whole) - 57)  # header and end stay: only decoding shows it
    paths[4].write_bytes(bytes(whole))
    return [i + 1 for i in broken]


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def coco(root: Path, n: int = 6) -> Path:
    """COCO's captions in the official layout: ``annotations/captions_val2014.json`` beside ``val2014/``."""
    (root / "val2014").mkdir(parents=True)
    images, annotations = [], []
    for i in range(1, n + 1):
        name, colour = f"COCO_val2014_{i:012d}.jpg", list(COLOURS)[i % 6]
        Image.new("RGB", (64, 48), COLOURS[colour]).save(root / "val2014" / name)
        images.append({
            "license": 3, "file_name": name, "coco_url": f"http://images.cocodataset.org/val2014/{name}", "height": 48,
            "width": 64, "date_captured": "2013-11-14 11:18:45", "flickr_url": "", "id": i,
        })  # fmt: skip
        for k in range(5):
            text = f"A {colour} picture number {k}."
            annotations.append({"image_id": i, "id": 10 * i + k, "caption": text})
    content = {"info": {"year": 2014}, "images": images, "licenses": [], "annotations": annotations}
    return write_json(root / "annotations" / "captions_val2014.json", content)


def vqa(root: Path, n: int = 6) -> Path:
    """VQAv2 in the official layout; the file of questions. Question 10 * i asks for the colour of picture i."""
    (root / "val2014").mkdir(parents=True)
    questions, annotations = [], []
    for i in range(1, n + 1):
        colour = list(COLOURS)[i % 6]
        Image.new("RGB", (64, 48), COLOURS[colour]).save(root / "val2014" / f"COCO_val2014_{i:012d}.jpg")
        questions.append({"image_id": i, "question": "What colour is this?", "question_id": 10 * i})
        people = ["grey", *[colour] * 8, "dark"]
        answers = [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(people, 1)]
        annotations.append({
            "question_type": "what colour is", "multiple_choice_answer": colour, "answers": answers, "image_id": i,
            "answer_type": "other", "question_id": 10 * i,
        })  # fmt: skip
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    write_json(root / "v2_mscoco_val2014_annotations.json", {**head, "annotations": annotations})
    path = root / "v2_OpenEnded_mscoco_val2014_questions.json"
    return write_json(path, {**head, "task_type": "Open-Ended", "questions": questions})
