"""Questions of places and relations: what is where, where is what, relation, nearest, two steps."""

from __future__ import annotations

from mmenv.worlds.questions.forms import (
    Draw,
    Finding,
    Form,
    askable_relations,
    held_out_relations,
    named_neighbours,
    neighbours,
    unique,
    yes_or_no,
)
from mmenv.worlds.scenes import OPPOSITE, RELATIONS, Scene, Thing, at_place, lies, place, unclear
from mmenv.worlds.scenes import nearest as nearest_thing
from mmenv.worlds.things import concepts

NAMES = "the name of a thing"


def answer_name(thing: Thing, slots: dict[str, str]) -> Finding:
    """A question whose answer is a thing; one person in ten says its category."""
    concept = concepts()[thing.concept]
    return Finding(slots, concept.name, thing, concept.category)


def what_is_where(scene: Scene, draw: Draw) -> Finding | None:
    """What is in a ninth of the picture: ``what is at the top left ?`` - ``dog``."""
    for thing in draw.rotated(scene.things):
        where = place(thing)
        if where is not None and at_place(scene, where) is thing:
            return answer_name(thing, {"place": where})
    return None


def where_is_what(scene: Scene, draw: Draw) -> Finding | None:
    """The ninth of the picture that holds a thing: ``where is the dog ?`` - ``top left``."""
    for thing in draw.rotated(unique(scene)):
        where = place(thing)
        if where is not None:
            return Finding({"name": concepts()[thing.concept].name}, where, thing)
    return None


def whether_it_lies(scene: Scene, draw: Draw) -> Finding | None:
    """Whether a thing lies in a direction of another: ``is the dog left of the cat ?`` - ``yes``."""
    things = unique(scene)
    for first in draw.rotated(things):
        for relation in draw.rotated(askable_relations(draw.comp)[first.concept]):
            for second in draw.rotated(things):
                if second is first or unclear(first, relation, second):
                    continue
                if lies(first, relation, second) == draw.yes:
                    return _whether(first, relation, second, draw.yes)
    return None


def _whether(first: Thing, relation: str, second: Thing, yes: bool) -> Finding:
    """A yes-or-no question about a relation of two things."""
    name = concepts()[first.concept].name
    other = concepts()[second.concept].name
    return Finding({"name": name, "relation": relation, "other": other}, yes_or_no(yes), first)


def what_lies(scene: Scene, draw: Draw) -> Finding | None:
    """The only thing in a direction of another: ``what is left of the dog ?`` - ``car``."""
    options = [
        (thing, relation, neighbour)
        for thing, relation, neighbour in named_neighbours(scene)
        if (relation in held_out_relations()[neighbour.concept]) == draw.comp
    ]
    if not options:
        return None
    thing, relation, neighbour = draw.pick(options)
    return answer_name(neighbour, {"relation": relation, "name": concepts()[thing.concept].name})


def nearest(scene: Scene, draw: Draw) -> Finding | None:
    """The thing whose centre is nearest to another's: ``what is nearest to the dog ?`` - ``car``."""
    for thing in draw.rotated(unique(scene)):
        other = nearest_thing(scene, thing)
        if other is not None:
            return answer_name(other, {"name": concepts()[thing.concept].name})
    return None


def two_steps(scene: Scene, draw: Draw) -> Finding | None:
    """What lies in a direction of what lies so: ``what is above the thing left of the dog ?`` - ``car``.

    The second direction is never the opposite of the first: it would lead back.
    """
    reserved = held_out_relations()
    table = neighbours(scene)
    things = scene.things
    starts = unique(scene)
    for (start, relation), middle in draw.rotated(list(table.items())):
        if middle is None or things[start] not in starts:
            continue
        for second in draw.rotated([r for r in RELATIONS if r != OPPOSITE[relation]]):
            end = table.get((middle, second))
            if end is None or end == start:
                continue
            held_out = relation in reserved[things[middle].concept] or second in reserved[things[end].concept]
            if held_out == draw.comp:
                name = concepts()[things[start].concept].name
                return answer_name(things[end], {"second_relation": second, "relation": relation, "name": name})
    return None


FORMS = (
    Form(
        "what is where",
        "thing",
        what_is_where,
        ("what is at the {place} ?", "what do you see at the {place} ?", "name the thing at the {place} ."),
        NAMES,
    ),
    Form(
        "where is what",
        "place",
        where_is_what,
        ("where is the {name} ?", "where do you see the {name} ?", "in which part of the picture is the {name} ?"),
        "one of the nine places",
    ),
    Form(
        "relation",
        "whether",
        whether_it_lies,
        ("is the {name} {relation} the {other} ?", "does the {name} lie {relation} the {other} ?"),
        "yes, no",
        comp=True,
    ),
    Form(
        "relation",
        "what",
        what_lies,
        ("what is {relation} the {name} ?", "which thing is {relation} the {name} ?"),
        NAMES,
        comp=True,
    ),
    Form(
        "nearest",
        "thing",
        nearest,
        (
            "what is nearest to the {name} ?",
            "which thing is nearest to the {name} ?",
            "what is closest to the {name} ?",
        ),
        NAMES,
        least=3,
    ),
    Form(
        "two steps",
        "thing",
        two_steps,
        (
            "what is {second_relation} the thing {relation} the {name} ?",
            "which thing is {second_relation} the thing {relation} the {name} ?",
            "what lies {second_relation} the thing {relation} the {name} ?",
        ),
        NAMES,
        comp=True,
        least=3,
    ),
)
