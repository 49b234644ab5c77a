"""Two responses of a policy to each of many contexts: what a preference model is asked about."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from agents.policy import TokenPolicy
from agents.rollout import Batch, rollout
from mmenv.data.sample import Response
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.rewards.training import Pairs


def replies(batch: Batch) -> list[Response]:
    """The responses of a batch as reward functions take them."""
    return [
        Response(text, tuple(row[: int(m.sum())].tolist()), stop)
        for text, row, m, stop in zip(batch.texts, batch.tokens, batch.mask, batch.stops, strict=True)
    ]


def same_context(batch: Batch) -> Iterable[tuple[int, int]]:
    """Rows of a batch two by two that answer the same; in a dialogue, replies to the same words."""
    by_sample: dict[tuple[str, str, str], list[int]] = {}
    for i, sample in enumerate(batch.samples):
        by_sample.setdefault((sample.id, sample.prompt, str(sample.references)), []).append(i)
    return [pair for rows in by_sample.values() for pair in zip(rows[::2], rows[1::2])]


def sample_pairs(
    policy: TokenPolicy,
    env: TokenVectorEnv,
    split: str,
    n: int,
    rng: np.random.Generator,
    track: Iterable[int] | None = None,
) -> Pairs:
    """``n`` pairs of responses; of a dialogue every turn at which both heard the same words.

    Args:
        policy: samples with its own generator.
        env: of ``split``, under DISABLED autoreset, with an even number of lanes.
        split: where the samples are drawn from.
        n: number of pairs.
        rng: draws the samples.
        track: goes over the rollouts, for a progress bar: at least ``rollouts_for(n, env)`` steps.
    """
    samples, responses, golds = [], [], []
    half = env.num_envs // 2
    for _ in track or range(rollouts_for(n, env)):
        if len(samples) >= n:
            break  # a dialogue gives more than one pair
        index = rng.integers(env.task.size(split), size=half)
        batch = rollout(policy, env, {"sample_index": np.repeat(index, 2)})
        said = replies(batch)
        for i, j in same_context(batch):
            samples.append(batch.samples[i])
            responses.append((said[i], said[j]))
            golds.append((batch.gold[i], batch.gold[j]))
    return Pairs(samples[:n], responses[:n], np.array(golds[:n]))


def rollouts_for(n: int, env: TokenVectorEnv) -> int:
    """Rollouts that give at least ``n`` pairs."""
    return -(-n // (env.num_envs // 2))
