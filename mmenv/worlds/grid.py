"""The grid world, which scenes.py replaces: emoji on a three by three grid, and the words for what is in them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmenv.tokenizer import NUMBER_WORDS, WordTokenizer

ASSETS = Path(str(files("mmenv.worlds") / "assets"))
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
NUMBERS = NUMBER_WORDS[:7]  # of things in a scene
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
SPLIT_SIZES = {"train": 1_000_000, "validation": 2_000, "test": 2_000}
STYLES = ("noto", "twemoji")
TILE = 32  # pixels a side of a stored sprite; a cell of the 96-pixel scene
_FUNCTION_WORDS = (
    "a an the is are there at of and or it what which where how many more than kind thing things count every odd "
    "one out does not belong do you see no yes top middle bottom left right center above below next to again said "
    "any nothing in picture now look maybe zero two three four five six . , ?"
).split()
_BACKGROUNDS = (
    (236, 232, 222), (222, 232, 240), (224, 238, 224), (240, 224, 228), (246, 240, 208), (214, 222, 214),
    (204, 212, 228), (232, 216, 240), (250, 250, 250), (206, 196, 186), (188, 204, 206), (120, 128, 140),
)  # fmt: skip


class Concept(NamedTuple):
    """A thing that can be drawn: its name, its category, its article, and whether its name was recorded."""

    name: str
    category: str
    article: str
    spoken: bool


@functools.cache
def concepts() -> tuple[Concept, ...]:
    """All concepts, in the order of the sprite sheets' rows."""
    rows = json.loads((ASSETS / "concepts.json").read_text(encoding="utf-8"))
    return tuple(Concept(r["name"], r["category"], r["article"], r["spoken"]) for r in rows)


@functools.cache
def categories() -> dict[str, str]:
    """Category -> its plural."""
    rows = json.loads((ASSETS / "categories.json").read_text(encoding="utf-8"))
    return {r["name"]: r["plural"] for r in rows}


@functools.cache
def members() -> dict[str, tuple[int, ...]]:
    """Category -> the indices of its concepts."""
    return {c: tuple(i for i, x in enumerate(concepts()) if x.category == c) for c in categories()}


@functools.cache
def article(noun: str) -> str:
    """``a`` or ``an``."""
    articles = {c.name: c.article for c in concepts()}
    return articles.get(noun, "an" if noun[0] in "aeiou" else "a")


@functools.cache
def world_tokenizer() -> WordTokenizer:
    """The tokenizer of the embedded world: function words, categories, concepts."""
    nouns = [*categories(), *categories().values(), *(c.name for c in concepts())]
    return WordTokenizer(list(dict.fromkeys([*_FUNCTION_WORDS, *nouns])))


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawing: which concept, in which cell, and how it is drawn (variant of the sheet, shift in pixels of 48)."""

    concept: int
    row: int
    column: int
    variant: int = 1
    shift: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        return concepts()[self.concept].name

    @property
    def category(self) -> str:
        return concepts()[self.concept].category

    @property
    def place(self) -> str:
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows, in reading order."""

    things: tuple[Thing, ...]
    background: int = 0
    style: str = "noto"

    def at(self, row: int, column: int) -> Thing | None:
        """The thing in a cell, or None."""
        for thing in self.things:
            if thing.row == row and thing.column == column:
                return thing
        return None

    def beside(self, thing: Thing, relation: str) -> Thing | None:
        """The thing in the cell next to ``thing`` in the direction of ``relation``."""
        down, along = RELATIONS[relation]
        return self.at(thing.row + down, thing.column + along)

    def named(self, name: str) -> list[Thing]:
        """Things of a concept or of a category."""
        return [t for t in self.things if name in (t.name, t.category)]


def held_out(concept: int, relation: str) -> bool:
    """Whether only the test split has this combination of concept and relation: one in eight."""
    return (concept + 3 * list(RELATIONS).index(relation)) % 8 == 0


def generator(*key: int) -> np.random.Generator:
    """A generator that depends on ``key`` alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def split_key(split: str) -> int:
    """The number of a split in a generator's key."""
    return list(SPLIT_SIZES).index(split)


