"""Pages about environments: pictures of episodes, docstring, spaces and arguments as the code has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image

from mmenv.envs.episode import ARGUMENTS, EpisodeSpec
from mmenv.envs.text import say
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.registration import defaults_of, spec_of

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
    out.write_text(page([env_id], env, pictures), encoding="utf-8")
    env.close()
    return [out, *pictures]


def frames(env: gym.Env, index: int) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) of an episode: half-way through the first reference, and after each reply.

    Args:
        env: scalar, made with ``render_mode="rgb_array"``.
        index: of the sample.
    """
    env.reset(seed=0, options={"sample_index": index})
    terminated, first = False, True
    while not terminated:
        tokens = _reference(env)
        half = len(tokens) // 2
        for token in tokens[:half]:
            env.step(token)
        if half and first:
            yield _frame(env)
        terminated = say(env, tokens[half:])[2]
        first = False
        yield _frame(env)


def write_film(env: gym.Env, index: int, out: Path, milliseconds: int = 450) -> None:
    """Write an episode as a GIF, one frame a token of the first reference; the end of each reply stays longer.

    Args:
        env: scalar, made with ``render_mode="rgb_array"``.
        index: of the sample.
        out: the file.
        milliseconds: how long a frame is shown.
    """
    env.reset(seed=0, options={"sample_index": index})
    film, durations, terminated = [_frame(env)], [2 * milliseconds], False
    while not terminated:
        for token in _reference(env):
            env.step(token)
            film.append(_frame(env))
            durations.append(milliseconds)
        terminated = say(env, ())[2]
        film.append(_frame(env))
        durations.append(4 * milliseconds)
    save_film(film, durations, out)


def save_film(frames: Sequence[np.ndarray], milliseconds: Sequence[int], out: Path) -> None:
    """Write a GIF with one palette for all frames.

    Args:
        frames: uint8 (H, W, 3) each.
        milliseconds: how long each frame is shown.
        out: the file.
    """
    palette = Image.fromarray(np.concatenate(frames)).quantize(128)
    first, *others = (Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames)
    first.save(out, save_all=True, append_images=others, duration=list(milliseconds), loop=0, optimize=True)


def _frame(env: gym.Env) -> np.ndarray:
    return np.asarray(env.render())


def _reference(env: gym.Env) -> list[int]:
    """Tokens of the first reference of the current sample, within the budget; none where there is no reference."""
    references = env.get_wrapper_attr("view")().sample.references
    tokens = env.get_wrapper_attr("tokenizer").encode(references[0]) if references else []
    return tokens[: _budget(env) - 1]


def _budget(env: gym.Env) -> int:
    assert isinstance(env.observation_space, spaces.Dict)
    shape = env.observation_space["response"].shape
    assert shape is not None
    return shape[0]


def page(ids: Sequence[str], env: gym.Env, pictures: Sequence[Path]) -> str:
    """A Markdown page about ids of one task.

    Args:
        ids: the first one heads the page.
        env: made of the first id.
        pictures: of episodes, beside the page.
    """
    return "\n".join(_lines(ids, env, pictures)) + "\n"


def _lines(ids: Sequence[str], env: gym.Env, pictures: Sequence[Path]) -> Iterator[str]:
    task, tokenizer = env.get_wrapper_attr("task"), env.get_wrapper_attr("tokenizer")
    yield from (f"# {ids[0]}", "")
    yield from (f"![an episode of {ids[0]}]({picture.name})" for picture in pictures)
    yield from ("", inspect.getdoc(type(task)) or "", "")
    yield from ("## Spaces and sizes", "")
    yield from ("```python", "import gymnasium as gym", "import mmenv", "", f'env = gym.make("{ids[0]}")', "```", "")
    yield from ("| | |", "|---|---|")
    yield f"| ids | {', '.join(f'`{name}`' for name in ids)} |"
    yield f"| modalities | {', '.join(task.modalities)} |"
    yield f"| vocabulary | {tokenizer.vocab_size} tokens |"
    yield f"| response | up to {_budget(env)} tokens |"
    yield from (f"| {split} | {task.size(split):,} samples |" for split in task.splits)
    yield from ("", "| key of the observation | space |", "|---|---|")
    assert isinstance(env.observation_space, spaces.Dict)
    yield from (f"| `{key}` | `{space}` |" for key, space in env.observation_space.items())
    yield from ("", f"Actions: `{env.action_space}`.", "", "## Arguments in full", "")
    yield from ("| argument | default | meaning |", "|---|---|---|")
    defaults = defaults_of(spec_of(ids[0]).kwargs["env_id"])
    for name, default, meaning in arguments():
        yield f"| `{name}` | `{defaults.get(name, default)!r}` | {meaning} |"


def arguments() -> Iterator[tuple[str, Any, str]]:
    """Name, default and meaning of every argument, read off the code."""
    for owner, names in (
        (EpisodeSpec, ARGUMENTS),
        (TokenVectorEnv, VECTOR_ONLY),
    ):
        parameters, meanings = inspect.signature(owner).parameters, described(inspect.getdoc(owner) or "")
        for name in names:
            vector = " (`gym.make_vec` only)" if owner is TokenVectorEnv else ""
            yield name, parameters[name].default, meanings[name] + vector


def described(doc: str, section: str = "Args") -> dict[str, str]:
    """Argument -> meaning, from the ``Args`` (or another section) of a docstring."""
    block = doc.partition(f"{section}:\n")[2].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", block, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("``", "`") for name, text in entries}
