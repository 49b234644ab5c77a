"""What the question families share: the records, and the searches for things that a text can name without doubt."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from mmenv.worlds.scenes import MARGIN, OTHER_WAY, RELATIONS, Scene, Thing, held_out_relation
from mmenv.worlds.things import concepts

T = TypeVar("T")


class Question(NamedTuple):
    """A question about a scene.

    Attributes:
        text: as the user asks it: lower case, words and marks separated by spaces.
        answer: the right answer.
        family: name of its family, of ``FAMILIES``.
        rough: a rougher answer that one person in ten might give, or None.
        thing: the thing that it is about, or None.
    """

    text: str
    answer: str
    family: str
    rough: str | None = None
    thing: Thing | None = None


class Finding(NamedTuple):
    """What a form can ask about a scene: the words for its slots, the right answer, and what ``Question`` holds."""

    slots: dict[str, str]
    answer: str
    thing: Thing | None = None
    rough: str | None = None


@dataclass(slots=True)
class Draw:
    """What is drawn before a scene is seen, so that a scene that fits badly does not bias the answers.

    Attributes:
        rng: source of randomness; only ``random()`` is called.
        yes: whether a yes-or-no question should have the answer "yes"; the larger of two where a form compares.
        comp: whether relations are asked only of held-out pairs, as in the split ``comp``, or only of others.
    """

    rng: random.Random
    yes: bool
    comp: bool = False

    def pick(self, items: Sequence[T]) -> T:
        """One of ``items``, drawn uniformly."""
        return items[int(self.rng.random() * len(items))]

    def rotated(self, items: Sequence[T]) -> Sequence[T]:
        """``items`` from a random one on, then those before it."""
        start = int(self.rng.random() * len(items))
        return [*items[start:], *items[:start]]


Find = Callable[[Scene, Draw], Finding | None]


class Form(NamedTuple):
    """One kind of question of a family.

    Attributes:
        family: name of its family.
        name: its name within the family.
        find: looks for something to ask; None where the scene has nothing.
        phrasings: texts with slots, each as likely as the others.
        answers: what the answers are, in words.
        comp: whether the split ``comp`` asks it.
        odd: whether it needs a scene in which all things but one share a category.
        digits: share of digits among the marks of a scene with many; None where marks do not matter.
        least: the fewest things of a scene that can have such a question, or that mostly have.
    """

    family: str
    name: str
    find: Find
    phrasings: tuple[str, ...]
    answers: str
    comp: bool = False
    odd: bool = False
    digits: float | None = None
    least: int = 1


def yes_or_no(value: bool) -> str:
    """A truth value as an answer."""
    return "yes" if value else "no"


def unique(scene: Scene) -> list[Thing]:
    """Things whose concept appears once, so that "the dog" means one thing."""
    numbers = [t.concept for t in scene.things]
    return [t for t in scene.things if numbers.count(t.concept) == 1]


def on_own_colour(scene: Scene) -> list[Thing]:
    """Things whose plate has a colour that no other plate has."""
    colours = [t.colour for t in scene.things]
    return [t for t in scene.things if t.colour is not None and colours.count(t.colour) == 1]


@functools.cache
def held_out_relations() -> tuple[frozenset[str], ...]:
    """Concept -> the relations that only the split ``comp`` states of it."""
    return tuple(frozenset(r for r in RELATIONS if held_out_relation(i, r)) for i in range(len(concepts())))


@functools.cache
def askable_relations(comp: bool) -> tuple[list[str], ...]:
    """Concept -> the relations that a split may state of it."""
    return tuple([r for r in RELATIONS if (r in held) == comp] for held in held_out_relations())


def neighbours(scene: Scene) -> dict[tuple[int, str], int | None]:
    """What lies in each direction of each thing, as ``scenes.beside`` finds it, by numbers in ``scene.things``.

    Returns:
        (thing, relation) -> the only thing that lies so; None where there are several or one is unclear. Where nothing
        lies there is no key.
    """
    result: dict[tuple[int, str], int | None] = {}
    things = scene.things
    for i, a in enumerate(things):
        for j in range(i):
            b = things[j]
            wide = abs(a.x - b.x)
            high = abs(a.y - b.y)
            if wide > 0 and high < wide + OTHER_WAY:
                first, second = (i, j) if a.x < b.x else (j, i)
                clear = wide >= MARGIN and wide >= high
                key = (second, "left of")
                result[key] = first if clear and key not in result else None
                key = (first, "right of")
                result[key] = second if clear and key not in result else None
            if high > 0 and wide < high + OTHER_WAY:
                first, second = (i, j) if a.y < b.y else (j, i)
                clear = high >= MARGIN and high >= wide
                key = (second, "above")
                result[key] = first if clear and key not in result else None
                key = (first, "below")
                result[key] = second if clear and key not in result else None
    return result


def named_neighbours(scene: Scene) -> list[tuple[Thing, str, Thing]]:
    """(thing, relation, neighbour): the neighbour alone lies, say, left of the thing, whose concept appears once."""
    things = scene.things
    names = unique(scene)
    return [
        (things[i], relation, things[j])
        for (i, relation), j in neighbours(scene).items()
        if j is not None and things[i] in names
    ]
