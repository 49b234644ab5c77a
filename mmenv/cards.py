"""Pages about environments: docstring, live spaces, arguments, and pictures of real episodes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image

from mmenv.data.sample import SPLITS, Sample
from mmenv.envs.setup import Setup
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.registration import defaults_of, spec_of
from mmenv.tokenizer import Tokenizer

VECTOR_ONLY = ("autoreset_mode", "copy", "max_episode_steps")


def write_card(env_id: str, out: Path, episodes: int = 3, **arguments: Any) -> list[Path]:
    """Write a Markdown page about an id, and its pictures beside it.

    Args:
        env_id: any id, also ``"package:namespace/Name-v0"``.
        out: the page; pictures are written beside it, ``NAME-EPISODE-FRAME.png``.
        episodes: number of episodes shown.
        **arguments: of the environment.

    Returns:
        the files written, the page first.

    Raises:
        ValueError: ``out`` is a folder, ``episodes`` is negative, or the id is none of mmenv's.
    """
    if out.is_dir():
        raise ValueError(f"out={str(out)!r} is a folder: give the page's file, such as {out / 'card.md'}")
    if episodes < 0:
        raise ValueError(f"episodes={episodes} is negative: give 0 or more")
    env = gym.make(spec_of(env_id), **{**arguments, "render_mode": "rgb_array"})
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures = []
    for index in range(episodes):
        for k, frame in enumerate(frames(env, index)):
            pictures.append(out.with_name(f"{out.stem}-{index}-{k}.png"))
            Image.fromarray(frame).save(pictures[-1])
    out.write_text("\n".join(_page(env_id, env, pictures)) + "\n", encoding="utf-8")
    env.close()
    return [out, *pictures]


def frames(env: gym.Env, index: int) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) of an episode: half-way through the best known answer, and after each reply.

    Args:
        env: scalar, made with ``render_mode="rgb_array"``.
        index: of the sample.
    """
    env.reset(seed=0, options={"sample_index": index})
    tokenizer, budget = env.get_wrapper_attr("tokenizer"), _budget(env)
    terminated = False
    while not terminated:
        words = reply_to(env.get_wrapper_attr("view")().sample, tokenizer)[: budget - 1]
        half = len(words) // 2
        for word in words[:half]:
            env.step(word)
        if half and not env.get_wrapper_attr("view")().history:
            yield _frame(env)
        for word in (*words[half:], tokenizer.end_id):
            terminated = env.step(word)[2]
        yield _frame(env)


def _frame(env: gym.Env) -> np.ndarray:
    return np.asarray(env.render())


def reply_to(sample: Sample, tokenizer: Tokenizer) -> list[int]:
    """Tokens of the first reference; nothing where there is none."""
    return tokenizer.encode(sample.references[0]) if sample.references else []


def _budget(env: gym.Env) -> int:
    assert isinstance(env.observation_space, spaces.Dict)
    shape = env.observation_space["response"].shape
    assert shape is not None
    return shape[0]


def _page(env_id: str, env: gym.Env, pictures: list[Path]) -> Iterator[str]:
    """The lines of the page."""
    task, tokenizer = env.get_wrapper_attr("task"), env.get_wrapper_attr("tokenizer")
    yield from (f"# {env_id}", "", inspect.getdoc(type(task)) or "", "")
    yield from ("```python", "import gymnasium as gym", "import mmenv", "", f'env = gym.make("{env_id}")', "```", "")
    yield from ("| | |", "|---|---|")
    yield f"| modalities | {', '.join(task.modalities)} |"
    yield f"| vocabulary | {tokenizer.vocab_size} tokens |"
    yield f"| response | up to {_budget(env)} tokens |"
    yield from (f"| {split} | {task.size(split):,} samples |" for split in SPLITS)
    yield from ("", "## Episodes", "")
    yield from (f"![an episode of {env_id}]({picture.name})" for picture in pictures)
    yield from ("", "## Observations", "", "| key | space |", "|---|---|")
    assert isinstance(env.observation_space, spaces.Dict)
    yield from (f"| `{key}` | `{space}` |" for key, space in env.observation_space.items())
    yield from ("", f"Actions: `{env.action_space}`.", "", "## Arguments", "")
    yield from ("| argument | default | meaning |", "|---|---|---|")
    own = defaults_of(spec_of(env_id).kwargs["env_id"])
    yield from (f"| `{name}` | `{own.get(name, default)!r}` | {meaning} |" for name, default, meaning in arguments())


def arguments() -> Iterator[tuple[str, Any, str]]:
    """Name, default and meaning of every argument, read off the code."""
    for owner, names in ((Setup, tuple(inspect.signature(Setup).parameters)[1:]), (TokenVectorEnv, VECTOR_ONLY)):
        parameters, meanings = inspect.signature(owner).parameters, described(inspect.getdoc(owner) or "")
        for name in names:
            vector = " (`gym.make_vec` only)" if owner is TokenVectorEnv else ""
            yield name, parameters[name].default, meanings[name] + vector


def described(doc: str, section: str = "Args") -> dict[str, str]:
    """Argument -> meaning, from the ``Args`` (or another section) of a docstring."""
    block = doc.partition(f"{section}:\n")[2].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", block, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("``", "`") for name, text in entries}
