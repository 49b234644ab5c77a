"""Room for the boxes of a scene: each stays inside the picture and covers little of those before it."""

from __future__ import annotations

import random
from dataclasses import dataclass

WIDTH = 96  # of the square picture, in pixels
BADGE = (9, 11)  # width and height, in the lower right corner of a box
OVERLAP = 0.15  # greatest share of a box that later boxes may cover, together
TRIES = 24  # for a centre


@dataclass(slots=True)
class Box:
    """The square of a thing that has its place.

    Attributes:
        x: centre, in pixels from the left.
        y: centre, in pixels from the top.
        half: half the side.
        badge: whether it has a badge, which nothing may cover.
        spare: pixels that later boxes may still cover.
    """

    x: int
    y: int
    half: int
    badge: bool
    spare: int


def find_room(rng: random.Random, boxes: list[Box], half: int, badge: bool) -> Box | None:
    """Add a box at a random place to ``boxes``; None where no try found a place that covers little and no badge."""
    uniform = rng.random
    span = WIDTH - 2 * half + 1
    most = int(4 * half * half * OVERLAP)
    for _ in range(TRIES):
        x, y = half + int(uniform() * span), half + int(uniform() * span)
        covered = []
        for box in boxes:
            reach = half + box.half
            wide, high = reach - abs(x - box.x), reach - abs(y - box.y)
            if wide <= 0 or high <= 0:
                continue
            area = wide * high
            if area > most or area > box.spare or (box.badge and _covers_badge(x, y, half, box)):
                break
            covered.append((box, area))
        else:
            for box, area in covered:
                box.spare -= area
            new = Box(x, y, half, badge, most)
            boxes.append(new)
            return new
    return None


def _covers_badge(x: int, y: int, half: int, box: Box) -> bool:
    """Whether a new box would cover some of the badge in the lower right corner of another."""
    right, bottom = box.x + box.half, box.y + box.half
    return right - BADGE[0] < x + half and x - half < right and bottom - BADGE[1] < y + half and y - half < bottom
