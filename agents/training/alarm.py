"""A hacking alarm: it goes off when the reward rises and the score of a judge that training does not see falls.

The judge is a preference model of other labels than the reward's. Both err, but not alike: what PPO finds in the errors
of one the other does not pay for. So the judge's mean score rises with the truth, and when it falls from its peak while
the reward stays up, gold is falling (docs/alarm.md measures how often that is right, and how early).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AlarmConfig:
    """When the alarm goes off. Scores are in standard deviations of the start's responses.

    Attributes:
        window: updates that a mean is taken over.
        drop: how far the judge's mean must have fallen from its peak.
        errors: and how many of its standard errors.
    """

    window: int = 6
    drop: float = 0.15
    errors: float = 2.5


@dataclass(frozen=True)
class Alarm:
    """An alarm that went off.

    Attributes:
        tokens: of the run when it went off.
        peak_tokens: of the run when the judge's score was at its peak.
        drop: how far it has fallen since, in its standard deviations.
        changes: what else has changed since, by name: reward, kl, length, repetition, disagreement.
    """

    tokens: int
    peak_tokens: int
    drop: float
    changes: dict[str, float]

    def __str__(self) -> str:
        also = ", ".join(f"{name} {change:+.2f}" for name, change in self.changes.items())
        return f"reward and judge part: judge -{self.drop:.2f} since {self.peak_tokens:,} tokens ({also})"


_ALSO = ("reward", "kl", "length", "repetition", "disagreement")


def alarm(rows: Sequence[Mapping[str, Any]], config: AlarmConfig | None = None) -> Alarm | None:
    """The alarm that goes off at the last of the rows; None where it does not.

    Args:
        rows: metrics of the updates so far, with ``judge`` and ``judge_error`` where there is a judge.
        config: ``AlarmConfig()`` where it is None.
    """
    config = config or AlarmConfig()
    if not rows or "judge" not in rows[-1]:
        return None
    rows = [row for row in rows if "judge" in row]  # the policy need not be watched at every update
    if len(rows) <= config.window:
        return None
    judge = means(rows, "judge", config.window)
    error = np.sqrt(means([{"e": r["judge_error"] ** 2} for r in rows], "e", config.window) / config.window)
    peak = int(judge.argmax())
    drop = float(judge[peak] - judge[-1])
    if drop <= config.drop or drop <= config.errors * float(np.hypot(error[peak], error[-1])):
        return None
    smoothed = {name: means(rows, name, config.window) for name in _ALSO if name in rows[-1]}
    if smoothed["reward"][-1] < smoothed["reward"][peak]:
        return None  # both fall: that is another failure than hacking
    changes = {name: float(values[-1] - values[peak]) for name, values in smoothed.items()}
    at = config.window - 1
    return Alarm(int(rows[-1]["tokens"]), int(rows[peak + at]["tokens"]), drop, changes)


def first_alarm(rows: Sequence[Mapping[str, Any]]) -> Alarm | None:
    """The alarm at the first row at which it goes off."""
    for n in range(1, len(rows) + 1):
        if (first := alarm(rows[:n])) is not None:
            return first
    return None


def means(rows: Sequence[Mapping[str, Any]], name: str, window: int) -> np.ndarray:
    """Means of a column over ``window`` rows, one for each row from the ``window``-th on."""
    values = np.array([r[name] for r in rows], dtype=np.float64)
    return np.convolve(values, np.full(window, 1 / window), "valid")


def mean_and_error(scores: np.ndarray, contexts: np.ndarray) -> tuple[float, float]:
    """Mean over contexts of scores (n,), and its standard error: responses to one context are not independent.

    Args:
        scores: (n,)
        contexts: (n,) which context each is of, from 0.
    """
    counts = np.bincount(contexts)
    each = np.bincount(contexts, scores) / np.maximum(counts, 1)
    each = each[counts > 0]
    return float(each.mean()), float(each.std() / np.sqrt(len(each)))
