"""Room for the boxes of a scene: each stays inside the picture and covers little of those before it."""

from __future__ import annotations

import random

WIDTH = 96  # of the square picture, in pixels
BADGE = (7, 9)  # width and height, in the lower right corner of a box
OVERLAP = 0.2  # greatest share of a box that later boxes may cover, together
TRIES = 24  # for a centre


Box = tuple[int, int, int, bool]  # centre (x, y), half the side, whether it has a badge


class Layout:
    """The boxes that have their place: squares, later ones on top of those before."""

    def __init__(self) -> None:
        self._boxes: list[Box] = []
        self._spare: dict[Box, int] = {}  # pixels of a box that later ones may still cover

    def add(self, rng: random.Random, half: int, badge: bool) -> tuple[int, int] | None:
        """Put a box at a random place.

        Args:
            rng: source of randomness.
            half: half the side, in pixels.
            badge: whether it has a badge, which nothing may cover.

        Returns:
            Its centre, or None where no try found a place that covers little of the others and no badge.
        """
        uniform = rng.random
        span = WIDTH - 2 * half + 1
        most = int(4 * half * half * OVERLAP)
        for _ in range(TRIES):
            x = half + int(uniform() * span)
            y = half + int(uniform() * span)
            touched = self._touched(x, y, half, most)
            if touched is not None:
                for box, area in touched:
                    self._spare[box] -= area
                new = (x, y, half, badge)
                self._boxes.append(new)
                self._spare[new] = most
                return x, y
        return None

    def _touched(self, x: int, y: int, half: int, most: int) -> list[tuple[Box, int]] | None:
        """The boxes that a new one would cover, with how many pixels of each; None where that is too much."""
        touched = []
        for box in self._boxes:
            other_x, other_y, other_half, badge = box
            reach = half + other_half
            wide = reach - (x - other_x if x > other_x else other_x - x)
            if wide <= 0:
                continue
            high = reach - (y - other_y if y > other_y else other_y - y)
            if high <= 0:
                continue
            area = wide * high
            if area > most or area > self._spare[box]:
                return None
            if badge and _covers_badge(x, y, half, other_x + other_half, other_y + other_half):
                return None
            touched.append((box, area))
        return touched


def _covers_badge(x: int, y: int, half: int, right: int, bottom: int) -> bool:
    """Whether a box covers some of the badge whose lower right corner is given."""
    return right - BADGE[0] < x + half and x - half < right and bottom - BADGE[1] < y + half and y - half < bottom
