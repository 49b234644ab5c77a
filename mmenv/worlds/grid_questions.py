"""Questions about a scene and their answers: nine families, shared by written and spoken tasks.

A family is a function of a scene and a random generator. It returns None where the scene has nothing that it could ask
about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from mmenv.worlds.grid import (
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

T = TypeVar("T")


class Question(NamedTuple):
    """A question about a scene.

    Attributes:
        text: as the user asks it.
        answer: the right answer.
        family: name of its family, see ``FAMILIES``.
        rough: a rougher answer that one person in ten might give, or None.
        thing: the thing that it is about, or None.
    """

    text: str
    answer: str
    family: str
    rough: str | None = None
    thing: Thing | None = None


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of ``items``, drawn uniformly."""
    return items[int(rng.integers(len(items)))]


def unique(scene: Scene) -> list[Thing]:
    """Things whose concept appears once in the scene."""
    return [t for t in scene.things if len(scene.named(t.name)) == 1]


def allowed(thing: Thing, relation: str, test: bool) -> bool:
    """Whether a split may ask for ``relation`` of this thing: only the test split has the combinations held out."""
    return test or not held_out(thing.concept, relation)


def yes_or_no(value: bool) -> str:
    """A truth value as an answer."""
    return "yes" if value else "no"


def existence(scene: Scene, rng: np.random.Generator) -> Question:
    """Whether a thing, or any thing of a category, is there: ``is there a dog ?`` - ``no``."""
    yes = rng.random() < 0.5
    if rng.random() < 0.5:
        present = {t.category for t in scene.things}
        options = sorted(present) if yes else [c for c in categories() if c not in present]
        return Question(f"are there any {categories()[pick(rng, options)]} ?", yes_or_no(yes), "existence")
    if yes:
        name = pick(rng, scene.things).name
    else:
        # A name from a category that is there, so that the category alone does not give it away.
        near = [c.name for c in concepts() if c.category == pick(rng, scene.things).category]
        name = pick(rng, near if rng.random() < 0.5 else [c.name for c in concepts()])
    return Question(f"is there {article(name)} {name} ?", yes_or_no(bool(scene.named(name))), "existence")


def count(scene: Scene, rng: np.random.Generator) -> Question:
    """How many things there are, of a concept, of a category, or in all: ``how many animals are there ?`` - ``two``."""
    form = rng.random()
    if form < 0.25:
        return Question("how many things are there ?", NUMBERS[len(scene.things)], "count")
    thing = pick(rng, scene.things)
    if form < 0.65:
        return Question(f"count every {thing.name} .", NUMBERS[len(scene.named(thing.name))], "count")
    plural = categories()[thing.category]
    return Question(f"how many {plural} are there ?", NUMBERS[len(scene.named(thing.category))], "count")


def comparison(scene: Scene, rng: np.random.Generator) -> Question:
    """Whether a category has more things than another: ``are there more animals than vehicles ?`` - ``yes``."""
    present = sorted({t.category for t in scene.things})
    a = pick(rng, present)
    b = pick(rng, [c for c in (present if len(present) > 1 and rng.random() < 0.7 else categories()) if c != a])
    if rng.random() < 0.5:
        a, b = b, a
    more = len(scene.named(a)) > len(scene.named(b))
    return Question(f"are there more {categories()[a]} than {categories()[b]} ?", yes_or_no(more), "comparison")


def what_is_at(scene: Scene, rng: np.random.Generator) -> Question:
    """What is in a cell of the grid: ``what is at the top left ?`` - ``dog``, or roughly ``animal``."""
    if rng.random() < 0.1 and len(scene.things) < 9:
        free = [(r, c) for r in range(3) for c in range(3) if scene.at(r, c) is None]
        row, column = pick(rng, free)
        return Question(f"what is at the {ROWS[row]} {COLUMNS[column]} ?", "nothing", "what is at")
    thing = pick(rng, scene.things)
    return Question(f"what is at the {thing.place} ?", thing.name, "what is at", thing.category, thing)


def relation(scene: Scene, rng: np.random.Generator, test: bool) -> Question | None:
    """What is in the next cell in a direction: ``what is left of the dog ?`` - ``car``, or roughly ``vehicle``.

    Args:
        scene: with a thing whose concept appears once and that has a neighbour, else there is no question.
        rng: source of randomness.
        test: whether combinations of thing and relation are allowed that only the test split has.
    """
    options = [(t, r, n) for t in unique(scene) for r in RELATIONS if allowed(t, r, test) and (n := scene.beside(t, r))]
    if not options:
        return None
    thing, name, neighbour = pick(rng, options)
    return Question(f"what is {name} the {thing.name} ?", neighbour.name, "relation", neighbour.category, neighbour)


