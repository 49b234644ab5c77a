"""Captions that say what their readers are owed: what is there, plates and marks, and a relation or a place."""

from __future__ import annotations

import random
from typing import NamedTuple

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.captions import FEW_THINGS, MOST_ATTRIBUTES
from mmenv.worlds.questions import Draw
from mmenv.worlds.questions.forms import askable_relations
from mmenv.worlds.questions.reading import mark_with_kind
from mmenv.worlds.scenes import Scene, Thing, lies, place
from mmenv.worlds.things import article

OPENINGS_ONE = ("there is", "i see", "the picture shows")  # by the number of the first thing
OPENINGS_SEVERAL = ("there are", "i see", "the picture shows")
WITH_PLATE = "on {a_colour} plate"
WITH_MARK = "with the {mark}"
# Of one thing, and of several things with the same plate or mark.
PLATE_FORMS = (
    "{thing} is on {a_colour} plate",
    "{thing} has {a_colour} plate",
    "{a_colour} plate is under {thing}",
    "the plate under {thing} is {colour}",
)
PLATES_FORMS = ("{things} are on {colour} plates", "{things} have {colour} plates")
MARK_FORMS = (
    "the {mark} is written on {thing}",
    "{thing} has the {mark}",
    "{thing} has the {mark} written on it",
)
MARKS_FORMS = ("the {mark} is written on {things}", "{things} have the {mark}")
RELATION_FORMS = (
    "{thing} is {relation} {other}",
    "{thing} lies {relation} {other}",
    "{relation} {other} is {thing}",
)
SIDE_FORMS = ("{thing} is to the {relation} {other}", "to the {relation} {other} is {thing}")  # left, right
PLACE_FORMS = ("{thing} is at the {place}", "{thing} lies at the {place}", "at the {place} is {thing}")
FORMS = (
    *OPENINGS_ONE, *OPENINGS_SEVERAL, WITH_PLATE, WITH_MARK, *PLATE_FORMS, *PLATES_FORMS, *MARK_FORMS, *MARKS_FORMS,
    *RELATION_FORMS, *SIDE_FORMS, *PLACE_FORMS,
)  # fmt: skip
MOST_WORDS, MOST_WORDS_OF_MANY = 40, 76  # with few things, and with more; marks such as "," count as words
PLACED = 0.5  # share of captions that end with a place and not with a relation, where both are possible
INLINE = 0.5  # share of attributes that the list of things already says
TRIES = 8


class Attribute(NamedTuple):
    """A plate or a mark that things of one concept have.

    Attributes:
        thing: one of the things.
        slots: for the forms: "colour" and "a_colour", or "mark".
        number: how many things of the concept have it.
    """

    thing: Thing
    slots: dict[str, str]
    number: int


def write_caption(scene: Scene, rng: random.Random, comp: bool = False) -> str | None:
    """A right caption of two to four sentences: everything that is owed, and nothing twice.

    Args:
        scene: what is described.
        rng: source of randomness; only ``random()`` is called.
        comp: whether for the split ``comp``: the caption states a relation of a held-out pair. Other captions state
            another relation or a place.

    Returns:
        Lower-case words and marks separated by spaces; None where the scene has no such relation or place, or no try
        was short enough.
    """
    draw = Draw(rng, True, comp)
    last = _position(scene, draw)
    if last is None:
        return None
    most_words = MOST_WORDS if len(scene.things) <= FEW_THINGS else MOST_WORDS_OF_MANY
    for _ in range(TRIES):
        attributes = sorted(_attributes(scene), key=lambda _: rng.random())[:MOST_ATTRIBUTES]
        inline = [a for a in attributes if scene.only(a.thing.name) is not None and rng.random() < INLINE]
        clauses = [_clause(scene, a, draw) for a in attributes if a not in inline]
        sentences = [_list(scene, inline, draw), *_joined(clauses, draw)]
        sentences.insert(len(sentences) if rng.random() < 0.8 else 1, last)
        text = " ".join(f"{sentence} ." for sentence in sentences)
        if len(text.split()) <= most_words:
            return text
    return None


