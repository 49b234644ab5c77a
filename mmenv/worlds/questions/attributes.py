"""Questions of plates, sizes and categories: attribute, attribute of a relation, category, same or different."""

from __future__ import annotations

from mmenv.worlds.questions.forms import (
    Draw,
    Finding,
    Form,
    held_out_relations,
    named_neighbours,
    on_own_colour,
    unique,
    yes_or_no,
)
from mmenv.worlds.questions.positions import NAMES, answer_name
from mmenv.worlds.questions.reading import mark_with_kind, with_own_mark
from mmenv.worlds.scenes import Scene, Thing, at_place, place
from mmenv.worlds.things import COLOURS, SIZES, concepts

COLOUR_ANSWERS = "one of the eight colours"
SIZE_ANSWERS = "small, medium, large"
CATEGORIES = "a category"


def plate_colour(scene: Scene, draw: Draw) -> Finding | None:
    """The colour of a thing's plate: ``what color is the plate under the dog ?`` - ``red``."""
    things = [t for t in unique(scene) if t.colour is not None]
    if not things:
        return None
    thing = draw.pick(things)
    return Finding({"name": concepts()[thing.concept].name}, COLOURS[thing.colour or 0], thing)


def size(scene: Scene, draw: Draw) -> Finding | None:
    """The size of a thing: ``how large is the dog ?`` - ``medium``. Sizes are drawn first, so that none prevails."""
    things = unique(scene)
    if not things:
        return None
    wanted = draw.pick(sorted({t.size for t in things}))
    thing = draw.pick([t for t in things if t.size == wanted])
    return Finding({"name": concepts()[thing.concept].name}, SIZES[wanted], thing)


def on_plate(scene: Scene, draw: Draw) -> Finding | None:
    """What is on the only plate of a colour: ``what is on the red plate ?`` - ``dog``."""
    things = on_own_colour(scene)
    if not things:
        return None
    thing = draw.pick(things)
    return answer_name(thing, {"colour": COLOURS[thing.colour or 0]})


def _neighbours(scene: Scene, comp: bool) -> list[tuple[Thing, str, Thing]]:
    """Of ``named_neighbours`` those whose relation is held out, for ``comp``, or is not."""
    reserved = held_out_relations()
    return [option for option in named_neighbours(scene) if (option[1] in reserved[option[2].concept]) == comp]


def plate_colour_of_neighbour(scene: Scene, draw: Draw) -> Finding | None:
    """The colour of a neighbour's plate: ``what color is the plate of the thing left of the dog ?`` - ``red``.

    In the split ``comp`` the colour is held out, so that the relation need not be.
    """
    pairs = named_neighbours(scene) if draw.comp else _neighbours(scene, comp=False)
    options = [option for option in pairs if option[2].colour is not None]
    if not options:
        return None
    thing, relation, other = draw.pick(options)
    return Finding({"relation": relation, "name": concepts()[thing.concept].name}, COLOURS[other.colour or 0], other)


def size_of_neighbour(scene: Scene, draw: Draw) -> Finding | None:
    """The size of a neighbour: ``what size is the thing left of the dog ?`` - ``small``. See ``size``."""
    options = _neighbours(scene, draw.comp)
    if not options:
        return None
    wanted = draw.pick(sorted({other.size for _, _, other in options}))
    thing, relation, other = draw.pick([option for option in options if option[2].size == wanted])
    return Finding({"relation": relation, "name": concepts()[thing.concept].name}, SIZES[wanted], other)


def kind_at_place(scene: Scene, draw: Draw) -> Finding | None:
    """The category of the thing at a place: ``what kind of thing is at the top left ?`` - ``animal``."""
    for thing in draw.rotated(scene.things):
        where = place(thing)
        if where is not None and at_place(scene, where) is thing:
            return Finding({"place": where}, concepts()[thing.concept].category, thing)
    return None


def kind_on_plate(scene: Scene, draw: Draw) -> Finding | None:
    """The category of the thing on a plate: ``what kind of thing is on the red plate ?`` - ``animal``."""
    finding = on_plate(scene, draw)
    return None if finding is None else Finding(finding.slots, finding.rough or "", finding.thing)


def kind_with_mark(scene: Scene, draw: Draw) -> Finding | None:
    """The category of the thing with a mark: ``what kind of thing has the letter b ?`` - ``animal``."""
    things = with_own_mark(scene)
    if not things:
        return None
    thing = draw.pick(things)
    return Finding({"mark": mark_with_kind(thing.mark or "")}, concepts()[thing.concept].category, thing)


