"""Pictures of scenes, in integer arithmetic: the same on every machine.

A thing is a plate, a drawing and a badge; each is one small array made once. Drawings are stored multiplied by their
opacity, so that laying one on the picture is a product, a shift and a sum.
"""

from __future__ import annotations

import functools
import random

import numpy as np
from PIL import Image

from mmenv.worlds.glyphs import glyph
from mmenv.worlds.layout import BADGE, WIDTH
from mmenv.worlds.scenes import ANGLES, BACKGROUNDS, PLATE, SIDES, STYLES, Scene, Thing
from mmenv.worlds.things import ASSETS, COLOURS

PLATES = {
    "red": (226, 74, 74), "orange": (246, 146, 44), "yellow": (250, 216, 60), "green": (86, 178, 92),
    "blue": (76, 134, 228), "purple": (150, 92, 204), "pink": (248, 150, 200), "gray": (142, 146, 152),
}  # fmt: skip
GROUNDS = (
    (246, 246, 244), (236, 240, 246), (246, 240, 232), (236, 244, 238), (248, 240, 244), (242, 238, 248),
    (232, 236, 238), (240, 236, 228), (228, 236, 244), (234, 240, 228), (250, 248, 238), (238, 232, 236),
)  # fmt: skip
assert len(GROUNDS) == BACKGROUNDS
_EDGE, _TINT = 190, 96  # of 256: brightness of a plate's edge, and how much of its colour the middle has
_CORNER = 6  # radius of a plate's corners
_BADGE_GROUND, _BADGE_INK = (28, 30, 48), (255, 255, 255)
_NOISE_SIDE = 256
_MOST_GAIN, _MOST_MIX, _MOST_BLUR, _MOST_NOISE = 56, 40, 128, 18  # of 256, at full shift


def paint(scene: Scene, image_size: int = WIDTH) -> np.ndarray:
    """The picture of a scene.

    Args:
        scene: what to paint.
        image_size: side in pixels: 96 or a multiple, whose pixels are those of 96 repeated.

    Returns:
        uint8 (image_size, image_size, 3), read-only.

    Raises:
        ValueError: for a side that is no multiple of 96.
    """
    if image_size < WIDTH or image_size % WIDTH:
        raise ValueError(f"image_size {image_size}: choose {WIDTH} or a multiple of it")
    canvas = _ground(scene.background).copy()
    for thing in scene.things:
        _lay(canvas, thing)
    image = _shifted(canvas, scene) if scene.shift > 0 else canvas.astype(np.uint8)
    if image_size > WIDTH:
        step = image_size // WIDTH
        image = image.repeat(step, 0).repeat(step, 1)
    image.flags.writeable = False
    return image


def _lay(canvas: np.ndarray, thing: Thing) -> None:
    """Paint one thing over the canvas, uint16 (96, 96, 3)."""
    side = SIDES[thing.size]
    top, left = thing.y - side // 2, thing.x - side // 2
    if thing.colour is not None:
        plate, inside = _plate(thing.colour, thing.size)
        reach = side + 2 * PLATE
        np.copyto(canvas[top - PLATE : top - PLATE + reach, left - PLATE : left - PLATE + reach], plate, where=inside)
    colours, rest = _drawings(thing.style, thing.size)
    under = canvas[top : top + side, left : left + side]
    under *= rest[thing.concept, thing.angle]
    under >>= 8
    under += colours[thing.concept, thing.angle]
    if thing.mark is not None:
        badge, inside = _badge(thing.mark)
        bottom, right = thing.y + thing.half, thing.x + thing.half
        np.copyto(canvas[bottom - BADGE[1] : bottom, right - BADGE[0] : right], badge, where=inside)


