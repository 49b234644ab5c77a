"""TRL: an id as a dataset of prompts with pictures, and as a reward function of completions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from mmenv.arguments import ArgumentError, require
from mmenv.data.sample import Response
from mmenv.envs.token_env import TokenEnv
from mmenv.registration import spec_of
from mmenv.rewards.base import RewardFunction, score

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
    """What an id pays for completions, as TRL's ``reward_funcs`` takes it.

    A completion is what the environment's tokenizer makes of its text: one of more tokens than the budget allows is cut
    there and has not ended.

    Args:
        env_id: id of the environment.
        reward: as for ``gym.make``; None for the id's own.
        missing_eos_penalty: taken off where a completion has not ended.
        samples_kept: samples that are remembered, so that several completions of one make it once.
        **arguments: further arguments of ``gym.make``; ``split`` as for ``dataset``.

    Returns:
        a function of ``completions``, texts or messages, and of the dataset's column ``index``.
    """
    env = _made(env_id, **arguments) if reward is None else _made(env_id, reward=reward, **arguments)
    sample = functools.lru_cache(samples_kept)(functools.partial(env.task.sample, env.setup.split))

    # TRL hands every column of the dataset to every reward function, and its own state, by name.
    def paid(completions: Sequence[Completion], index: Sequence[int], **columns: Any) -> list[float]:
        said = [response(env, completion) for completion in completions]
        scores = score(env.reward_function, [sample(int(i)) for i in index], said)
        return [float(s) - missing_eos_penalty * (r.stop != "eos") for s, r in zip(scores, said, strict=True)]

    # TRL logs it.
    paid.__name__ = f"{env_id.rpartition('/')[2]}_{reward if isinstance(reward, str) else 'reward'}"
    return paid


def response(env: TokenEnv, completion: Completion) -> Response:
    """A completion, text or messages, as the environment would have it written."""
    text = completion if isinstance(completion, str) else "".join(_text(m["content"]) for m in completion)
    tokens, ends = [*env.tokenizer.encode(text), env.tokenizer.end_id], env.tokenizer.eos_ids
    first = next(i for i, token in enumerate(tokens) if token in ends)  # a text may hold another end
    said = tuple(tokens[: first + 1][: env.setup.budget])
    return Response(env.tokenizer.decode(said), said, "eos" if said[-1] in ends else "budget")


def _text(content: str | list[dict[str, Any]]) -> str:
    """The words of a message, whose content may be in parts."""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def dataset(
    env_id: str, split: str | None = None, n: int = 1000, seed: int | None = None, **arguments: Any
) -> datasets.Dataset:
    """Samples of an id as TRL's trainers read them.

    Args:
        env_id: id of the environment.
        split: of the samples; None for the id's own, which is the train split but for Shifted ids.
        n: how many.
        seed: draws them without replacement; None takes the first.
        **arguments: further arguments of ``gym.make``: ``dataset``, ``image_size``.

    Returns:
        columns ``prompt`` (one message of a user), ``images`` (a list of one, where the task has pictures) and
        ``index``, by which ``reward_function`` knows them again.

    Raises:
        ArgumentError: the task speaks, which TRL's trainers cannot hear, or the split has fewer samples.
    """
    env = _made(env_id, reward="gold", **arguments, **({} if split is None else {"split": split}))
    split = env.setup.split
    if "audio" in env.observation_space.spaces:  # type: ignore[attr-defined]
        raise ArgumentError(f"{env_id} speaks: TRL's trainers hear nothing, play it with mmenv.integrations.turns")
    size = env.task.size(split)
    if n > size:
        raise ArgumentError(f"n={n}: {split} has {size} samples, take at most so many")
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


def _made(env_id: str, **arguments: Any) -> TokenEnv:
    env: Any = gym.make(spec_of(env_id), **arguments).unwrapped
    return env
