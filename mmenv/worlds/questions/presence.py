"""Questions of what is there: existence, count, comparison, and the odd one out."""

from __future__ import annotations

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.questions.forms import Draw, Finding, Form, yes_or_no
from mmenv.worlds.scenes import Scene
from mmenv.worlds.things import categories, concepts, members

GREATEST_COUNT = 10


def named_thing(scene: Scene, draw: Draw) -> Finding:
    """Whether a thing is there: ``is there a dog ?`` - ``yes``. Half of the things that are not there share a category
    with one that is."""
    present = [t.concept for t in scene.things]
    number = draw.pick(present)
    near = members()[concepts()[number].category] if draw.rng.random() < 0.5 else range(len(concepts()))
    while not draw.yes and number in present:
        number = draw.pick(near)
        near = range(len(concepts()))  # all of a category may be there
    concept = concepts()[number]
    return Finding({"a_name": f"{concept.article} {concept.name}"}, yes_or_no(draw.yes))


def named_kind(scene: Scene, draw: Draw) -> Finding:
    """Whether any thing of a category is there: ``are there any animals ?`` - ``no``."""
    present = {concepts()[t.concept].category for t in scene.things}
    options = [plural for name, plural in categories().items() if (name in present) == draw.yes]
    return Finding({"kinds": draw.pick(options)}, yes_or_no(draw.yes))


def count(scene: Scene, draw: Draw) -> Finding | None:
    """How many there are of a concept, of a category, or in all: ``how many dogs are there ?`` - ``two``.

    A number is drawn first, then what to count: else most answers would be one.
    """
    numbers: dict[str, int] = {}
    for thing in scene.things:
        concept = concepts()[thing.concept]
        kinds = categories()[concept.category]
        numbers[concept.plural] = numbers.get(concept.plural, 0) + 1
        numbers[kinds] = numbers.get(kinds, 0) + 1
    numbers["things"] = len(scene.things)
    if draw.rng.random() < 0.1:
        concept = draw.pick(concepts())
        name = concept.plural if draw.rng.random() < 0.5 else categories()[concept.category]
        return None if name in numbers else Finding({"names": name}, NUMBER_WORDS[0])
    askable = sorted({n for n in numbers.values() if n <= GREATEST_COUNT})
    if not askable:
        return None
    number = draw.pick(askable)
    name = draw.pick([name for name, n in numbers.items() if n == number])
    return Finding({"names": name}, NUMBER_WORDS[number])


def _two_kinds(scene: Scene, draw: Draw, equal: bool) -> tuple[str, str] | None:
    """The plurals of two categories: of the one with more things, then of the one with fewer.

    Args:
        scene: whose things count.
        draw: source of randomness.
        equal: whether both may have the same number, one or more.
    """
    numbers: dict[str, int] = {}
    for thing in scene.things:
        category = concepts()[thing.concept].category
        numbers[category] = numbers.get(category, 0) + 1
    present = list(numbers)
    names = list(categories())
    for _ in range(20):
        first = draw.pick(present)
        second = draw.pick(present if draw.rng.random() < 0.7 else names)
        difference = numbers[first] - numbers.get(second, 0)
        if first == second or (difference == 0 and not equal):
            continue
        if difference < 0:
            first, second = second, first
        return categories()[first], categories()[second]
    return None


def more(scene: Scene, draw: Draw) -> Finding | None:
    """Whether a category has more things than another: ``are there more animals than vehicles ?`` - ``yes``."""
    pair = _two_kinds(scene, draw, equal=not draw.yes)
    if pair is None:
        return None
    larger, smaller = pair if draw.yes else pair[::-1]
    return Finding({"kinds": larger, "other_kinds": smaller}, yes_or_no(draw.yes))


def fewer(scene: Scene, draw: Draw) -> Finding | None:
    """Whether a category has fewer things than another: ``are there fewer animals than vehicles ?`` - ``no``."""
    pair = _two_kinds(scene, draw, equal=not draw.yes)
    if pair is None:
        return None
    larger, smaller = pair if draw.yes else pair[::-1]
    return Finding({"kinds": smaller, "other_kinds": larger}, yes_or_no(draw.yes))


def which_more(scene: Scene, draw: Draw) -> Finding | None:
    """Which of two categories has more things: ``are there more animals or more vehicles ?`` - ``animals``."""
    pair = _two_kinds(scene, draw, equal=False)
    if pair is None:
        return None
    first, second = pair if draw.yes else pair[::-1]
    return Finding({"kinds": first, "other_kinds": second}, pair[0])


def odd_one_out(scene: Scene, draw: Draw) -> Finding | None:
    """The only thing of its category where all others share one: ``which one does not belong ?`` - ``dog``."""
    kinds = [concepts()[t.concept].category for t in scene.things]
    alone = [t for t, kind in zip(scene.things, kinds) if kinds.count(kind) == 1]
    if len(kinds) < 3 or len(alone) != 1 or len(set(kinds)) != 2:
        return None
    return Finding({}, concepts()[alone[0].concept].name, alone[0])


FORMS = (
    Form(
        "existence",
        "thing",
        named_thing,
        ("is there {a_name} ?", "do you see {a_name} ?", "does the picture show {a_name} ?"),
        "yes, no",
    ),
    Form(
        "existence",
        "kind",
        named_kind,
        ("are there any {kinds} ?", "do you see any {kinds} ?", "does the picture show any {kinds} ?"),
        "yes, no",
    ),
    Form(
        "count",
        "number",
        count,
        ("how many {names} are there ?", "how many {names} do you see ?", "count the {names} ."),
        "zero to ten",
    ),
    Form(
        "comparison",
        "more",
        more,
        ("are there more {kinds} than {other_kinds} ?", "do you see more {kinds} than {other_kinds} ?"),
        "yes, no",
    ),
    Form(
        "comparison",
        "fewer",
        fewer,
        ("are there fewer {kinds} than {other_kinds} ?", "do you see fewer {kinds} than {other_kinds} ?"),
        "yes, no",
    ),
    Form(
        "comparison",
        "which",
        which_more,
        ("are there more {kinds} or more {other_kinds} ?", "which are there more of , {kinds} or {other_kinds} ?"),
        "the plural of a category",
    ),
    Form(
        "odd one out",
        "thing",
        odd_one_out,
        ("which one does not belong ?", "which thing is different from the others ?", "which is the odd one out ?"),
        "the name of a thing",
        odd=True,
        least=3,
    ),
)
