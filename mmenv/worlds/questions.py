"""Questions about a scene and their answers: nine families, shared by written and spoken tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmenv.worlds.scenes import (
    COLUMNS,
    NUMBERS,
    RELATIONS,
    ROWS,
    Scene,
    Thing,
    article,
    categories,
    concepts,
    held_out,
)


class Question(NamedTuple):
    """A question with its answer, a rougher answer that a person in ten might give, and the thing it is about."""

    text: str
    answer: str
    family: str
    rough: str | None = None
    thing: Thing | None = None


def pick(rng: np.random.Generator, items: list | tuple):  # type: ignore[no-untyped-def]
    """One of ``items``."""
    return items[int(rng.integers(len(items)))]


def unique(scene: Scene) -> list[Thing]:
    """Things whose concept appears once."""
    return [t for t in scene.things if len(scene.named(t.name)) == 1]


def allowed(thing: Thing, relation: str, held: bool | None) -> bool:
    """Whether a split may ask for ``relation`` of this thing; ``held=None`` allows both kinds."""
    return held is None or held_out(thing.concept, relation) == held


def existence(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    yes = rng.random() < 0.5
    if rng.random() < 0.5:
        present = {t.category for t in scene.things}
        options = sorted(present) if yes else [c for c in categories() if c not in present]
        return Question(f"are there any {categories()[pick(rng, options)]} ?", "yes" if yes else "no", "existence")
    if yes:
        name = pick(rng, scene.things).name
    else:
        # A name from a category that is there, so that the category alone does not give it away.
        near = [c.name for c in concepts() if c.category == pick(rng, scene.things).category]
        name = pick(rng, near if rng.random() < 0.5 else [c.name for c in concepts()])
    found = bool(scene.named(name))
    return Question(f"is there {article(name)} {name} ?", "yes" if found else "no", "existence")


def count(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    form = rng.random()
    if form < 0.25:
        return Question("how many things are there ?", NUMBERS[len(scene.things)], "count")
    thing = pick(rng, scene.things)
    if form < 0.65:
        return Question(f"count every {thing.name} .", NUMBERS[len(scene.named(thing.name))], "count")
    plural = categories()[thing.category]
    return Question(f"how many {plural} are there ?", NUMBERS[len(scene.named(thing.category))], "count")


def comparison(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    present = sorted({t.category for t in scene.things})
    a = pick(rng, present)
    b = pick(rng, [c for c in (present if len(present) > 1 and rng.random() < 0.7 else categories()) if c != a])
    if rng.random() < 0.5:
        a, b = b, a
    more = len(scene.named(a)) > len(scene.named(b))
    text = f"are there more {categories()[a]} than {categories()[b]} ?"
    return Question(text, "yes" if more else "no", "comparison")


def what_is_at(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    if rng.random() < 0.1 and len(scene.things) < 9:
        free = [(r, c) for r in range(3) for c in range(3) if scene.at(r, c) is None]
        row, column = pick(rng, free)
        return Question(f"what is at the {ROWS[row]} {COLUMNS[column]} ?", "nothing", "what is at")
    thing = pick(rng, scene.things)
    return Question(f"what is at the {thing.place} ?", thing.name, "what is at", thing.category, thing)


def relation(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    options = [(t, r, n) for t in unique(scene) for r in RELATIONS if allowed(t, r, held) and (n := scene.beside(t, r))]
    if not options:
        return None
    thing, name, neighbour = pick(rng, options)
    return Question(f"what is {name} the {thing.name} ?", neighbour.name, "relation", neighbour.category, neighbour)


def category(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    thing = pick(rng, scene.things)
    return Question(f"what kind of thing is at the {thing.place} ?", thing.category, "category", None, thing)


def odd_one_out(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    alone = [t for t in scene.things if len(scene.named(t.category)) == 1]
    if len(alone) != 1 or len(scene.things) < 3 or len({t.category for t in scene.things}) != 2:
        return None
    return Question("which one does not belong ?", alone[0].name, "odd one out", alone[0].category, alone[0])


def two_step(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    step = relation(scene, rng, held)
    if step is None or step.thing is None:
        return None
    start = step.text.removeprefix("what is ")
    return Question(f"what kind of thing is {start}", step.thing.category, "two step", None, step.thing)


def where(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    things = unique(scene)
    if not things:
        return None
    thing = pick(rng, things)
    return Question(f"where is the {thing.name} ?", thing.place, "where", None, thing)


Family = Callable[[Scene, np.random.Generator, bool | None], Question | None]
FAMILIES: dict[str, Family] = {
    "existence": existence,
    "count": count,
    "comparison": comparison,
    "what is at": what_is_at,
    "relation": relation,
    "category": category,
    "odd one out": odd_one_out,
    "two step": two_step,
    "where": where,
}
HARD_FAMILIES = ("count", "comparison", "two step")


def answer_in(words: list[str]) -> tuple[str, float]:
    """What a response says, and the factor for how it says it.

    ``dog``, ``a dog``, ``it is a dog`` and ``there are two`` say something; brevity is ``min(1, 3 / words)``, a wrong
    article costs a fifth. Anything else says nothing.

    Returns:
        the answer ("" when there is none) and a factor in [0, 1].
    """
    n = len(words)
    if n and words[-1] == ".":
        words = words[:-1]
    factor = 1.0 if n <= 3 else 3.0 / n
    if len(words) > 2 and words[1] in ("is", "are") and words[0] in ("it", "there"):
        words = words[2:]
    if len(words) > 2 and words[0] == "at" and words[1] == "the":
        words = words[2:]
    elif len(words) == 2 and words[0] in ("a", "an", "the"):
        if words[0] != "the" and words[0] != article(words[1]):
            factor *= 0.8
        words = words[1:]
    return (" ".join(words), factor) if 0 < len(words) <= 2 else ("", 0.0)


def credit(references: tuple[str, ...], text: str) -> float:
    """Accuracy of an answer among those of ten people (VQA: three who agree make it right), times its factor."""
    answer, factor = answer_in(text.split())
    if not factor or answer not in references:
        return 0.0
    return min(1.0, references.count(answer) / 3) * factor


def answers(question: Question) -> tuple[str, ...]:
    """What ten people would say: the answer, and where there is a rougher one, once that."""
    return (question.answer,) * 9 + (question.rough or question.answer,)
