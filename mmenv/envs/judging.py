"""Scores and gold of ended responses, from one batched call of the reward function."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import GoldReward, RewardFunction, WeightedSum, score
from mmenv.rewards.tokens import TokenRewards
from mmenv.tasks.base import Task


class Judged(NamedTuple):
    """The judgement of n responses.

    Attributes:
        scores: float32 (n,), paid at the end.
        returns: float32 (n,), the scores and what was paid at the tokens.
        gold: float64 (n,), nan where it is unknown.
        gold_parts: parts of gold by name, each float64 (n,), nan where a response's gold has no such part.
        parts: components of a composed reward by name, each (n,), with what they paid at the tokens; nan where the
            reward function was not called.
    """

    scores: np.ndarray
    returns: np.ndarray
    gold: np.ndarray
    gold_parts: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]


def judge(
    task: Task,
    reward: RewardFunction,
    samples: list[Sample],
    responses: list[Response],
    last: np.ndarray,
    tokens: TokenRewards | None = None,
) -> Judged:
    """Score n responses in one call of ``reward``, and compute their gold.

    Of a task that pays at the end only (``Task.pays_at_end``) the other responses have the score 0 and no gold.

    Args:
        task: has the gold.
        reward: scores.
        samples: n
        responses: n
        last: bool (n,), whether a response ends its episode.
        tokens: what was paid at their tokens; None where the reward pays none.

    Raises:
        RewardError: the reward function failed or returned something else than n finite scores.
    """
    if not task.pays_at_end or last.all():
        return _judge(task, reward, samples, responses, tokens)
    ends = np.flatnonzero(last)
    some = Judged(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0), {}, {})
    if ends.size:
        some = _judge(task, reward, [samples[i] for i in ends], [responses[i] for i in ends], None)

    def spread(values: np.ndarray, blank: float) -> np.ndarray:
        full = np.full(len(samples), blank, values.dtype)
        full[ends] = values
        return full

    scores = spread(some.scores, 0.0)
    gold_parts = {name: spread(part, np.nan) for name, part in some.gold_parts.items()}
    parts = {name: spread(part, np.nan) for name, part in some.parts.items()}
    return Judged(scores, scores, spread(some.gold, np.nan), gold_parts, parts)


def _judge(
    task: Task,
    reward: RewardFunction,
    samples: list[Sample],
    responses: list[Response],
    tokens: TokenRewards | None,
) -> Judged:
    """Score and gold of n responses, all of which are paid."""
    gold, gold_parts = _gold(task, samples, responses)
    if isinstance(reward, GoldReward) and reward.gold == task.gold and np.isfinite(gold).all():
        scores, parts = gold.astype(np.float32), {}  # gold is not computed twice
    elif isinstance(reward, WeightedSum):
        parts = reward.components(samples, responses)
        scores = reward.combine(parts)
    else:
        scores, parts = score(reward, samples, responses), {}
    if tokens is None:
        return Judged(scores, scores, gold, gold_parts, parts)
    parts = {name: part + tokens.parts[name].sum(1) for name, part in parts.items()}
    return Judged(scores, scores + tokens.rows.sum(1), gold, gold_parts, parts)


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