def _pair(things: list[Thing], draw: Draw, values: list[object]) -> tuple[Thing, Thing] | None:
    """Two things whose values are equal if ``draw.yes`` and else differ."""
    order = draw.rotated(range(len(things)))
    for k, i in enumerate(order):
        for j in order[k + 1 :]:
            if (values[i] == values[j]) == draw.yes:
                return (things[i], things[j]) if draw.rng.random() < 0.5 else (things[j], things[i])
    return None


def _names(pair: tuple[Thing, Thing], draw: Draw) -> Finding:
    """A yes-or-no question about two things with names of their own."""
    first, second = (concepts()[t.concept].name for t in pair)
    return Finding({"name": first, "other": second}, yes_or_no(draw.yes))


def same_colour(scene: Scene, draw: Draw) -> Finding | None:
    """Whether two plates are alike: ``do the dog and the cat have plates of the same color ?`` - ``no``."""
    things = [t for t in unique(scene) if t.colour is not None]
    pair = _pair(things, draw, [t.colour for t in things])
    return None if pair is None else _names(pair, draw)


def same_size(scene: Scene, draw: Draw) -> Finding | None:
    """Whether two things are equally large: ``are the dog and the cat of the same size ?`` - ``yes``."""
    things = unique(scene)
    pair = _pair(things, draw, [t.size for t in things])
    return None if pair is None else _names(pair, draw)


def same_kind(scene: Scene, draw: Draw) -> Finding | None:
    """Whether things on two plates share a category.

    ``are the things on the red plate and the blue plate of the same kind ?`` - ``yes``. The question names the plates:
    of named things the names alone would answer it.
    """
    things = on_own_colour(scene)
    pair = _pair(things, draw, [concepts()[t.concept].category for t in things])
    if pair is None:
        return None
    first, second = (COLOURS[t.colour or 0] for t in pair)
    return Finding({"colour": first, "other_colour": second}, yes_or_no(draw.yes))


FORMS = (
    Form(
        "attribute",
        "color",
        plate_colour,
        (
            "what color is the plate under the {name} ?",
            "what color is the plate of the {name} ?",
            "which color does the plate under the {name} have ?",
        ),
        COLOUR_ANSWERS,
        comp=True,
    ),
    Form(
        "attribute",
        "size",
        size,
        ("how large is the {name} ?", "what size is the {name} ?"),
        SIZE_ANSWERS,
    ),
    Form(
        "attribute",
        "thing",
        on_plate,
        (
            "what is on the {colour} plate ?",
            "which thing is on the {colour} plate ?",
            "name the thing on the {colour} plate .",
        ),
        NAMES,
        comp=True,
    ),
    Form(
        "attribute of relation",
        "color",
        plate_colour_of_neighbour,
        (
            "what color is the plate of the thing {relation} the {name} ?",
            "what color is the plate under the thing {relation} the {name} ?",
            "which color does the plate under the thing {relation} the {name} have ?",
        ),
        COLOUR_ANSWERS,
        comp=True,
    ),
    Form(
        "attribute of relation",
        "size",
        size_of_neighbour,
        (
            "how large is the thing {relation} the {name} ?",
            "what size is the thing {relation} the {name} ?",
        ),
        SIZE_ANSWERS,
        comp=True,
    ),
    Form(
        "category",
        "place",
        kind_at_place,
        ("what kind of thing is at the {place} ?", "what kind of thing do you see at the {place} ?"),
        CATEGORIES,
    ),
    Form(
        "category",
        "plate",
        kind_on_plate,
        ("what kind of thing is on the {colour} plate ?", "what kind of thing do you see on the {colour} plate ?"),
        CATEGORIES,
        comp=True,
    ),
    Form(
        "category",
        "mark",
        kind_with_mark,
        ("what kind of thing has the {mark} ?", "what kind of thing is the one with the {mark} ?"),
        CATEGORIES,
        digits=0.5,
    ),
    Form(
        "same or different",
        "color",
        same_colour,
        (
            "do the {name} and the {other} have plates of the same color ?",
            "are the plates of the {name} and the {other} the same color ?",
            "are the plates under the {name} and the {other} of the same color ?",
        ),
        "yes, no",
        comp=True,
        least=4,
    ),
    Form(
        "same or different",
        "size",
        same_size,
        (
            "are the {name} and the {other} of the same size ?",
            "do the {name} and the {other} have the same size ?",
        ),
        "yes, no",
    ),
    Form(
        "same or different",
        "kind",
        same_kind,
        (
            "are the things on the {colour} plate and the {other_colour} plate of the same kind ?",
            "is the same kind of thing on the {colour} plate and the {other_colour} plate ?",
        ),
        "yes, no",
        comp=True,
        least=4,
    ),
)
