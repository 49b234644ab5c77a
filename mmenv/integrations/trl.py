"""TRL: an id as a dataset of prompts with pictures, and as a reward function of completions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmenv.arguments import ArgumentError, require
from mmenv.data.sample import Response
from mmenv.envs.token_env import TokenEnv
from mmenv.registration import make_unwrapped
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.tokens import returns

with require("trl"):
    import datasets

Completion = str | list[dict[str, Any]]


def reward_function(
    env_id: str,
    reward: str | RewardFunction | None = None,
    missing_eos_penalty: float = 0.0,
    samples_kept: int = 4096,
    **arguments: Any,
) -> Callable[..., list[float]]:
    """The reward of an id for completions, as TRL's ``reward_funcs`` takes it.

    Completions are tokenized by the environment's tokenizer; one that exceeds the budget is cut and has not ended.

    Args:
        env_id: id of the environment.
        reward: as for ``gym.make``; None for the id's own.
        missing_eos_penalty: subtracted where a completion has not ended.
        samples_kept: size of the cache of samples, so that several completions of one sample make it once.
        **arguments: further arguments of ``gym.make``; ``split`` as for ``dataset``.

    Returns:
        a function of ``completions``, texts or messages, and of the dataset's column ``index``.
    """
    env = make_unwrapped(env_id, **arguments) if reward is None else make_unwrapped(env_id, reward=reward, **arguments)
    sample = functools.lru_cache(samples_kept)(functools.partial(env.task.sample, env.episode_spec.split))

    # TRL passes every column of the dataset and its own state by name.
    def compute_rewards(completions: Sequence[Completion], index: Sequence[int], **columns: Any) -> list[float]:
        responses = [response(env, completion) for completion in completions]
        scores = returns(env.reward_function, [sample(int(i)) for i in index], responses)
        return [float(s) - missing_eos_penalty * (r.stop != "eos") for s, r in zip(scores, responses, strict=True)]

    # TRL logs the reward under this name.
    compute_rewards.__name__ = f"{env_id.rpartition('/')[2]}_{reward if isinstance(reward, str) else 'reward'}"
    return compute_rewards


def response(env: TokenEnv, completion: Completion) -> Response:
    """A completion, text or messages, as the environment would write it."""
    text = completion if isinstance(completion, str) else "".join(_text(m["content"]) for m in completion)
    tokens, ends = [*env.tokenizer.encode(text), env.tokenizer.end_id], env.tokenizer.eos_ids
    first = next(i for i, token in enumerate(tokens) if token in ends)  # a text may contain another end token
    written = tuple(tokens[: first + 1][: env.episode_spec.budget])
    return Response(env.tokenizer.decode(written), written, "eos" if written[-1] in ends else "budget")


def _text(content: str | list[dict[str, Any]]) -> str:
    """The text of a message, whose content may be a list of parts."""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def dataset(
    env_id: str, split: str | None = None, n: int = 1000, seed: int | None = None, **arguments: Any
) -> datasets.Dataset:
    """Samples of an id as TRL's trainers read them.

    Args:
        env_id: id of the environment.
        split: of the samples; None for the id's own: train, or test for Shifted ids.
        n: number of samples.
        seed: draws them without replacement; None takes the first n.
        **arguments: further arguments of ``gym.make``: ``dataset``, ``image_size``.

    Returns:
        columns ``prompt`` (one message of a user), ``images`` (a list of one, where the task has pictures) and
        ``index``, by which ``reward_function`` finds the sample.

    Raises:
        ArgumentError: the task has sound, which TRL's trainers cannot use, or the split has fewer samples.
    """
    env = make_unwrapped(env_id, reward="gold", **arguments, **({} if split is None else {"split": split}))
    split = env.episode_spec.split
    if "audio" in env.observation_space.spaces:  # type: ignore[attr-defined]
        raise ArgumentError(
            f"{env_id} has sound, which TRL's trainers cannot use: play it with mmenv.integrations.turns"
        )
    size = env.task.size(split)
    if n > size:
        raise ArgumentError(f"n={n} is too many: {split} has {size} samples, take at most so many")
    chosen = np.arange(n) if seed is None else np.random.default_rng(seed).choice(size, n, replace=False)
    samples = [env.task.sample(split, int(i)) for i in chosen]
    columns: dict[str, Any] = {
        "prompt": [[{"role": "user", "content": s.prompt}] for s in samples],
        "index": [int(i) for i in chosen],
    }
    images = [[Image.fromarray(s.image)] for s in samples if s.image is not None]
    if images:
        columns["images"] = images
    return datasets.Dataset.from_dict(columns)
