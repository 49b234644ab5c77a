"""The contract of reward functions, the checked call of one, and the simple ones: gold, length penalty, sum."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from mmenv.data.sample import Response, Sample


def _use_one_thread() -> None:
    """Let torch compute in one thread in a forked child, which would otherwise wait forever for its parent's threads.

    GNU's OpenMP, which torch uses, cannot rebuild a thread pool after a fork. A child whose parent had not computed yet
    may set more threads again.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if sys.platform != "win32":  # which has no fork
    os.register_at_fork(after_in_child=_use_one_thread)


class RewardFunction(Protocol):
    """Scores finished responses in one batched call: (n samples, n responses) -> float32 (n,).

    A plain Python function is one. Its name in ``info`` is its ``name`` attribute or else its ``__name__``. A reward
    may also pay at the tokens: ``mmenv.rewards.tokens.TokenReward``.
    """

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray: ...


class RewardError(RuntimeError):
    """A reward function raised, returned the wrong shape, or a score that is not finite."""


def reward_name(reward: RewardFunction) -> str:
    """``name`` where the function has that attribute, else ``__name__``, else its class's name."""
    name = getattr(reward, "name", None) or getattr(reward, "__name__", None)
    return str(name or type(reward).__name__)


def called(
    name: str,
    function: Callable[[Sequence[Sample], Sequence[Response]], np.ndarray],
    samples: Sequence[Sample],
    responses: Sequence[Response],
) -> np.ndarray:
    """What a user's function returns, as float32.

    Raises:
        RewardError: it failed; the message has ``name``.
    """
    try:
        return np.asarray(function(samples, responses), dtype=np.float32)
    except RewardError:
        raise
    except Exception as error:  # user code may raise anything; the error has to name the reward and its samples
        ids = ", ".join(s.id for s in samples[:3])
        raise RewardError(f"reward {name!r} raised {type(error).__name__}: {error} (on samples {ids})") from error


def score(reward: RewardFunction, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
    """Call ``reward`` and check its scores.

    Returns:
        float32 (n,)

    Raises:
        RewardError: the function failed, or its scores have the wrong shape or are not finite.
    """
    name = reward_name(reward)
    scores = called(name, reward, samples, responses)
    if scores.shape != (len(samples),):
        raise RewardError(
            f"reward {name!r} returned shape {scores.shape} for {len(samples)} responses (first sample "
            f"{samples[0].id!r}): return one number a response, shape ({len(samples)},)"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        i = int(bad[0])
        raise RewardError(
            f"reward {name!r} returned {scores[i]} for sample {samples[i].id!r}, response {responses[i].text!r}: "
            "scores must be finite"
        )
    return scores


class GoldReward:
    """The task's gold as the reward.

    Args:
        gold: ``task.gold``.
    """

    name = "gold"

    def __init__(self, gold: Callable[[Sample, Response], float | None]) -> None:
        self.gold = gold

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        scores = [self.gold(s, r) for s, r in zip(samples, responses, strict=True)]
        if None in scores:
            raise RewardError(f"sample {samples[scores.index(None)].id!r} has no gold: use another reward than 'gold'")
        return np.array(scores, dtype=np.float32)


class LengthPenalty:
    """A reward of minus ``cost`` for every token beyond ``free``, paid at the end.

    Args:
        cost: of a token, >= 0.
        free: number of tokens without cost.
    """

    name = "length"

    def __init__(self, cost: float = 0.01, free: int = 0) -> None:
        self.cost, self.free = cost, free

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        return np.array([-self.cost * max(0, len(r.tokens) - self.free) for r in responses], dtype=np.float32)


class WeightedSum:
    """Weighted sum of rewards; environments report each part as ``rewards/<name>`` in info.

    Args:
        parts: pairs of reward and weight; their names must differ.

    Raises:
        ValueError: there are no parts, or two have the same name.
    """

    name = "sum"

    def __init__(self, *parts: tuple[RewardFunction, float]) -> None:
        if not parts:
            raise ValueError("WeightedSum needs at least one (reward, weight) pair")
        names = [reward_name(f) for f, _ in parts]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"several parts are named {repeated[0]!r}, so info cannot tell them apart: rename one")
        self.parts = parts

    def components(self, samples: Sequence[Sample], responses: Sequence[Response]) -> dict[str, np.ndarray]:
        """Unweighted scores of each part, by name."""
        return {reward_name(f): score(f, samples, responses) for f, _ in self.parts}

    def combine(self, components: dict[str, np.ndarray]) -> np.ndarray:
        """The weighted sum of the parts of ``components`` or of token rewards, float32 and of their shape."""
        weights = [w for _, w in self.parts]
        total = sum(w * c for w, c in zip(weights, components.values(), strict=True))
        return np.asarray(total, dtype=np.float32)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        return self.combine(self.components(samples, responses))
