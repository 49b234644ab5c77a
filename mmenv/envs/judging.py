"""Scores and gold of ended responses, from one batched call of the reward function."""

from __future__ import annotations

import math
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
        gold_parts: parts of gold by name, each float64 (n,), nan where a response's gold has no such part.
        parts: components of a composed reward by name, each (n,).
    """

    scores: np.ndarray
    gold: np.ndarray
    gold_parts: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]


def judge(task: Task, reward: RewardFunction, samples: list[Sample], responses: list[Response]) -> Judged:
    """Score n responses in one call of ``reward``, and compute their gold.

    Raises:
        RewardError: the reward function failed or returned something else than n finite scores.
    """
    gold, gold_parts = _gold(task, samples, responses)
    if isinstance(reward, GoldReward) and reward.gold == task.gold and np.isfinite(gold).all():
        return Judged(gold.astype(np.float32), gold, gold_parts, {})  # gold is not computed twice
    if isinstance(reward, WeightedSum):
        parts = reward.components(samples, responses)
        return Judged(reward.combine(parts), gold, gold_parts, parts)
    return Judged(score(reward, samples, responses), gold, gold_parts, {})


def _gold(task: Task, samples: list[Sample], responses: list[Response]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Gold of n responses, float64 (n,), and its parts by name; nan where there is none."""
    gold = np.full(len(responses), np.nan)
    columns: dict[str, np.ndarray] = {}
    for k, (sample, response) in enumerate(zip(samples, responses, strict=True)):
        parts = task.gold_parts(sample, response)
        # Parts say what gold is, so it is not computed twice.
        value = math.prod(parts.values()) if parts else task.gold(sample, response)
        if value is not None:
            gold[k] = value
        for name, part in parts.items():
            columns.setdefault(name, np.full(len(responses), np.nan))[k] = part
    return gold, columns