def category(scene: Scene, rng: np.random.Generator) -> Question:
    """The category of the thing in a cell: ``what kind of thing is at the top left ?`` - ``animal``."""
    thing = pick(rng, scene.things)
    return Question(f"what kind of thing is at the {thing.place} ?", thing.category, "category", None, thing)


def odd_one_out(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The only thing of its category where all others share one: ``which one does not belong ?`` - ``dog``.

    There is no choice to draw, so ``rng`` is left as it is.
    """
    alone = [t for t in scene.things if len(scene.named(t.category)) == 1]
    if len(alone) != 1 or len(scene.things) < 3 or len({t.category for t in scene.things}) != 2:
        return None
    return Question("which one does not belong ?", alone[0].name, "odd one out", alone[0].category, alone[0])


def two_step(scene: Scene, rng: np.random.Generator, test: bool) -> Question | None:
    """The category of a neighbour: ``what kind of thing is left of the dog ?`` - ``vehicle``.

    Args:
        scene, rng, test: see ``relation``.
    """
    step = relation(scene, rng, test)
    if step is None or step.thing is None:
        return None
    start = step.text.removeprefix("what is ")
    return Question(f"what kind of thing is {start}", step.thing.category, "two step", None, step.thing)


def where(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The cell of a thing whose concept appears once: ``where is the dog ?`` - ``top left``."""
    things = unique(scene)
    if not things:
        return None
    thing = pick(rng, things)
    return Question(f"where is the {thing.name} ?", thing.place, "where", None, thing)


Family = Callable[[Scene, np.random.Generator], Question | None]
_FAMILIES: dict[str, Family] = {
    "existence": existence,
    "count": count,
    "comparison": comparison,
    "what is at": what_is_at,
    "category": category,
    "odd one out": odd_one_out,
    "where": where,
}
_RELATIONAL = {"relation": relation, "two step": two_step}
# In this order VQA draws them by number: another order would change every sample.
FAMILIES = (
    "existence", "count", "comparison", "what is at", "relation", "category", "odd one out", "two step", "where",
)  # fmt: skip
HARD_FAMILIES = ("count", "comparison", "two step")


def ask(family: str, scene: Scene, rng: np.random.Generator, test: bool) -> Question | None:
    """A question of a family about a scene; None where the family has none about it.

    Args:
        family: a name of ``FAMILIES``.
        scene: what is asked about.
        rng: source of randomness.
        test: whether the question is for the test split, which alone has some combinations of thing and relation.

    Raises:
        KeyError: there is no such family.
    """
    if family in _RELATIONAL:
        return _RELATIONAL[family](scene, rng, test)
    return _FAMILIES[family](scene, rng)


def answer_in(words: list[str]) -> tuple[str, float, float]:
    """The answer that a response holds, its brevity and its grammar.

    ``dog``, ``a dog``, ``it is a dog`` and ``there are two`` hold one. Brevity is ``min(1, 3 / words)``, and grammar is
    1, or 0.8 with a wrong article. Any other form holds no answer.

    Returns:
        the answer ("" when there is none), and brevity and grammar in [0, 1].
    """
    n = len(words)
    if n and words[-1] == ".":
        words = words[:-1]
    brevity = 1.0 if n <= 3 else 3.0 / n
    grammar = 1.0
    if len(words) > 2 and words[1] in ("is", "are") and words[0] in ("it", "there"):
        words = words[2:]
    if len(words) > 2 and words[0] == "at" and words[1] == "the":
        words = words[2:]
    elif len(words) == 2 and words[0] in ("a", "an", "the"):
        if words[0] != "the" and words[0] != article(words[1]):
            grammar = 0.8
        words = words[1:]
    return (" ".join(words) if 0 < len(words) <= 2 else "", brevity, grammar)


def credit_parts(references: tuple[str, ...], text: str) -> dict[str, float]:
    """Accuracy of VQA (``correct``), ``brevity`` and ``grammar``, each in [0, 1].

    Args:
        references: the answers of ten people; three that agree make an answer fully right (Antol et al. 2015).
        text: the response.
    """
    answer, brevity, grammar = answer_in(text.split())
    correct = min(1.0, references.count(answer) / 3) if answer else 0.0
    return {"correct": correct, "brevity": brevity, "grammar": grammar}


def credit(references: tuple[str, ...], text: str) -> float:
    """The product of ``credit_parts``, in [0, 1]."""
    return math.prod(credit_parts(references, text).values())


def answers(question: Question) -> tuple[str, ...]:
    """The answers of ten people: nine times the right one, and once the rougher one where there is one."""
    return (question.answer,) * 9 + (question.rough or question.answer,)
