"""Batches of demonstrations, for supervised fine-tuning."""

from __future__ import annotations

import numpy as np

from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import Batch
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.tasks.demonstrations import demonstrate


def demonstrations(policy: TokenPolicy, env: TokenVectorEnv, n: int, rng: np.random.Generator) -> Batch:
    """``n`` demonstrations of the training split; a dialogue continues after each demonstrated reply.

    The embedded world has its own demonstrations (``mmenv.tasks.demonstrations``), which the shipped starts learned
    from. Other data need references, of which one is drawn.

    Raises:
        ValueError: a sample has neither.
    """
    task = env.task
    samples: list[Sample] = []
    replies: list[list[Response]] = []
    while len(samples) < n:
        sample: Sample | None = task.sample("train", int(rng.integers(task.size("train"))))
        while sample is not None and len(samples) < n:
            reply = Response(_demonstration(sample, rng))
            samples.append(sample)
            replies.append([reply])
            sample = task.follow_up(sample, reply)
    return Batch.from_responses(policy, env, samples, replies)


def _demonstration(sample: Sample, rng: np.random.Generator) -> str:
    if sample.truth is not None:
        return demonstrate(sample, rng)
    if not sample.references:
        raise ValueError(f"sample {sample.id!r} has no reference to imitate: give the dataset references")
    return sample.references[int(rng.integers(len(sample.references)))]
