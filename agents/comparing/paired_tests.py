"""Which algorithm is better on the same tasks and seeds, and whether chance explains it, over many pairs.

The test flips the signs of paired differences (Fisher 1935). It assumes no normal scores, is exact for few of them, and
tests the mean difference that is reported; Wilcoxon's would test ranks. The price: n pairs give no p below 2 / 2^n, so
that five seeds on one task can never be significant at 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from agents.comparing.aggregate import REPS, Cells, Estimate, stratified_bootstrap

EXACT = 16  # of so many pairs all ways to flip the signs are taken
FLIPS = 100_000  # of more pairs so many ways are drawn


class PairedTest(NamedTuple):
    """x against y.

    Attributes:
        x, y: names of the algorithms.
        difference: of x from y, mean over tasks of the mean over seeds, with its 95% interval.
        pairs: cells (task, seed) that both have.
        left_out: cells that only one of them has.
        p: two-sided, of this comparison alone.
        p_corrected: Holm's, over all comparisons made together.
    """

    x: str
    y: str
    difference: Estimate
    pairs: int
    left_out: int
    p: float
    p_corrected: float


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979): keeps the chance of any false rejection among all below the level, (m,)."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return out


def sign_flip_p(differences: np.ndarray, rng: np.random.Generator | int = 0) -> float:
    """Two-sided p of a sum of (n,) differences under random signs: exact for up to 16 of them, drawn beyond.

    Args:
        differences: paired; a mean of unequal weights is the sum of differences times their weights.
        rng: source of randomness, or a seed.
    """
    # One pair says nothing of chance, and differences that are all 0 speak for nobody.
    if len(differences) < 2 or not differences.any():
        return 1.0
    n = len(differences)
    observed = abs(differences.sum())
    least = observed * (1 - 1e-12)  # equal sums differ in the last bit by their order
    if n <= EXACT:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1  # every way to flip, (2^n, n)
        return float((np.abs((2 * bits - 1) @ differences) >= least).mean())
    signs = 2 * np.random.default_rng(rng).integers(2, size=(FLIPS, n), dtype=np.int8) - 1
    return float((1 + (np.abs(signs @ differences) >= least).sum()) / (1 + FLIPS))


def paired_tests(
    scores: Mapping[str, Cells], baseline: str | None = None, rng: np.random.Generator | int = 0
) -> list[PairedTest]:
    """All pairs of algorithms, or all against one, with Holm's correction over the comparisons made.

    Cells are paired by task and seed; what only one of two has is left out and counted. A difference is a mean over
    tasks, however many seeds each has.

    Args:
        scores: algorithm -> (task, seed) -> score.
        baseline: the one that all others are compared with; fewer comparisons cost less in the correction.
        rng: source of randomness, or a seed.

    Raises:
        ValueError: a score is nan, two algorithms have no cell in common, or ``baseline`` has no scores.
    """
    if baseline is not None and baseline not in scores:
        raise ValueError(f"baseline={baseline!r} has no scores: choose among {', '.join(scores)}")
    for name, cells in scores.items():
        for (task, seed), score in cells.items():
            if np.isnan(score):
                raise ValueError(f"the score of {name} on task {task}, seed {seed} is nan: run it or leave it out")
    rng = np.random.default_rng(rng)
    names = [n for n in scores if n != baseline]
    chosen = combinations(names, 2) if baseline is None else ((n, baseline) for n in names)
    tests = [_test(x, y, scores[x], scores[y], rng) for x, y in chosen]
    corrected = holm(np.array([t.p for t in tests]))
    return [t._replace(p_corrected=float(p)) for t, p in zip(tests, corrected, strict=True)]


def _test(x: str, y: str, of_x: Cells, of_y: Cells, rng: np.random.Generator) -> PairedTest:
    """One comparison, not yet corrected."""
    common = sorted(of_x.keys() & of_y.keys())
    if not common:
        raise ValueError(f"{x} and {y} share no (task, seed): there is nothing to pair")
    tasks = sorted({task for task, _ in common})
    by_task = [np.array([of_x[c] - of_y[c] for c in common if c[0] == task]) for task in tasks]
    weighted = np.concatenate([d / (len(d) * len(tasks)) for d in by_task])
    left_out = len(of_x.keys() ^ of_y.keys())
    return PairedTest(x, y, _difference(by_task, rng), len(common), left_out, sign_flip_p(weighted, rng), np.nan)


def _difference(by_task: list[np.ndarray], rng: np.random.Generator) -> Estimate:
    """Mean over tasks of the mean over seeds, with the interval of a bootstrap within tasks."""
    columns = tuple(d[:, None] for d in by_task)
    return stratified_bootstrap(columns, lambda *c: np.mean([d.mean((-2, -1)) for d in c], axis=0), REPS, rng)
