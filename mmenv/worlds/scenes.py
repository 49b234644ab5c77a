"""A scene: which things lie where, how they are drawn, and the geometry that questions and captions speak of.

All lengths are in pixels of a picture of 96 x 96; x grows to the right, y grows downwards.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from dataclasses import dataclass

from mmenv.worlds.layout import WIDTH, Layout
from mmenv.worlds.things import COLOURS, DIGITS, LETTERS, SIZES, concepts, mark_word, members

SPLITS = {"train": 1_000_000, "validation": 2_000, "test": 2_000, "comp": 2_000}
SHIFTED_SPLITS = ("test", "comp")
LEVELS = {"plain": (2, 8), "hard": (6, 12)}  # least and greatest number of things
STYLES = ("noto", "twemoji", "fluent", "emojione")
TRAIN_STYLES = 3  # the first three; the last one is drawn in shifted scenes alone
ANGLES = (-20, 0, 20, -40, 40)  # degrees, clockwise; the last two in shifted scenes alone
TRAIN_ANGLES = 3
TURNED = 0.5  # share of things at the last two angles at full shift
SIDES = (16, 22, 30)  # of a drawing, by size
PLATE = 3  # pixels that a plate stands out beyond its drawing on each side
BADGE_OUT = 1  # pixels that the badge of a thing without a plate stands out at the lower right
BACKGROUNDS = 12

MARGIN = 10  # least distance along the axis of a relation
OTHER_WAY = 4  # by how much another direction must dominate to say that a relation does not hold
THIRDS = (32, 64)
PLACE_MARGIN = 4
NEAREST_MARGIN = 6
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PLACES = (
    "top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
_TOWARDS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawing in a scene.

    Attributes:
        concept: index into ``concepts()``.
        x: centre, in pixels from the left.
        y: centre, in pixels from the top.
        size: index into ``SIZES``.
        angle: index into ``ANGLES``.
        style: index into ``STYLES``.
        colour: index into ``COLOURS`` of the plate under it, or None.
        mark: the letter (lower case) or digit on its badge, or None.
    """

    concept: int
    x: int
    y: int
    size: int = 1
    angle: int = 1
    style: int = 0
    colour: int | None = None
    mark: str | None = None

    @property
    def name(self) -> str:
        return concepts()[self.concept].name

    @property
    def category(self) -> str:
        return concepts()[self.concept].category

    @property
    def plural(self) -> str:
        return concepts()[self.concept].plural

    @property
    def plate(self) -> str | None:
        """Colour word of the plate, or None."""
        return None if self.colour is None else COLOURS[self.colour]

    @property
    def size_word(self) -> str:
        return SIZES[self.size]

    @property
    def mark_word(self) -> str | None:
        """What a text calls the mark ("b", "seven"), or None."""
        return None if self.mark is None else mark_word(self.mark)

    @property
    def half(self) -> int:
        """Half the side of the box that holds drawing, plate and badge; the box is centred on (x, y)."""
        return half_side(self.size, self.colour is not None, self.mark is not None)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows.

    Attributes:
        things: in the order of painting: a later one lies on top.
        background: index below ``BACKGROUNDS``.
        shift: how far the picture is from those of training, in [0, 1].
        seed: of the noise of a shifted picture.
    """

    things: tuple[Thing, ...]
    background: int = 0
    shift: float = 0.0
    seed: int = 0

    def named(self, noun: str) -> list[Thing]:
        """Things of a concept or of a category, by its singular."""
        return [t for t in self.things if noun in (t.name, t.category)]

    def only(self, name: str) -> Thing | None:
        """The single thing of a concept, or None where there is none or more than one."""
        same = [t for t in self.things if t.name == name]
        return same[0] if len(same) == 1 else None


def half_side(size: int, plated: bool, marked: bool) -> int:
    """Half the side of a thing's box."""
    return SIDES[size] // 2 + (PLATE if plated else BADGE_OUT if marked else 0)


