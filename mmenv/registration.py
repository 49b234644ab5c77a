"""The environments' ids as a table of data, and ``register`` for a task of one's own."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from mmenv.arguments import ArgumentError, ArgumentTypeError, refuse_unknown
from mmenv.envs.setup import ARGUMENTS, make_task
from mmenv.envs.token_env import TokenEnv
from mmenv.envs.token_vector_env import VECTOR_ARGUMENTS, TokenVectorEnv
from mmenv.tasks.base import Task

ENTRY, VECTOR_ENTRY = "mmenv.registration:make_env", "mmenv.registration:make_vector_env"


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


def spec_of(env_id: str, foreign: bool = False) -> EnvSpec:
    """The spec of an id as a person writes it: every command and function that takes an id looks it up here.

    Args:
        env_id: an id of the table or of ``register``; ``"package:namespace/Name-v0"`` imports the package first.
        foreign: whether ids of other packages, whose environments are not made by mmenv, are accepted too.

    Raises:
        ArgumentError: the package cannot be imported, no such id is registered (the message names the nearest one), or
            it is foreign.
    """
    if not isinstance(env_id, str):
        raise ArgumentTypeError(f"env_id={env_id!r} is no string: give an id such as 'mmenv/VQA-v0'")
    package, colon, name = env_id.rpartition(":")
    if colon:
        import_module(package, f"id {env_id!r}")
    if name not in gym.registry:
        meant = _nearest(name)
        advice = f"did you mean {package}{colon}{meant}? " if meant else ""
        unlisted = "" if colon else "; an id of your own is package:namespace/Name-v0, and its package is imported"
        raise ArgumentError(f"no environment {env_id!r}: {advice}`python -m mmenv list` shows all{unlisted}")
    spec = gym.registry[name]
    if spec.entry_point != ENTRY and not foreign:
        remedy = "python -m mmenv list shows which there are, and mmenv.register adds a task of your own"
        raise ArgumentError(f"{env_id} is no environment of mmenv: {remedy}")
    return spec


def import_module(name: str, where: str) -> Any:
    """Import a module that a person named on a command line.

    Args:
        name: dotted, from the top: no leading dots.
        where: what the name stood in, for the error, such as ``"id 'lighter:mine/Side-v0'"``.

    Raises:
        ArgumentError: ``name`` is no name of a module, or it or something that it imports is missing.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ArgumentError(f"{where}: {name!r} is no name of a module: give one as an import statement has it")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArgumentError(
            f"{where}: {name!r} cannot be imported ({error}): put its folder on PYTHONPATH, or install what it needs"
        ) from error


def _nearest(name: str) -> str | None:
    """The id of mmenv that a misspelt one probably means, whatever its case, namespace and version."""
    ids = [env_id for env_id, spec in gym.registry.items() if spec.entry_point == ENTRY]
    for part in (str.lower, _bare):
        known = {part(env_id): env_id for env_id in ids}
        if near := difflib.get_close_matches(part(name), known, 1, cutoff=0.75):
            return known[near[0]]
    return None


def _bare(env_id: str) -> str:
    """``vqa`` of ``mmenv/VQA-v0``."""
    return env_id.rpartition("/")[2].partition("-v")[0].lower()


def task_of(env_id: str) -> Callable[..., Task]:
    """What makes the task of an id: a function of dataset, image_size and tokenizer.

    Raises:
        ArgumentError: see ``spec_of``.
    """
    name = spec_of(env_id).kwargs["env_id"]
    if name in _OWN:
        return _OWN[name][0]
    row = TABLE[name]
    return functools.partial(getattr(importlib.import_module(row.module), row.task), variant=row.variant)


def default_task(env_id: str) -> Task:
    """The task of an id with the dataset, image size and tokenizer that it was registered with.

    Raises:
        ArgumentError: see ``spec_of``.
    """
    spec = spec_of(env_id)
    defaults = defaults_of(spec.kwargs["env_id"]) | spec.kwargs
    return make_task(task_of(env_id), *(defaults.get(name) for name in ("dataset", "image_size", "tokenizer")))


def defaults_of(name: str) -> dict[str, Any]:
    """The arguments that a registered id has of its own.

    Shifted ids show their test split, the only one that is shifted: a Shifted id that showed the plain pictures of the
    train split would mislead whoever trains on it or looks at it.
    """
    if name in _OWN:
        return _OWN[name][1]
    return {"split": "test"} if name in TABLE and TABLE[name].variant == "shifted" else {}


def own_ids() -> list[str]:
    """The ids that ``register`` added, in order."""
    return list(_OWN)


def make_env(env_id: str, **arguments: Any) -> TokenEnv:
    """Entry point of every id."""
    # Defaults that only the vector env knows do not concern this one.
    defaults = {k: v for k, v in defaults_of(env_id).items() if k in ARGUMENTS}
    return TokenEnv(task_of(env_id), **(defaults | arguments))


def make_vector_env(env_id: str, num_envs: int = 1, **arguments: Any) -> TokenVectorEnv:
    """Vector entry point of every id."""
    return TokenVectorEnv(task_of(env_id), num_envs, **(defaults_of(env_id) | arguments))


# Gymnasium reads the render modes off an entry point, and wraps for "human" where it finds "rgb_array".
make_env.metadata = TokenEnv.metadata  # type: ignore[attr-defined]


def register(env_id: str, task: Callable[..., Task], **defaults: Any) -> None:
    """Register a task of one's own, for ``gym.make`` and ``gym.make_vec``.

    Args:
        env_id: ``"namespace/Name-v0"``.
        task: a ``Task`` subclass, or a function of (dataset, image_size, tokenizer).
        **defaults: arguments of the environment, for example ``reward="gold"``.

    Raises:
        ArgumentError: ``env_id`` is no id, ``task`` makes no task, or a default is no argument of an environment.
    """
    if isinstance(task, Task) or not callable(task):
        raise ArgumentTypeError(f"task={task!r} makes no task: give a Task subclass or a function that returns a Task")
    refuse_unknown("register", defaults, VECTOR_ARGUMENTS)
    if ":" in env_id:
        raise ArgumentError(f"env_id={env_id!r} names a package: register {env_id.rpartition(':')[2]!r} without it")
    _register(env_id)
    _OWN[env_id] = (task, defaults)


def _register(env_id: str) -> None:
    gym.register(
        env_id,
        entry_point=ENTRY,
        vector_entry_point=VECTOR_ENTRY,
        kwargs={"env_id": env_id},
    )


def register_all() -> None:
    """Register the table's ids, once."""
    for env_id in TABLE:
        if env_id not in gym.registry:
            _register(env_id)
