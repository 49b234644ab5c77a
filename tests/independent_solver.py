"""A second solver of questions about scenes, written from docs/scenes.md alone: it reads words, not templates."""

import itertools
from collections.abc import Iterable

from mmenv.worlds.scenes import Scene, Thing
from mmenv.worlds.things import COLOURS, DIGITS, LETTERS, SIZES, categories, concept_index, plurals

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # x grows right, y down
COLUMNS = ("left", "", "right")
ROWS = ("top", "", "bottom")
NINTH = 32  # pixels
MARGIN = 4  # pixels from a border between ninths


class Unclear(ValueError):
    """The page gives the question no answer in this scene."""


def independent_answer(text: str, scene: Scene) -> str:
    """The answer to ``text`` by the rules of docs/scenes.md; raises Unclear where they give none."""
    words = text.rstrip("?. ").split()
    kinds = [w for w in words if w in plurals()]
    if "more" in words or "fewer" in words:
        return _comparison(words, kinds, scene)
    if words[0] == "count" or "many" in words:
        return NUMBERS[len(_of_kind(kinds[0], scene)) if kinds else len(scene.things)]
    if {"belong", "different", "odd"} & set(words):
        return _odd_one_out(scene).name
    if "digits" in words:
        return _sum_of_digits(words, scene)
    if "same" in words:
        return _yes_or_no(_same(words, scene))
    if words[0] in ("is", "are", "do", "does"):
        return _yes_or_no(_holds(words, kinds, scene))
    return _about_one_thing(words, scene)


def _about_one_thing(words: list[str], scene: Scene) -> str:
    """What the question asks of the one thing that it describes."""
    if "written" in words and _mark(words) is None:
        return _written(words, _subject(words, scene))
    thing = _subject(words, scene)
    if "where" in words or "part" in words:
        return _place(thing)
    if "color" in words:
        return COLOURS[_colour(thing)]
    if "large" in words or "size" in words:
        return SIZES[thing.size]
    return thing.category if "kind" in words else thing.name


def _subject(words: list[str], scene: Scene) -> Thing:
    """The thing that the question describes: by its place, its plate, its mark, its name or a chain from a name."""
    colours = [w for w in words if w in COLOURS]
    mark = _mark(words)
    if "at" in words:
        return _at_place(" ".join(words[words.index("at") + 2 :]), scene)
    if colours:
        return _on_plate(colours[0], scene)
    if mark is not None:
        return _only(t for t in scene.things if t.mark == mark)
    thing = _named(_names(words)[-1], scene)
    if "nearest" in words or "closest" in words:
        return _nearest(thing, scene)
    for direction in reversed(_directions(words)):
        thing = _neighbour(direction, thing, scene)
    return thing


def _comparison(words: list[str], kinds: list[str], scene: Scene) -> str:
    first, second = (len(_of_kind(kind, scene)) for kind in kinds)
    if "than" in words:
        return _yes_or_no(first > second if "more" in words else first < second)
    if first == second:
        raise Unclear(f"{kinds} are equally many")
    return kinds[0] if first > second else kinds[1]


def _odd_one_out(scene: Scene) -> Thing:
    def is_odd(thing: Thing) -> bool:
        others = {t.category for t in scene.things if t is not thing}
        return len(others) == 1 and thing.category not in others

    return _only(t for t in scene.things if is_odd(t))


def _sum_of_digits(words: list[str], scene: Scene) -> str:
    names = _names(words)
    things = [_named(name, scene) for name in names] or [t for t in scene.things if t.mark in DIGITS]
    if len(things) < 2 or any(t.mark not in DIGITS for t in things):
        raise Unclear("a sum needs two digits")
    return NUMBERS[sum(int(t.mark or "") for t in things)]


def _same(words: list[str], scene: Scene) -> bool:
    if "kind" in words:
        first, second = (_on_plate(w, scene) for w in words if w in COLOURS)
        return first.category == second.category
    first, second = (_named(name, scene) for name in _names(words))
    if "size" in words:
        return first.size == second.size
    return _colour(first) == _colour(second)


def _holds(words: list[str], kinds: list[str], scene: Scene) -> bool:
    """Whether a relation holds between two named things, or a thing or category is there."""
    names = _names(words)
    directions = _directions(words)
    if directions:
        first, second = (_named(name, scene) for name in names)
        return _lies(first, directions[0], second)
    if kinds:
        return bool(_of_kind(kinds[0], scene))
    return any(t.name == names[0] for t in scene.things)


