"""Batches of responses that no rollout played: demonstrations, and stored preferences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from agents.policies.token_policy import TokenPolicy
from agents.rollouts.rollout import Batch
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.tasks.demonstrations import demonstrate
from mmenv.tokenizer import HFTokenizer, Tokenizer


def written(
    policy: TokenPolicy, env: TokenVectorEnv, samples: Sequence[Sample], responses: Sequence[Sequence[Response]]
) -> Batch:
    """Responses to samples as a batch: as many to each as are given, without log-probabilities, values or scores.

    Args:
        policy: whose encoders read the contexts.
        env: whose tokenizer and spaces are meant.
        samples: K of them.
        responses: for each sample its responses, as ``tokens_of`` has them.
    """
    encoder, budget, tokenizer = env.episode_spec.encoder, policy.budget, env.tokenizer
    arrays = encoder.empty(len(samples))
    for i, sample in enumerate(samples):
        encoder.write(arrays, i, sample)
    flat = [(i, r) for i, several in enumerate(responses) for r in several]
    rows = [tokens_of(tokenizer, r, budget) for _, r in flat]
    tokens = torch.full((len(rows), max(len(row) for row in rows)), tokenizer.pad_id)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    tokens = tokens.to(policy.device)
    mask = (tokens != tokenizer.pad_id).float()
    with torch.no_grad():
        prefix = policy.encode(arrays)
    unknown = torch.full((len(rows),), float("nan"), device=policy.device)
    media = {k: torch.from_numpy(v) for k, v in arrays.items() if k in ("image", "audio")}
    return Batch(
        prefix, torch.tensor([i for i, _ in flat], device=policy.device), tokens, mask,
        torch.zeros_like(mask), torch.zeros_like(mask), unknown, np.full(len(rows), np.nan),
        [samples[i] for i, _ in flat], [r.text for _, r in flat], [r.stop for _, r in flat],
        media if policy.train_encoder else None,
    )  # fmt: skip


def tokens_of(tokenizer: Tokenizer, response: Response, budget: int) -> list[int]:
    """The tokens of a response: those that were sampled, else its text and an end token; at most ``budget``."""
    if response.tokens:
        return list(response.tokens[:budget])
    # Behind a chat template the first word of a text may be another token than alone.
    encode = tokenizer.encode_response if isinstance(tokenizer, HFTokenizer) else tokenizer.encode
    return [*encode(response.text), *([tokenizer.end_id] if response.stop == "eos" else [])][:budget]


def demonstrations(policy: TokenPolicy, env: TokenVectorEnv, n: int, rng: np.random.Generator) -> Batch:
    """``n`` demonstrations of the training split; a dialogue goes on as its demonstrated replies make it.

    The embedded world has hurried people demonstrate (``mmenv.tasks.demonstrations``), as they did for the shipped
    starts; of other data a reference is taken.

    Raises:
        ValueError: a sample has neither.
    """
    task, samples, replies = env.task, [], []
    while len(samples) < n:
        sample: Sample | None = task.sample("train", int(rng.integers(task.size("train"))))
        while sample is not None and len(samples) < n:
            reply = Response(_demonstration(sample, rng))
            samples.append(sample)
            replies.append([reply])
            sample = task.follow_up(sample, reply)
    return written(policy, env, samples, replies)


def _demonstration(sample: Sample, rng: np.random.Generator) -> str:
    if sample.truth is not None:
        return demonstrate(sample, rng)
    if not sample.references:
        raise ValueError(f"sample {sample.id!r} has no reference to imitate: give the dataset references")
    return sample.references[int(rng.integers(len(sample.references)))]


def some(batch: Batch, contexts: np.ndarray) -> Batch:
    """The responses to some contexts of a batch made by ``written``, context by context."""
    each = [np.flatnonzero(batch.contexts.cpu().numpy() == c) for c in contexts]
    rows = np.concatenate(each)
    at = torch.from_numpy(rows).to(batch.tokens.device)
    numbers = np.repeat(np.arange(len(contexts)), [len(e) for e in each])
    wide = int(batch.mask[at].sum(1).max())
    prefix = batch.prefix.select(torch.from_numpy(contexts).to(at.device))
    return Batch(
        prefix, torch.from_numpy(numbers).to(at.device), batch.tokens[at, :wide],
        batch.mask[at, :wide], batch.logp[at, :wide], batch.values[at, :wide], batch.scores[at], batch.gold[rows],
        [batch.samples[i] for i in rows], [batch.texts[i] for i in rows], [batch.stops[i] for i in rows],
        batch.observations and {k: v[torch.from_numpy(contexts)] for k, v in batch.observations.items()},
    )  # fmt: skip
