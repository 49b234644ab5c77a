"""Where optimising a reward model stops paying: gold over the distance from the start, and its peak.

After Gao, Schulman and Hilton 2022, "Scaling Laws for Reward Model Overoptimization". The distance is d = sqrt(KL) in
sqrt(nats), KL that of a response to the start's; gold is relative to the start's, so that it is 0 at d = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import gammaln, xlogy

from agents.comparing.aggregate import REPS, Estimate, stratified_bootstrap

Form = Literal["best of n", "RL"]


class Fit(NamedTuple):
    """A fitted form.

    Attributes:
        form: ``best of n``: d (a - b d), or ``RL``: d (a - b log d).
        a, b: its coefficients.
        rmse: root of the mean squared residual, in the unit of gold.
        reach: the largest distance that was seen; a peak beyond it is a guess.
    """

    form: Form
    a: float
    b: float
    rmse: float
    reach: float

    def at(self, d: np.ndarray) -> np.ndarray:
        """Gold relative to the start's at the distances ``d``."""
        return features(self.form, d) @ np.array([self.a, self.b])

    @property
    def peak(self) -> float:
        """Distance where gold is highest: a / 2b, or exp(a / b - 1); 0 where it falls from the start on.

        With b at most 0 no point in between is the highest: inf where the fit is above the start at ``reach``, else 0.
        """
        if self.b <= 0:
            return math.inf if self.at(np.array(self.reach)) > 0 else 0.0
        if self.form == "best of n":
            return max(0.0, self.a / (2 * self.b))
        power = self.a / self.b - 1
        return math.exp(power) if power < 700 else math.inf

    @property
    def seen(self) -> bool:
        """Whether the peak lies within the distances that were seen."""
        return self.peak <= self.reach


def distance(kl: np.ndarray) -> np.ndarray:
    """sqrt(KL) in sqrt(nats); an estimate of KL below 0, as samples give near the start, counts as 0."""
    return np.sqrt(np.maximum(np.asarray(kl, dtype=float), 0.0))


def features(form: Form, d: np.ndarray) -> np.ndarray:
    """The factors of a and b: d, and -d^2 (best of n) or -d log d (RL), (n,) -> (n, 2)."""
    d = np.asarray(d, dtype=float)
    bend = {"best of n": d * d, "RL": xlogy(d, d)}
    if form not in bend:
        raise ValueError(f"form={form!r}: choose 'best of n' or 'RL'")
    return np.stack([d, -bend[form]], axis=-1)


def fit(form: Form, d: np.ndarray, gold: np.ndarray) -> Fit:
    """Least squares of a form, exact because both are linear in a and b.

    Args:
        form: ``best of n`` or ``RL``.
        d: (n,) distances, sqrt(nats).
        gold: (n,) gold less the start's.

    Raises:
        ValueError: a value is not finite, or fewer than two distances beyond 0 differ, which leaves a and b open.
    """
    d, gold = np.asarray(d, dtype=float), np.asarray(gold, dtype=float)
    if not (np.isfinite(d).all() and np.isfinite(gold).all()):
        raise ValueError("a distance or gold is nan or infinite: leave the point out")
    if len(np.unique(d[d > 0])) < 2:
        raise ValueError(f"{len(d)} points at {len(np.unique(d[d > 0]))} distances beyond 0: two coefficients need two")
    columns = features(form, d)
    (a, b), *_ = np.linalg.lstsq(columns, gold, rcond=None)
    rmse = np.sqrt(np.mean((columns @ [a, b] - gold) ** 2))
    return Fit(form, float(a), float(b), float(rmse), float(d.max()))


def peak_interval(
    form: Form,
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
    reps: int = REPS,
    rng: np.random.Generator | int = 0,
) -> Estimate:
    """Distance of the peak with its percentile interval, by fitting resampled runs anew.

    Args:
        form: ``best of n`` or ``RL``.
        runs: (d, gold) of each, drawn as a unit, because its points are not independent. A resample may hold one run
            alone, so each must be one that ``fit`` can fit.
        reps: number of resamples.
        rng: source of randomness, or a seed.

    Returns:
        the peak of the fit to all runs; the interval's ends, inf where a resample has no peak, nan for a single run.

    Raises:
        ValueError: ``fit`` refuses a run.
    """
    for d, gold in runs:
        fit(form, d, gold)
    return _bootstrap(len(runs), lambda drawn: _peaks(form, runs, drawn), reps, rng)