def _written(words: list[str], thing: Thing) -> str:
    is_letter = thing.mark in LETTERS
    if thing.mark is None or ("letter" in words and not is_letter) or ("digit" in words and is_letter):
        raise Unclear(f"the {thing.name} has the mark {thing.mark}")
    return thing.mark if is_letter else NUMBERS[int(thing.mark)]


def _names(words: list[str]) -> list[str]:
    return [w for w in words if w in concept_index()]


def _mark(words: list[str]) -> str | None:
    """The mark that the words name, "letter b" or "digit seven"; None where they ask for one."""
    for before, word in itertools.pairwise(words):
        if before == "letter" and word in LETTERS:
            return word
        if before == "digit" and word in NUMBERS:
            return str(NUMBERS.index(word))
    return None


def _directions(words: list[str]) -> list[str]:
    """The relations in the order of the words."""
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    at = {i: w for i, w in enumerate(words) if w in DIRECTIONS} | {i: p for i, p in enumerate(pairs) if p in DIRECTIONS}
    return [at[i] for i in sorted(at)]


def _of_kind(plural: str, scene: Scene) -> list[Thing]:
    singular = plurals()[plural]
    if singular in categories():
        return [t for t in scene.things if t.category == singular]
    return [t for t in scene.things if t.name == singular]


def _only(things: Iterable[Thing]) -> Thing:
    candidates = list(things)
    if len(candidates) != 1:
        raise Unclear(f"{len(candidates)} things fit where the question speaks of one")
    return candidates[0]


def _named(name: str, scene: Scene) -> Thing:
    return _only(t for t in scene.things if t.name == name)


def _on_plate(colour: str, scene: Scene) -> Thing:
    return _only(t for t in scene.things if t.colour == COLOURS.index(colour))


def _colour(thing: Thing) -> int:
    if thing.colour is None:
        raise Unclear(f"the {thing.name} has no plate")
    return thing.colour


def _lies(a: Thing, direction: str, b: Thing) -> bool:
    """Whether ``a`` lies so from ``b``, by the first row of the page's table."""
    dx, dy = a.x - b.x, a.y - b.y
    right, down = DIRECTIONS[direction]
    along = dx * right + dy * down
    across = abs(dy) if right else abs(dx)
    if along >= 10 and along >= across:
        return True
    if along <= 0 or across >= along + 4:
        return False
    raise Unclear(f"the {a.name} {direction} the {b.name}: {along} along, {across} across")


def _neighbour(direction: str, thing: Thing, scene: Scene) -> Thing:
    return _only(t for t in scene.things if t is not thing and _lies(t, direction, thing))


def _nearest(thing: Thing, scene: Scene) -> Thing:
    def distance(other: Thing) -> float:
        return float(((other.x - thing.x) ** 2 + (other.y - thing.y) ** 2) ** 0.5)

    others = sorted((t for t in scene.things if t is not thing), key=distance)
    if len(others) > 1 and distance(others[1]) < distance(others[0]) + 6:
        raise Unclear(f"two things are about as near to the {thing.name}")
    return others[0]


def _within(centre: int, third: int) -> bool | None:
    """Whether a coordinate is in a third of the picture, 4 pixels from its inner borders; None where unclear."""
    low = third * NINTH if third > 0 else -MARGIN  # the picture's own edges are no inner borders
    high = (third + 1) * NINTH if third < 2 else 3 * NINTH + MARGIN
    if low + MARGIN <= centre <= high - MARGIN:
        return True
    if centre <= low - MARGIN or centre >= high + MARGIN:
        return False
    return None


def _is_at(thing: Thing, column: int, row: int) -> bool:
    across, down = _within(thing.x, column), _within(thing.y, row)
    if across is False or down is False:
        return False
    if across and down:
        return True
    raise Unclear(f"the {thing.name} at ({thing.x}, {thing.y}) is on a border")


def _places() -> dict[str, tuple[int, int]]:
    """Place -> its column and row."""
    cells = [(column, row) for row in range(3) for column in range(3)]
    return {f"{ROWS[row]} {COLUMNS[column]}".strip() or "middle": (column, row) for column, row in cells}


def _at_place(place: str, scene: Scene) -> Thing:
    column, row = _places()[place]
    return _only(t for t in scene.things if _is_at(t, column, row))


def _place(thing: Thing) -> str:
    for place, (column, row) in _places().items():
        if _is_at(thing, column, row):
            return place
    raise Unclear(f"the {thing.name} is at no place")


def _yes_or_no(holds: bool) -> str:
    return "yes" if holds else "no"
