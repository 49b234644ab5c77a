"""The environments' ids as a table of data, and ``register`` for a task of one's own."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym

from mmenv.envs.setup import ArgumentError, ArgumentTypeError, refuse_unknown
from mmenv.envs.token_env import TokenEnv
from mmenv.envs.token_vector_env import VECTOR_ARGUMENTS, TokenVectorEnv
from mmenv.tasks.base import Task

ENTRY = "mmenv.registration:make_env"


class Row(NamedTuple):
    """Where the task of an id lives, and which variant of it is meant."""

    module: str
    task: str
    variant: str


TABLE = {
    "mmenv/VQA-v0": Row("mmenv.tasks.vqa", "VQA", "plain"),
    "mmenv/VQAHard-v0": Row("mmenv.tasks.vqa", "VQA", "hard"),
    "mmenv/VQAShifted-v0": Row("mmenv.tasks.vqa", "VQA", "shifted"),
    "mmenv/Captioning-v0": Row("mmenv.tasks.captioning", "Captioning", "plain"),
    "mmenv/CaptioningHard-v0": Row("mmenv.tasks.captioning", "Captioning", "hard"),
    "mmenv/CaptioningShifted-v0": Row("mmenv.tasks.captioning", "Captioning", "shifted"),
    "mmenv/SpokenDialogue-v0": Row("mmenv.tasks.spoken_dialogue", "SpokenDialogue", "plain"),
    "mmenv/SpokenDialogueHard-v0": Row("mmenv.tasks.spoken_dialogue", "SpokenDialogue", "hard"),
    "mmenv/SpokenDialogueShifted-v0": Row("mmenv.tasks.spoken_dialogue", "SpokenDialogue", "shifted"),
}
# Tasks of users, by id, with the defaults they were registered with. Gymnasium copies what stands in a spec deeply, so
# datasets and reward functions stay here and a spec stays plain.
_OWN: dict[str, tuple[Callable[..., Task], dict[str, Any]]] = {}


def task_of(env_id: str) -> Callable[..., Task]:
    """What makes the task of an id: a function of dataset, image_size and tokenizer.

    Raises:
        ArgumentError: no such id.
    """
    if env_id in _OWN:
        return _OWN[env_id][0]
    if env_id not in TABLE:
        raise ArgumentError(f"no environment {env_id!r}: take one of {[*TABLE, *_OWN]}")
    row = TABLE[env_id]
    return functools.partial(getattr(importlib.import_module(row.module), row.task), variant=row.variant)


def own(env_id: str) -> str:
    """An id of the table or of ``register``; where none is registered under it, ``gym.make`` says so better.

    Args:
        env_id: also ``"package:namespace/Name-v0"``, whose package is imported.

    Raises:
        ArgumentError: the id is somebody else's: its environment is none of token responses.
    """
    package, _, name = env_id.rpartition(":")
    if package:
        importlib.import_module(package)
    if name in gym.registry and gym.registry[name].entry_point != ENTRY:
        remedy = "python -m mmenv list shows which there are, and mmenv.register adds a task of your own"
        raise ArgumentError(f"{env_id} is no environment of mmenv: {remedy}")
    return env_id


def make_env(env_id: str, **arguments: Any) -> TokenEnv:
    """Entry point of every id."""
    _, defaults = _OWN.get(env_id, (None, {}))
    # Defaults that only the vector env knows do not concern this one.
    defaults = {k: v for k, v in defaults.items() if k not in ("autoreset_mode", "copy", "max_episode_steps")}
    return TokenEnv(task_of(env_id), **(defaults | arguments))


def make_vector_env(env_id: str, num_envs: int = 1, **arguments: Any) -> TokenVectorEnv:
    """Vector entry point of every id."""
    _, defaults = _OWN.get(env_id, (None, {}))
    return TokenVectorEnv(task_of(env_id), num_envs, **(defaults | arguments))


# Gymnasium reads the render modes off an entry point, and wraps for "human" where it finds "rgb_array".
make_env.metadata = TokenEnv.metadata  # type: ignore[attr-defined]


def register(env_id: str, task: Callable[..., Task], **defaults: Any) -> None:
    """Register a task of one's own, for ``gym.make`` and ``gym.make_vec``.

    Args:
        env_id: ``"namespace/Name-v0"``.
        task: a ``Task`` subclass, or a function of (dataset, image_size, tokenizer).
        **defaults: arguments of the environment, for example ``reward="gold"``.

    Raises:
        ArgumentError: ``task`` makes no task, or a default is no argument of an environment.
    """
    if isinstance(task, Task) or not callable(task):
        raise ArgumentTypeError(f"task={task!r} makes no task: give a Task subclass or a function that returns a Task")
    refuse_unknown("register", defaults, VECTOR_ARGUMENTS)
    _OWN[env_id] = (task, defaults)
    _register(env_id)


def _register(env_id: str) -> None:
    gym.register(
        env_id,
        entry_point=ENTRY,
        vector_entry_point="mmenv.registration:make_vector_env",
        kwargs={"env_id": env_id},
    )


def register_all() -> None:
    """Register the table's ids, once."""
    for env_id in TABLE:
        if env_id not in gym.registry:
            _register(env_id)
