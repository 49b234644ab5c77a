"""Shares, and how sure they are."""

from __future__ import annotations

import math
from typing import NamedTuple


class Share(NamedTuple):
    """How many of how many, and the 95% interval of Wilson (1927)."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain numbers; JSON has no nan."""
        return {**self._asdict(), "value": self.value if self.n else None}


def wilson(successes: int, n: int, z: float = 1.96) -> Share:
    """A share with the interval of Wilson (1927); nan and [0, 1] of nothing."""
    if n == 0:
        return Share(math.nan, 0.0, 1.0, 0)
    p, q = successes / n, z * z / n
    middle, half = (p + q / 2) / (1 + q), z * math.sqrt(p * (1 - p) / n + q / (4 * n)) / (1 + q)
    return Share(p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)), n)  # p lies within, rounded too