def seed_of(*key: str | int) -> int:
    """A seed that depends on the key alone, the same on every machine and version of Python."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def held_out(concept: int, attribute: int) -> bool:
    """Whether only the split ``comp`` shows this combination: one in eight.

    Args:
        concept: index into ``concepts()``.
        attribute: index into ``COLOURS``, or 8 plus an index into ``RELATIONS`` (``held_out_relation``).
    """
    return (5 * concept + 3 * attribute) % 8 == 0


def held_out_relation(concept: int, relation: str) -> bool:
    """Whether only the split ``comp`` asks for or states this relation of this concept as its subject."""
    return held_out(concept, len(COLOURS) + RELATIONS.index(relation))


# Geometry: relations, places, nearest.


def offset(a: Thing, relation: str, b: Thing) -> tuple[int, int]:
    """How far ``a`` lies from ``b`` in the direction of the relation, and the distance across it."""
    towards_x, towards_y = _TOWARDS[relation]
    right, down = a.x - b.x, a.y - b.y
    if towards_x:
        return right * towards_x, abs(down)
    return down * towards_y, abs(right)


def lies(a: Thing, relation: str, b: Thing) -> bool:
    """Whether ``a`` is, say, left of ``b``: by at least ``MARGIN``, and no less than it is above or below."""
    along, across = offset(a, relation, b)
    return along >= MARGIN and along >= across


def unclear(a: Thing, relation: str, b: Thing) -> bool:
    """Whether people could disagree: the relation does not hold, and yet not clearly so."""
    along, across = offset(a, relation, b)
    if along >= MARGIN and along >= across:
        return False
    return along > 0 and across - along < OTHER_WAY


def beside(scene: Scene, relation: str, b: Thing) -> Thing | None:
    """The only thing that lies so towards ``b``; None where there is none, more than one, or an unclear one."""
    holds = None
    for a in scene.things:
        if a is b:
            continue
        if lies(a, relation, b):
            if holds is not None:
                return None
            holds = a
        elif unclear(a, relation, b):
            return None
    return holds


def place(thing: Thing) -> str | None:
    """The ninth of the picture that holds the centre, of ``PLACES``; None if a border is nearer than 4 pixels."""
    column, row = _third(thing.x), _third(thing.y)
    if column is None or row is None:
        return None
    return PLACES[3 * row + column]


def _third(at: int) -> int | None:
    first, second = THIRDS
    if at <= first - PLACE_MARGIN:
        return 0
    if first + PLACE_MARGIN <= at <= second - PLACE_MARGIN:
        return 1
    return 2 if at >= second + PLACE_MARGIN else None


def at_place(scene: Scene, where: str) -> Thing | None:
    """The only thing at a place; None where there is none, more than one, or one that could be counted there."""
    holds = None
    for thing in scene.things:
        if not could_be_at(thing, where):
            continue
        if holds is not None or place(thing) != where:
            return None
        holds = thing
    return holds


def could_be_at(thing: Thing, where: str) -> bool:
    """Whether the centre is in that ninth of the picture, or less than 4 pixels outside it."""
    row, column = divmod(PLACES.index(where), 3)
    return not (_clearly_outside(thing.x, column) or _clearly_outside(thing.y, row))


def _clearly_outside(at: int, third: int) -> bool:
    least = THIRDS[third - 1] if third > 0 else -WIDTH
    greatest = THIRDS[third] if third < 2 else 2 * WIDTH
    return at <= least - PLACE_MARGIN or at >= greatest + PLACE_MARGIN


def nearest(scene: Scene, b: Thing) -> Thing | None:
    """The thing whose centre is nearest to that of ``b``; None where a second one is no 6 pixels farther away."""
    distances = sorted(
        ((math.sqrt((a.x - b.x) ** 2 + (a.y - b.y) ** 2), i) for i, a in enumerate(scene.things) if a is not b)
    )
    if not distances or (len(distances) > 1 and distances[1][0] - distances[0][0] < NEAREST_MARGIN):
        return None
    return scene.things[distances[0][1]]


# Drawing a scene at random.


def draw_scene(
    rng: random.Random,
    count: tuple[int, int],
    split: str = "train",
    *,
    distinct: bool = False,
    odd: bool = False,
    digits: float | None = None,
    shift: float = 0.0,
) -> Scene:
    """A random scene; the same seed gives the same things at the same places for every ``shift``.

    Args:
        rng: made by ``random.Random(seed_of(...))``; only ``rng.random()`` is used.
        count: least and greatest number of things, at most 12.
        split: of ``SPLITS``. Plates have held-out colours in ``comp`` alone, and no others there.
        distinct: no concept twice.
        odd: all things but one share a category.
        digits: share of digits among marks; if given, most things have a mark.
        shift: distance from the pictures of training in [0, 1]; above 0 in ``SHIFTED_SPLITS`` alone.

    Raises:
        ValueError: for an unknown split, or a shift that the split does not have.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 0 <= shift <= 1 or (shift > 0 and split not in SHIFTED_SPLITS):
        raise ValueError(f"shift {shift} of split {split!r}: it is in [0, 1], and 0 outside {SHIFTED_SPLITS}")
    uniform = rng.random
    n = count[0] + int(uniform() * (count[1] - count[0] + 1))
    chosen = _choose(rng, n, distinct, odd)
    alone = chosen[-1] if odd else None
    _shuffle(rng, chosen)
    plated = (0.4, 0.6, 0.8)[int(uniform() * 3)]
    marked = (0.1, 0.35, 0.6)[int(uniform() * 3)]
    numeric = (0.2, 0.5, 0.8)[int(uniform() * 3)]
    if digits is not None:
        marked, numeric = 0.7, digits
    looks = []
    for concept in chosen:
        colour = _plate(rng, concept, split == "comp") if uniform() < plated else None
        mark = None
        if uniform() < marked:
            kinds = DIGITS if uniform() < numeric else LETTERS
            mark = kinds[int(uniform() * 10)]
        looks.append((concept, colour, mark))
    sizes = _sizes(rng, len(looks))
    things = _lay_out(rng, looks, sizes, shift)
    while len(things) < len(looks):
        if any(sizes):
            sizes = [max(0, size - 1) for size in sizes]
        else:
            del looks[max(i for i, look in enumerate(looks) if look[0] != alone)]
            del sizes[-1]
        things = _lay_out(rng, looks, sizes, shift)
    return Scene(tuple(things), int(uniform() * BACKGROUNDS), shift, int(uniform() * 2**32))


