"""Shares, and how sure they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Share(NamedTuple):
    """How many of how many, and the 95% interval of Wilson (1927)."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain numbers; JSON has no nan."""
        return {**self._asdict(), "value": self.value if self.n else None}


def wilson(successes: float, n: float, z: float = 1.96) -> Share:
    """A share with the interval of Wilson (1927); nan and [0, 1] of nothing."""
    if n == 0:
        return Share(math.nan, 0.0, 1.0, 0)
    p, q = successes / n, z * z / n
    middle, half = (p + q / 2) / (1 + q), z * math.sqrt(p * (1 - p) / n + q / (4 * n)) / (1 + q)
    return Share(
        p, min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half)), int(n)
    )  # p lies within, rounded too


def clustered(credit: np.ndarray, cluster: np.ndarray) -> Share:
    """A share of units that are not independent within clusters, such as all pairs of one sample.

    Wilson's interval for as many independent units as are worth these: n over the design effect (Kish 1965), at
    most n. A bootstrap of clusters would have no width where all units are right.

    Args:
        credit: (n,) in [0, 1]; 1/2 for a unit that is neither right nor wrong.
        cluster: (n,), any numbers; equal ones are of one cluster.
    """
    n = len(credit)
    if not n:
        return wilson(0, 0)
    at = np.unique(cluster, return_inverse=True)[1]
    sums, sizes = np.bincount(at, credit), np.bincount(at)
    p, clusters = float(sums.sum() / n), len(sizes)
    variance = float(((sums - p * sizes) ** 2).sum()) / n**2
    if clusters == 1 or p in (0, 1):
        worth = float(clusters)  # nothing shows how far the units of a cluster agree
    else:
        worth = min(p * (1 - p) / variance, n) if variance > 0 else float(n)
    share = wilson(p * worth, worth)
    return Share(p, min(p, share.low), max(p, share.high), n)
