"""Comparing algorithms over few runs: aggregates, intervals, profiles, and paired tests of many pairs.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice". ``scores`` are float
arrays (..., runs, tasks) of one algorithm, in the unit of the task's score (gold: 0 to 1, more is better); a statistic
takes away the last two axes, so that thousands of resamples are one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

Statistic = Callable[..., np.ndarray]
Cells = Mapping[tuple[str, int], float]  # (task, seed) -> score
LEVEL = 0.95
REPS = 2000
RANGES = {
    "gold": (0.0, 1.0),
    "greedy gold": (0.0, 1.0),
    "share": (0.0, 1.0),
    "loss": (-1.0, 1.0),
    "kl": (0.0, np.inf),
}  # of scores, by name
ELEMENTS = 4_000_000  # numbers resampled at once: 32 MB


class Estimate(NamedTuple):
    """A statistic with its 95% interval: floats, or arrays of one shape. The interval of a single run is nan."""

    value: np.ndarray | np.float64
    low: np.ndarray | np.float64
    high: np.ndarray | np.float64

    def of(self, score: str) -> Estimate:
        """With ends where the score can be: Student's interval knows no bounds."""
        low, high = RANGES.get(score, (-np.inf, np.inf))
        return self._replace(low=np.clip(self.low, low, high), high=np.clip(self.high, low, high))


def matrix(cells: Cells) -> np.ndarray:
    """Scores by (task, seed) as (runs, tasks): seeds and tasks in order.

    Raises:
        ValueError: there is none, a task lacks a seed that another has, or a score is nan; the message names the cell.
    """
    if not cells:
        raise ValueError("no scores: give at least one (task, seed)")
    tasks, seeds = sorted({task for task, _ in cells}), sorted({seed for _, seed in cells})
    for cell in ((task, seed) for task in tasks for seed in seeds):
        if cell not in cells or np.isnan(cells[cell]):
            raise ValueError(f"task {cell[0]}, seed {cell[1]} has no score: run it, or leave out that seed or task")
    return np.array([[cells[task, seed] for task in tasks] for seed in seeds], dtype=float)


def checked(scores: np.ndarray) -> np.ndarray:
    """Scores as floats.

    Raises:
        ValueError: the array has fewer than two axes, is empty, or holds nan; the message names the cell.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim < 2 or not scores.size:
        raise ValueError(f"scores of shape {scores.shape}: they are (runs, tasks), one or more of each")
    missing = np.argwhere(np.isnan(scores))
    if len(missing):
        run, task = missing[0][-2:]
        raise ValueError(f"the score of run {run} on task {task} is nan: run it, or leave out that run or task")
    return scores


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs on all tasks, (..., runs, tasks) -> (...): a 25% trimmed mean.

    Of n scores the floor(n / 4) lowest and as many of the highest are left out (Agarwal et al. 2021, section 4.3).
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return flat[..., cut : flat.shape[-1] - cut].mean(-1)


def mean(scores: np.ndarray) -> np.ndarray:
    """Mean over tasks of the mean over runs, (..., runs, tasks) -> (...)."""
    return scores.mean((-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """Median over tasks of the mean over runs, (..., runs, tasks) -> (...)."""
    return np.median(scores.mean(-2), axis=-1)


def optimality_gap(scores: np.ndarray, target: float = 1.0) -> np.ndarray:
    """How far scores stay below ``target`` on average, (..., runs, tasks) -> (...); what lies above counts as it.

    Less is better (Agarwal et al. 2021, section 4.3).
    """
    return target - np.minimum(scores, target).mean((-2, -1))


AGGREGATES: dict[str, Statistic] = {
    "IQM": interquartile_mean, "median": median, "mean": mean, "optimality gap": optimality_gap,
}  # fmt: skip


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How probably a run of x beats a run of y on a task, averaged over tasks; a tie is half a win.

    The Mann-Whitney U of each task over its number of pairs (Agarwal et al. 2021, section 4.3).

    Args:
        x: (..., runs of x, tasks).
        y: (..., runs of y, tasks); the numbers of runs may differ.
    """
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x has {x.shape[-1]} tasks and y has {y.shape[-1]}: compare them on the same tasks")
    a, b = x[..., :, None, :], y[..., None, :, :]
    return ((a > b) + 0.5 * (a == b)).mean((-3, -2, -1))


def can_tell(runs: int, tasks: int) -> bool:
    """Whether so many runs of each of two algorithms can differ at the 5% level at all.

    A bootstrap of two runs that beat two others has an interval of no width; the least p of Mann-Whitney's test, of all
    runs of one above all of the other on every task, says what that is worth. Two runs never tell.
    """
    return runs > 2 and 2 / math.comb(2 * runs, runs) ** tasks < 1 - LEVEL


