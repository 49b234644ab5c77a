"""Batches of demonstrations, for supervised fine-tuning."""

from __future__ import annotations

import numpy as np

from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import Batch
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv


def demonstrations(
    policy: TokenPolicy,
    env: TokenVectorEnv,
    n: int,
    contexts: np.random.Generator,
    rng: np.random.Generator,
    most: int | None = None,
) -> Batch:
    """``n`` demonstrations of the training split; a dialogue continues after each demonstrated reply.

    A demonstration is a reference of a sample: of a world the right answer, of a dataset one that is drawn.

    Args:
        policy: encodes the contexts.
        env: gives the samples.
        n: how many; each is of a sample that is drawn at random.
        contexts: draws the samples.
        rng: draws the reference where a sample of a dataset has several.
        most: samples of the split that have a demonstration, the first ones; None: all have.

    Raises:
        ValueError: a sample has no reference.
    """
    task = env.task
    samples: list[Sample] = []
    replies: list[list[Response]] = []
    size = task.size("train") if most is None else min(most, task.size("train"))
    while len(samples) < n:
        sample: Sample | None = task.sample("train", int(contexts.integers(size)))
        while sample is not None and len(samples) < n:
            reply = Response(_demonstration(sample, rng))
            samples.append(sample)
            replies.append([reply])
            sample = task.follow_up(sample, reply)
    return Batch.from_responses(policy, env, samples, replies)


def _demonstration(sample: Sample, rng: np.random.Generator) -> str:
    if not sample.references:
        raise ValueError(f"sample {sample.id!r} has no reference to imitate: give the dataset references")
    if sample.truth is not None:
        return sample.references[0]  # the others may be rougher
    return sample.references[int(rng.integers(len(sample.references)))]
