"""Scores and gold of ended responses, from one batched call of the reward function."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import GoldReward, RewardFunction, WeightedSum, score
from mmenv.tasks.base import Task


class Judged(NamedTuple):
    """The judgement of n responses.

    Attributes:
        scores: float32 (n,)
        gold: float64 (n,), nan where it is unknown.
        parts: components of a composed reward by name, each (n,).
    """

    scores: np.ndarray
    gold: np.ndarray
    parts: dict[str, np.ndarray]


def judge(task: Task, reward: RewardFunction, samples: list[Sample], responses: list[Response]) -> Judged:
    """Score n responses in one call of ``reward``, and compute their gold.

    Raises:
        RewardError: the reward function failed or returned something else than n finite scores.
    """
    values = [task.gold(s, r) for s, r in zip(samples, responses, strict=True)]
    gold = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if isinstance(reward, GoldReward) and reward.gold == task.gold and np.isfinite(gold).all():
        return Judged(gold.astype(np.float32), gold, {})  # gold is not computed twice
    if isinstance(reward, WeightedSum):
        parts = reward.components(samples, responses)
        return Judged(reward.combine(parts), gold, parts)
    return Judged(score(reward, samples, responses), gold, {})