def draw_scene(
    rng: np.random.Generator, count: tuple[int, int], style: str = "noto", distinct: bool = False, odd: bool = False
) -> Scene:
    """A random scene.

    Args:
        rng: source of randomness.
        count: least and greatest number of things.
        style: drawing style, of ``STYLES``.
        distinct: no concept twice.
        odd: all things but one share a category.
    """
    n = int(rng.integers(count[0], count[1] + 1))
    names = list(members())
    theme, other = (names[i] for i in rng.permutation(len(names))[:2])
    chosen: list[int] = []
    while len(chosen) < n:
        # Half of the things share a category, and some a concept, so that counts differ.
        themed = rng.random() < 0.5 if not odd else len(chosen) > 0
        pool = members()[theme] if themed else members()[other] if odd else range(len(concepts()))
        if chosen and not distinct and not odd and rng.random() < 0.2:
            pick = chosen[int(rng.integers(len(chosen)))]
        else:
            pick = int(pool[int(rng.integers(len(pool)))])
        if not (distinct and pick in chosen):
            chosen.append(pick)
    cells = sorted(int(c) for c in rng.permutation(9)[:n])
    things = []
    for cell, i in zip(cells, rng.permutation(n), strict=True):
        variant = int(rng.integers(6))
        shift = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3))) if variant >= 3 else (0, 0)
        things.append(Thing(chosen[int(i)], cell // 3, cell % 3, variant, shift))
    return Scene(tuple(things), int(rng.integers(len(_BACKGROUNDS))), style)


@functools.cache
def sprites(style: str, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours times opacity, uint16 (concepts, 6, tile, tile, 3), and 255 minus opacity (..., 1)."""
    with Image.open(ASSETS / f"sprites_{style}.png", formats=("PNG",)) as image:
        sheet = np.asarray(image.convert("RGBA"), dtype=np.uint32)
    n, variants = len(concepts()), sheet.shape[1] // TILE
    tiles = sheet.reshape(n, TILE, variants, TILE, 4).transpose(0, 2, 1, 3, 4)
    colour, opacity = tiles[..., :3] * tiles[..., 3:], tiles[..., 3:]
    step = TILE // tile
    if step > 1:
        blocks = (n, variants, tile, step, tile, step, -1)
        colour, opacity = (x.reshape(blocks).sum((3, 5)) // step**2 for x in (colour, opacity))
    return ((colour + 127) // 255).astype(np.uint16), (255 - opacity).astype(np.uint16)


@functools.lru_cache(maxsize=64)
def _canvas(background: int, tile: int) -> np.ndarray:
    """A background with a gentle vertical gradient and a margin for shifted sprites, uint16."""
    margin, side = tile // 8, 3 * tile
    shade = np.linspace(6, -6, side + 2 * margin).astype(np.int32)[:, None, None]
    flat = np.array(_BACKGROUNDS[background], dtype=np.int32)
    full = np.broadcast_to(np.clip(flat + shade, 0, 255), (side + 2 * margin, side + 2 * margin, 3))
    return full.astype(np.uint16)


def paint(scene: Scene, image_size: int = 48) -> np.ndarray:
    """Draw a scene in integer arithmetic, the same on every machine.

    Args:
        scene: what to draw.
        image_size: 48, 96, or a multiple of 96.

    Returns:
        uint8 (image_size, image_size, 3), read-only.
    """
    tile = 16 if image_size == 48 else TILE
    colour, rest = sprites(scene.style, tile)
    canvas, margin = _canvas(scene.background, tile).copy(), tile // 8
    for t in scene.things:
        y = margin + t.row * tile + t.shift[0] * tile // 16
        x = margin + t.column * tile + t.shift[1] * tile // 16
        under = canvas[y : y + tile, x : x + tile]
        under *= rest[t.concept, t.variant]
        under += 127
        under //= 255
        under += colour[t.concept, t.variant]
    image = np.minimum(canvas[margin : margin + 3 * tile, margin : margin + 3 * tile], 255).astype(np.uint8)
    if image_size > 96:
        image = image.repeat(image_size // 96, 0).repeat(image_size // 96, 1)
    image.flags.writeable = False
    return image