def score_distribution(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs on all tasks that score above each threshold, (..., runs, tasks) -> (..., thresholds).

    Agarwal et al. 2021, section 4.2: the run-score distribution.
    """
    flat = scores.reshape(*scores.shape[:-2], 1, -1)
    return (flat > np.asarray(thresholds)[:, None]).mean(-1)


def stratified_bootstrap(
    scores: np.ndarray | tuple[np.ndarray, ...],
    statistic: Statistic,
    reps: int = REPS,
    rng: np.random.Generator | int = 0,
    method: Literal["linear", "nearest"] = "linear",
) -> Estimate:
    """A statistic with its percentile interval, resampling runs within each task (Agarwal et al. 2021, section 4.1).

    The interval speaks of other runs on these tasks, not of other tasks. Percentiles of few runs are too narrow: what
    five runs on one task say of a mean holds it 83 times in 100 rather than 95; ``mean_interval`` is for that case.

    Args:
        scores: (..., runs, tasks), or several such arrays, resampled each by itself and given to ``statistic`` in turn.
            Leading axes are kept together: a run's whole curve is drawn.
        statistic: (..., runs, tasks) -> (...), and axes of its own behind.
        reps: number of resamples.
        rng: source of randomness, or a seed.
        method: of the quantiles, as in ``np.quantile``.

    Returns:
        the statistic, and the interval's ends; nan where a task has one run only.

    Raises:
        ValueError: a score is nan.
    """
    arrays = [checked(a) for a in (scores if isinstance(scores, tuple) else (scores,))]
    value = np.asarray(statistic(*arrays))
    if min(a.shape[-2] for a in arrays) < 2:
        return Estimate(value, np.full(value.shape, np.nan), np.full(value.shape, np.nan))
    rng = np.random.default_rng(rng)
    drawn = np.concatenate([statistic(*(_resampled(a, n, rng) for a in arrays)) for n in _chunks(reps, arrays)])
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method=method)
    return Estimate(value, *ends)


def _chunks(reps: int, arrays: Sequence[np.ndarray]) -> Iterator[int]:
    """``reps`` in parts that fit into memory."""
    size = max(1, ELEMENTS // sum(a.size for a in arrays))
    return (min(size, reps - first) for first in range(0, reps, size))


def _resampled(scores: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n times as many runs of every task, drawn with replacement: (n, ..., runs, tasks)."""
    runs, tasks = scores.shape[-2:]
    chosen = rng.integers(runs, size=(n, runs, tasks))
    return np.moveaxis(scores[..., chosen, np.arange(tasks)], -3, 0)


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean of one task's runs with Student's interval, which holds what it promises for few runs of normal scores."""
    array = checked(np.asarray(values, dtype=float)[:, None])[:, 0]
    if len(array) < 2:
        return Estimate(array.mean(), np.float64(np.nan), np.float64(np.nan))
    half = array.std(ddof=1) / np.sqrt(len(array)) * stdtrit(len(array) - 1, (1 + LEVEL) / 2)
    return Estimate(array.mean(), array.mean() - half, array.mean() + half)


def prediction_interval(values: Sequence[float], more: int) -> Estimate:
    """Where the mean of ``more`` new runs falls 95 times in 100, if they are as these runs: mean and Student's ends.

    mean +- t s sqrt(1 / n + 1 / more), for normal scores (Hahn and Meeker 1991, section 4.2).
    """
    array = checked(np.asarray(values, dtype=float)[:, None])[:, 0]
    n = len(array)
    if n < 2:
        return Estimate(array.mean(), np.float64(np.nan), np.float64(np.nan))
    half = stdtrit(n - 1, (1 + LEVEL) / 2) * array.std(ddof=1) * np.sqrt(1 / n + 1 / more)
    return Estimate(array.mean(), array.mean() - half, array.mean() + half)


def aggregates(scores: np.ndarray, reps: int = REPS, rng: np.random.Generator | int = 0) -> dict[str, Estimate]:
    """IQM, median, mean and optimality gap of (runs, tasks), each with its interval."""
    rng = np.random.default_rng(rng)
    return {name: stratified_bootstrap(scores, statistic, reps, rng) for name, statistic in AGGREGATES.items()}


def performance_profile(
    scores: np.ndarray, thresholds: np.ndarray, reps: int = REPS, rng: np.random.Generator | int = 0
) -> Estimate:
    """Share of runs above each threshold with a pointwise band, (runs, tasks) -> (thresholds,)."""
    return stratified_bootstrap(scores, lambda s: score_distribution(s, thresholds), reps, rng)


def sample_efficiency(curves: np.ndarray, reps: int = REPS, rng: np.random.Generator | int = 0) -> Estimate:
    """IQM at each of common token counts with a pointwise band, (runs, tasks, points) -> (points,)."""
    return stratified_bootstrap(np.moveaxis(np.asarray(curves, float), -1, 0), interquartile_mean, reps, rng)


def common_grid(tokens: Sequence[np.ndarray], points: int = 50) -> np.ndarray:
    """Token counts that all curves have reached: from the last to begin to the first to end, (points,)."""
    first, last = max(t[0] for t in tokens), min(t[-1] for t in tokens)
    if last < first:
        raise ValueError(f"one curve begins at {first} tokens and another ends at {last}: they have none in common")
    return np.linspace(first, last, points)


def interpolate(tokens: np.ndarray, scores: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Scores at the token counts of ``grid``, linearly between those known at ``tokens``: (points,).

    Raises:
        ValueError: tokens do not increase, or the grid goes beyond them, where nothing is known.
    """
    if not (np.diff(tokens) > 0).all():
        raise ValueError("tokens must increase: give one score at each count")
    if grid[0] < tokens[0] or grid[-1] > tokens[-1]:
        raise ValueError(f"the grid {grid[0]:g} to {grid[-1]:g} goes beyond the tokens {tokens[0]:g} to {tokens[-1]:g}")
    return np.interp(grid, tokens, scores)