def _attributes(scene: Scene) -> list[Attribute]:
    """Every plate and mark of a concept, once."""
    attributes: dict[tuple[str, str], Attribute] = {}
    for thing in scene.things:
        for slots in _looks(thing):
            key = thing.name, "".join(slots.values())
            number = attributes[key].number if key in attributes else 0
            attributes[key] = Attribute(thing, slots, number + 1)
    return list(attributes.values())


def _looks(thing: Thing) -> list[dict[str, str]]:
    """The slots of a thing's plate and of its mark."""
    looks = []
    if thing.plate is not None:
        looks.append({"colour": thing.plate, "a_colour": f"{article(thing.plate)} {thing.plate}"})
    if thing.mark is not None:
        looks.append({"mark": mark_with_kind(thing.mark)})
    return looks


def _list(scene: Scene, inline: list[Attribute], draw: Draw) -> str:
    """ "there are two dogs , a cat on a red plate and a car"."""
    items = []
    names = draw.rotated(list(dict.fromkeys(t.name for t in scene.things)))
    for name in names:
        things = scene.named(name)
        item = _some(things[0], len(things))
        for attribute in inline:
            if attribute.thing.name == name:
                form = WITH_PLATE if "colour" in attribute.slots else WITH_MARK
                item += " " + form.format_map(attribute.slots)
        items.append(item)
    openings = OPENINGS_ONE if scene.only(names[0]) is not None else OPENINGS_SEVERAL
    return f"{draw.pick(openings)} {_enumerated(items)}"


def _enumerated(items: list[str]) -> str:
    """ "a dog , a cat and a car"."""
    return f"{' , '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]


def _some(thing: Thing, number: int) -> str:
    """ "a dog", "two dogs"."""
    return f"{article(thing.name)} {thing.name}" if number == 1 else f"{NUMBER_WORDS[number]} {thing.plural}"


def _clause(scene: Scene, attribute: Attribute, draw: Draw) -> str:
    """ "the dog is on a red plate", "the letter b is written on two dogs"."""
    has_plate = "colour" in attribute.slots
    if attribute.number == 1:
        form = draw.pick(PLATE_FORMS if has_plate else MARK_FORMS)
        return form.format(thing=_one(scene, attribute.thing), **attribute.slots)
    form = draw.pick(PLATES_FORMS if has_plate else MARKS_FORMS)
    return form.format(things=_some(attribute.thing, attribute.number), **attribute.slots)


def _one(scene: Scene, thing: Thing) -> str:
    """ "the dog" where there is one, else "a dog"."""
    return f"the {thing.name}" if scene.only(thing.name) is not None else _some(thing, 1)


def _joined(clauses: list[str], draw: Draw) -> list[str]:
    """At most two sentences of clauses."""
    if len(clauses) == 3 or (len(clauses) == 2 and draw.rng.random() < 0.5):
        return [f"{clauses[0]} and {clauses[1]}", *clauses[2:]]
    return clauses


def _position(scene: Scene, draw: Draw) -> str | None:
    """ "the dog is above the cat", "at the top left is a dog"; None where nothing lies clearly enough."""
    askable = askable_relations(draw.comp)
    relations = [
        (a, relation, b)
        for a in scene.things
        for relation in askable[a.concept]
        for b in scene.things
        if a.concept != b.concept and lies(a, relation, b)
    ]
    places = [] if draw.comp else [(t, where) for t in scene.things if (where := place(t)) is not None]
    if places and (not relations or draw.rng.random() < PLACED):
        thing, where = draw.pick(places)
        return draw.pick(PLACE_FORMS).format(thing=_one(scene, thing), place=where)
    if not relations:
        return None
    thing, relation, other = draw.pick(relations)
    forms = (*RELATION_FORMS, *SIDE_FORMS) if relation in ("left of", "right of") else RELATION_FORMS
    return draw.pick(forms).format(thing=_one(scene, thing), relation=relation, other=_one(scene, other))
