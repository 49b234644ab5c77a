"""Confidence intervals: Wilson's for shares, and intervals for units that are not independent within clusters."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Z_95 = 1.96  # normal quantile of a 95% interval


class Share(NamedTuple):
    """A share of n units with its 95% interval."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain numbers for JSON, which has no nan: the value of zero units is None."""
        return {**self._asdict(), "value": self.value if self.n else None}


def wilson(successes: float, n: float, z: float = Z_95) -> Share:
    """A share with the score interval of Wilson (1927).

    Unlike ``scipy.stats.binomtest`` it takes fractions: half a success for a tie, and effective sample sizes.

    Args:
        successes: in [0, n].
        n: number of independent units, >= 0.
        z: quantile of the normal distribution; 1.96 for 95%.

    Returns:
        the share and its interval; nan with [0, 1] for n = 0.
    """
    if n == 0:
        return Share(math.nan, 0.0, 1.0, 0)
    share = successes / n
    shrinkage = z * z / n
    centre = (share + shrinkage / 2) / (1 + shrinkage)
    half_width = z * math.sqrt(share * (1 - share) / n + shrinkage / (4 * n)) / (1 + shrinkage)
    # In exact arithmetic the share lies inside; rounding must not put it outside.
    low = min(share, max(0.0, centre - half_width))
    high = max(share, min(1.0, centre + half_width))
    return Share(share, low, high, int(n))


def clustered_wilson(credit: np.ndarray, clusters: np.ndarray) -> Share:
    """Wilson's interval for units that are not independent within clusters, such as all pairs of one sample.

    The interval is that of the effective sample size: n over the design effect (Kish 1965), at most n. A bootstrap of
    clusters would have no width where every unit is a success.

    Args:
        credit: (n,) in [0, 1]; 1/2 for a unit that is neither a success nor a failure.
        clusters: (n,) labels; units with equal labels belong to one cluster.
    """
    n = len(credit)
    if not n:
        return wilson(0, 0)
    indices = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(indices, credit)
    sizes = np.bincount(indices)
    share = float(sums.sum() / n)
    variance = float(((sums - share * sizes) ** 2).sum()) / n**2
    if len(sizes) == 1 or share in (0, 1):
        effective = float(len(sizes))  # the data do not show how strongly units of a cluster agree
    elif variance > 0:
        effective = min(share * (1 - share) / variance, n)
    else:
        effective = float(n)
    interval = wilson(share * effective, effective)
    return Share(share, min(share, interval.low), max(share, interval.high), n)


def cluster_bootstrap(
    values: np.ndarray, clusters: np.ndarray, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """95% percentile interval of the mean, from a bootstrap that draws whole clusters with replacement.

    Args:
        values: float (n,), n >= 1.
        clusters: (n,) labels; values with equal labels are drawn together, such as the replies of one dialogue.
        seed: of the resampling; global random state is left alone.
        resamples: number of bootstrap samples.

    Returns:
        lower and upper bound, in the units of ``values``.
    """
    indices = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(indices, weights=values)
    sizes = np.bincount(indices)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