@functools.cache
def _drawings(style: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours times opacity (concepts, angles, side, side, 3) and 256 less opacity (..., 1), uint16."""
    with Image.open(ASSETS / f"drawings_{STYLES[style]}.webp", formats=("WEBP",)) as image:
        sheet = np.asarray(image.convert("RGBA"), dtype=np.uint32)
    side, greatest = SIDES[size], SIDES[-1]
    start = len(ANGLES) * sum(SIDES[size + 1 :])
    rows = sheet.reshape(-1, greatest, sheet.shape[1], 4)[:, :side, start : start + len(ANGLES) * side]
    tiles = rows.reshape(-1, side, len(ANGLES), side, 4).transpose(0, 2, 1, 3, 4)
    opacity = tiles[..., 3:] + (tiles[..., 3:] >> 7)  # 0 to 256
    colours = (tiles[..., :3] * opacity) >> 8
    return np.ascontiguousarray(colours.astype(np.uint16)), np.ascontiguousarray((256 - opacity).astype(np.uint16))


def _rounded(height: int, width: int, radius: int) -> np.ndarray:
    """A rectangle with round corners: bool (height, width, 1)."""
    down = np.maximum(radius - np.minimum(np.arange(height), np.arange(height)[::-1]), 0)[:, None]
    along = np.maximum(radius - np.minimum(np.arange(width), np.arange(width)[::-1]), 0)[None, :]
    inside: np.ndarray = down**2 + along**2 <= radius**2 + radius
    return inside[..., None]


@functools.cache
def _plate(colour: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A plate, uint16 (side, side, 3), and where it is: a dark edge, a rim of its colour, and a pale middle."""
    side = SIDES[size] + 2 * PLATE
    full = np.array(PLATES[COLOURS[colour]], np.uint16)
    pale = (full * _TINT + 255 * (256 - _TINT)) >> 8
    plate = np.empty((side, side, 3), np.uint16)
    plate[:] = full * _EDGE >> 8
    for inset, layer in ((1, full), (PLATE, pale)):
        middle = plate[inset : side - inset, inset : side - inset]
        np.copyto(middle, layer, where=_rounded(side - 2 * inset, side - 2 * inset, _CORNER - inset))
    return plate, _rounded(side, side, _CORNER)


@functools.cache
def _badge(mark: str) -> tuple[np.ndarray, np.ndarray]:
    """A dark badge with a white mark, uint16 (9, 7, 3), and where it is."""
    width, height = BADGE
    badge = np.empty((height, width, 3), np.uint16)
    badge[:] = _BADGE_GROUND
    badge[1:-1, 1:-1][glyph(mark)] = _BADGE_INK
    return badge, _rounded(height, width, 1)


@functools.cache
def _ground(background: int) -> np.ndarray:
    """A pale background, a little lighter at the top than at the bottom, uint16 (96, 96, 3)."""
    shade = 4 - 8 * np.arange(WIDTH) // (WIDTH - 1)
    rows = np.clip(np.array(GROUNDS[background])[None, :] + shade[:, None], 0, 255)
    return np.repeat(rows[:, None, :], WIDTH, axis=1).astype(np.uint16)


# The shift of a picture: colour, blur and noise, each in proportion to ``scene.shift``.


def _shifted(canvas: np.ndarray, scene: Scene) -> np.ndarray:
    """The canvas with other colours, blurred and with noise, uint8."""
    rng = random.Random(scene.seed)
    amount = int(scene.shift * 256)
    image = canvas.astype(np.int32)
    gains = [256 - amount * int((rng.random() - 0.2) * _MOST_GAIN) // 256 for _ in range(3)]
    mixed = image[..., [1, 2, 0]] if rng.random() < 0.5 else image[..., [2, 0, 1]]
    mix = amount * int(rng.random() * _MOST_MIX) // 256
    image = (image * (256 - mix) + mixed * mix) * np.array(gains, np.int32) >> 16
    blur = amount * _MOST_BLUR >> 8
    image = (image * (256 - blur) + _blurred(image) * blur) >> 8
    down, along = int(rng.random() * (_NOISE_SIDE - WIDTH)), int(rng.random() * (_NOISE_SIDE - WIDTH))
    image += (_noise()[down : down + WIDTH, along : along + WIDTH] * (amount * _MOST_NOISE >> 8)) >> 8
    shifted: np.ndarray = np.clip(image, 0, 255).astype(np.uint8)
    return shifted


def _blurred(image: np.ndarray) -> np.ndarray:
    """The mean over neighbours with weights 1 2 1 in both directions."""
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        wide = np.pad(image, pad, mode="edge")
        before, here, after = (np.take(wide, range(k, k + WIDTH), axis=axis) for k in range(3))
        image = (before + 2 * here + after + 2) >> 2
    return image


@functools.cache
def _noise() -> np.ndarray:
    """Noise of mean 0 between -255 and 255, the difference of two uniform numbers: int32 (256, 256, 3)."""
    state = np.arange(2 * _NOISE_SIDE * _NOISE_SIDE * 3, dtype=np.uint32) * np.uint32(2654435761)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        state = (state ^ (state >> np.uint32(shift))) * np.uint32(factor)
    uniform = (state >> np.uint32(24)).astype(np.int32).reshape(2, _NOISE_SIDE, _NOISE_SIDE, 3)
    noise: np.ndarray = uniform[0] - uniform[1]
    return noise