def peak_shift(
    form: Form,
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
    others: Sequence[tuple[np.ndarray, np.ndarray]],
    reps: int = REPS,
    rng: np.random.Generator | int = 0,
) -> Estimate:
    """How much later the peak of runs is than that of others, with its percentile interval over pairs of runs.

    Args:
        form: ``best of n`` or ``RL``.
        runs: (d, gold) of each, as for ``peak_interval``.
        others: (d, gold) of the run that each is paired with, such as one of the same seed: a resample has both or
            neither.
        reps: number of resamples.
        rng: source of randomness, or a seed.

    Returns:
        the difference of the two peaks, sqrt(nats), and the ends of its interval; inf where ``runs`` alone have none,
        -inf where ``others`` alone have none, 0 where both have none; nan for the ends of a single pair. The peak of a
        resample counts wherever its fit has it, seen or not.

    Raises:
        ValueError: ``fit`` refuses a run, or numbers of runs differ.
    """
    if len(runs) != len(others):
        raise ValueError(f"{len(runs)} runs and {len(others)} others: every run is paired with one")
    for d, gold in (*runs, *others):
        fit(form, d, gold)
    return _bootstrap(
        len(runs), lambda drawn: _later(_peaks(form, runs, drawn), _peaks(form, others, drawn)), reps, rng
    )  # fmt: skip


def _bootstrap(
    runs: int, statistic: Callable[[np.ndarray], np.ndarray], reps: int, rng: np.random.Generator | int
) -> Estimate:
    """A statistic of all runs, with its percentile interval over resamples of them; nan for the ends of a single run.

    Args:
        runs: how many there are.
        statistic: (n, runs) indices of the runs in each resample -> (n,) values.
        reps: number of resamples.
        rng: source of randomness, or a seed.
    """

    def of_resamples(indices: np.ndarray) -> np.ndarray:  # (..., runs, 1) -> (...)
        drawn = np.sort(indices.astype(int).reshape(-1, runs), axis=1)
        distinct, inverse = np.unique(drawn, axis=0, return_inverse=True)  # of few runs many resamples are the same
        return statistic(distinct)[inverse.ravel()].reshape(indices.shape[:-2])

    # A peak may be inf, so that nothing is interpolated between two of them.
    return stratified_bootstrap(np.arange(runs)[:, None], of_resamples, reps, rng, method="nearest")


def _peaks(form: Form, runs: Sequence[tuple[np.ndarray, np.ndarray]], drawn: np.ndarray) -> np.ndarray:
    """Peak of the fit to each resample."""
    return np.array([fit_runs(form, [runs[i] for i in row]).peak for row in drawn])


def _later(peaks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Differences; two that are nowhere do not differ."""
    with np.errstate(invalid="ignore"):
        return np.where(peaks == others, 0.0, peaks - others)


def fit_runs(form: Form, runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Fit:
    """``fit`` to the points of several runs, (d, gold) of each."""
    d, gold = (np.concatenate(part) for part in zip(*runs, strict=True))
    return fit(form, d, gold)


def best_of_n(reward: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Expected value of the response with the best reward among n, for every n up to N, from N scored responses.

    Unbiased (Nakano et al. 2021, appendix I): of the C(N, n) ways to draw n of the N, C(i - 1, n - 1) have the i-th
    lowest reward as their best. Among equal rewards each is as likely to be taken as the others.

    Args:
        reward: (contexts, N) scores that the best is chosen by.
        value: (contexts, N) scores whose expectation is estimated: gold, or reward itself.

    Returns:
        (contexts, N): column n - 1 is best of n.
    """
    reward, value = np.asarray(reward, dtype=float), np.asarray(value, dtype=float)
    if reward.shape != value.shape or reward.ndim != 2:
        raise ValueError(f"reward {reward.shape} and value {value.shape}: both are (contexts, responses)")
    return np.stack([_by_reward(r, v) for r, v in zip(reward, value, strict=True)]) @ _weights(reward.shape[1])


def _by_reward(reward: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Values from the lowest reward to the highest, (N,); equal rewards share the mean of their values."""
    _, group, sizes = np.unique(reward, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(group, weights=value) / sizes, sizes)


def _weights(total: int) -> np.ndarray:
    """C(i - 1, n - 1) / C(N, n): how probably the i-th lowest of N is the best of n, (N, N) over i and n."""
    i, n = np.arange(1, total + 1)[:, None], np.arange(1, total + 1)
    return np.where(i >= n, np.exp(_log_choose(i - 1, n - 1) - _log_choose(total, n)), 0.0)


def _log_choose(n: np.ndarray | int, k: np.ndarray) -> np.ndarray:
    # Where k > n the result is not used; a gap of 0 keeps gammaln finite.
    return gammaln(np.asarray(n) + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1)