def _choose(rng: random.Random, n: int, distinct: bool, odd: bool) -> list[int]:
    """Concepts of at most ``n`` things: about half of them share a category, some repeat a concept."""
    uniform = rng.random
    groups = _groups()
    theme = int(uniform() * len(groups))
    other = (theme + 1 + int(uniform() * (len(groups) - 1))) % len(groups)
    repeats = (0.1, 0.2, 0.6)[int(uniform() * 3)]
    if distinct:
        repeats = 0.0
    themed = n - 1 if odd else sum(uniform() < 0.5 for _ in range(n))
    if distinct:
        themed = min(themed, len(groups[theme]))
    chosen = _pick(rng, groups[theme], themed, repeats, distinct, [])
    if odd:
        return _pick(rng, groups[other], themed + 1, 0.0, distinct, chosen)
    return _pick(rng, range(len(concepts())), n, repeats, distinct, chosen)


def _pick(
    rng: random.Random, pool: range | tuple[int, ...], n: int, repeats: float, distinct: bool, chosen: list[int]
) -> list[int]:
    """Add concepts of the pool until there are ``n``; each is a repeat of an earlier one with chance ``repeats``."""
    uniform = rng.random
    free = [c for c in pool if c not in chosen] if distinct else pool
    while len(chosen) < n:
        if chosen and uniform() < repeats:
            chosen.append(chosen[int(uniform() * len(chosen))])
        elif isinstance(free, list):
            chosen.append(free.pop(int(uniform() * len(free))))
        else:
            chosen.append(free[int(uniform() * len(free))])
    return chosen


@functools.cache
def _groups() -> tuple[tuple[int, ...], ...]:
    return tuple(members().values())


def _plate(rng: random.Random, concept: int, comp: bool) -> int:
    """A colour of a plate that the split may show under this concept."""
    reserved = _reserved_colour(concept)
    if comp:
        return reserved
    return (reserved + 1 + int(rng.random() * (len(COLOURS) - 1))) % len(COLOURS)


@functools.cache
def _reserved_colour(concept: int) -> int:
    return next(c for c in range(len(COLOURS)) if held_out(concept, c))


def _sizes(rng: random.Random, n: int) -> list[int]:
    """Sizes of ``n`` things, the largest first: where there are many, most are small."""
    medium, large = (0.33, 0.67) if n <= 5 else (0.45, 0.8) if n <= 8 else (0.65, 0.9)
    lots = [rng.random() for _ in range(n)]
    return sorted(((lot >= medium) + (lot >= large) for lot in lots), reverse=True)


def _shuffle(rng: random.Random, values: list[int]) -> None:
    """Fisher and Yates's shuffle, in place (``random.shuffle`` may change between versions of Python)."""
    for last in range(len(values) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        values[last], values[other] = values[other], values[last]


def _lay_out(
    rng: random.Random, looks: list[tuple[int, int | None, str | None]], sizes: list[int], shift: float
) -> list[Thing]:
    """Put things of (concept, plate, mark) at random places, smaller or plain where there is no room, or out."""
    uniform = rng.random
    layout = Layout()
    things = []
    for (concept, colour, mark), size in zip(looks, sizes, strict=True):
        angle, style = int(uniform() * TRAIN_ANGLES), int(uniform() * TRAIN_STYLES)
        turn, redraw = uniform(), uniform()
        if turn < shift * TURNED:
            angle = TRAIN_ANGLES + int(turn / (shift * TURNED) * (len(ANGLES) - TRAIN_ANGLES))
        if redraw < shift:
            style = TRAIN_STYLES
        for smaller in range(size, -2, -1):
            if smaller < 0:
                smaller, colour, mark = 0, None, None
            half = half_side(smaller, colour is not None, mark is not None)
            centre = layout.add(rng, half, mark is not None)
            if centre is not None:
                things.append(Thing(concept, *centre, smaller, angle, style, colour, mark))
                break
    return things
