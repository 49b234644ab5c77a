"""Write what is generated in docs/: the home page from README.md, a page with a film for each task, tables of scenes.

python -m scripts.make_docs
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image

from experiments.pages import write_section
from mmenv.cards import page, write_film
from mmenv.registration import TABLE
from mmenv.worlds.painter import paint
from mmenv.worlds.questions import FORMS, HARD_FAMILIES, Form
from mmenv.worlds.scenes import LEVELS, draw_scene, seed_of
from mmenv.worlds.things import categories, concepts

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / "docs" / "environments"
SHEET_COLUMNS = 6
FILMED = 4  # number of the sample, of the test split, that each film shows


def pages() -> dict[str, list[str]]:
    """Name of each page -> the ids that it is about."""
    ids: dict[str, list[str]] = {}
    for env_id, row in TABLE.items():
        ids.setdefault(row.module.rpartition(".")[2], []).append(env_id)
    return ids


def environment_page(name: str) -> str:
    """The text of a page of ``pages``."""
    ids = pages()[name]
    return page(ids, gym.make(ids[0], reward="gold"), [Path(f"{name}.gif")])


def question_table() -> str:
    """All forms of questions, with their phrasings and answers: the table "questions" of docs/scenes.md."""
    lines = ["| family | asks | phrasings | answer | comp |", "|---|---|---|---|---|"]
    for family, forms in FORMS.items():
        label = f"**{family}**" if family in HARD_FAMILIES else family
        for form in forms:
            phrasings = "<br>".join(f"`{phrasing}`" for phrasing in form.phrasings)
            comp = "yes" if form.comp else ""
            lines.append(f"| {label} | {_purpose(form)} | {phrasings} | {form.answers} | {comp} |")
    return "\n".join(lines)


def _purpose(form: Form) -> str:
    """What a form asks: the first words of its docstring, before the example."""
    text = " ".join((form.find.__doc__ or "").split())
    return re.split(r"[:.] ", text, maxsplit=1)[0]


def word_table() -> str:
    """Categories with their things: the table "words" of docs/scenes.md. A plural stands where "s" does not make it."""
    lines = ["| category | plural | things |", "|---|---|---|"]
    for category, plural in categories().items():
        names = [
            concept.name if concept.plural == f"{concept.name}s" else f"{concept.name} ({concept.plural})"
            for concept in concepts()
            if concept.category == category
        ]
        lines.append(f"| {category} | {plural} | {', '.join(names)} |")
    return "\n".join(lines)


def scene_sheet() -> np.ndarray:
    """The picture of docs/scenes.md: plain scenes, hard ones, and in each column a scene ever more shifted."""
    rows = [("plain", 0.0), ("hard", 0.0), ("plain", 0.25), ("plain", 0.5), ("plain", 1.0)]
    lines = []
    for number, (level, shift) in enumerate(rows):
        split = "test" if number > 1 else "train"
        scenes = [
            draw_scene(random.Random(seed_of("sheet", level, split, i)), LEVELS[level], split, shift=shift)
            for i in range(SHEET_COLUMNS)
        ]
        pictures = [np.pad(paint(s, 2 * 96), ((4, 4), (4, 4), (0, 0)), constant_values=255) for s in scenes]
        lines.append(np.concatenate(pictures, axis=1))
    return np.concatenate(lines)


def main() -> None:
    """Write all pages, films and the sheet of scenes."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    for name, ids in pages().items():
        env = gym.make(ids[0], split="test", reward="gold", render_mode="rgb_array")
        write_film(env, FILMED, ENVIRONMENTS / f"{name}.gif")
        (ENVIRONMENTS / f"{name}.md").write_text(environment_page(name), encoding="utf-8")
    Image.fromarray(scene_sheet()).save(ROOT / "docs" / "img" / "scenes.png", optimize=True)
    write_section(ROOT / "docs" / "scenes.md", "words", word_table())
    write_section(ROOT / "docs" / "scenes.md", "questions", question_table())
    home = (ROOT / "README.md").read_text(encoding="utf-8")
    home = re.sub(r"\]\((?!http|docs/)", "](https://github.com/mmenv/mmenv/blob/main/", home).replace("](docs/", "](")
    (ROOT / "docs" / "index.md").write_text(home, encoding="utf-8")


if __name__ == "__main__":
    main()
