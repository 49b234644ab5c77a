"""The environments' ids as a table of data, and ``register`` for a task of one's own."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, parse_env_id

from mmenv.arguments import ArgumentError, ArgumentTypeError, refuse_unknown
from mmenv.envs.episode import ARGUMENTS
from mmenv.envs.task_arguments import make_task
from mmenv.envs.token_env import TokenEnv
from mmenv.envs.token_vector_env import VECTOR_ARGUMENTS, TokenVectorEnv
from mmenv.tasks.base import Task

TASK_ARGUMENTS = ("dataset", "image_size", "tokenizer", "level", "shift")
HARD: dict[str, Any] = {"level": "hard"}
# The split test, since the others are never shifted: with them a Shifted id would mislead its users.
SHIFTED: dict[str, Any] = {"shift": 1.0, "split": "test"}
GOLD: dict[str, Any] = {"reward": "gold"}  # no preference model is shipped for the task
ENTRY, VECTOR_ENTRY = "mmenv.registration:make_env", "mmenv.registration:make_vector_env"


class Row(NamedTuple):
    """Module and class of an id's task, and its defaults of arguments."""

    module: str
    task: str
    defaults: dict[str, Any]


TABLE = {
    "mmenv/VQA-v0": Row("mmenv.tasks.vqa", "VQA", {}),
    "mmenv/VQAHard-v0": Row("mmenv.tasks.vqa", "VQA", HARD),
    "mmenv/VQAShifted-v0": Row("mmenv.tasks.vqa", "VQA", SHIFTED),
    "mmenv/Captioning-v0": Row("mmenv.tasks.captioning", "Captioning", {}),
    "mmenv/CaptioningHard-v0": Row("mmenv.tasks.captioning", "Captioning", HARD),
    "mmenv/CaptioningShifted-v0": Row("mmenv.tasks.captioning", "Captioning", SHIFTED),
    "mmenv/SpokenDialogue-v0": Row("mmenv.tasks.spoken_dialogue", "SpokenDialogue", {}),
    "mmenv/SpokenDialogueHard-v0": Row("mmenv.tasks.spoken_dialogue", "SpokenDialogue", HARD),
    "mmenv/SpokenDialogueShifted-v0": Row("mmenv.tasks.spoken_dialogue", "SpokenDialogue", SHIFTED),
    "mmenv/Guess-v0": Row("mmenv.tasks.guess", "Guess", GOLD),
    "mmenv/GuessHard-v0": Row("mmenv.tasks.guess", "Guess", GOLD | HARD),
    "mmenv/GuessShifted-v0": Row("mmenv.tasks.guess", "Guess", GOLD | SHIFTED),
}
# Registered tasks of users by id, with their defaults. Gymnasium deep-copies specs, so datasets and reward functions
# stay here and a spec holds plain values only.
_USER_TASKS: dict[str, tuple[Callable[..., Task], dict[str, Any]]] = {}


def spec_of(env_id: str, foreign: bool = False) -> EnvSpec:
    """Look up the spec of an id; every command and function that takes an id uses this.

    Args:
        env_id: an id of the table or of ``register``; ``"package:namespace/Name-v0"`` imports the package first.
        foreign: whether to accept environments that are not mmenv's, too.

    Raises:
        ArgumentError: the package cannot be imported, the id is unknown (the message names the nearest one), or it is
            not an environment of mmenv.
    """
    if not isinstance(env_id, str):
        raise ArgumentTypeError(f"env_id={env_id!r} is not a string: give an id such as 'mmenv/VQA-v0'")
    package, colon, name = env_id.rpartition(":")
    if colon:
        import_module(package, f"id {env_id!r}")
    if name not in gym.registry:
        nearest = _nearest(name)
        advice = f"did you mean {package}{colon}{nearest}? " if nearest else ""
        unlisted = "" if colon else "; an id of your own is package:namespace/Name-v0, and its package is imported"
        raise ArgumentError(f"no environment {env_id!r}: {advice}`python -m mmenv list` shows all{unlisted}")
    spec = gym.registry[name]
    if spec.entry_point != ENTRY and not foreign:
        remedy = "python -m mmenv list shows which there are, and mmenv.register adds a task of your own"
        raise ArgumentError(f"{env_id} is not an environment of mmenv: {remedy}")
    return spec


def import_module(name: str, where: str) -> Any:
    """Import a module that a person named on a command line.

    Args:
        name: dotted, from the top: no leading dots.
        where: the context of the name, for the error, such as ``"id 'lighter:mine/Side-v0'"``.

    Raises:
        ArgumentError: ``name`` cannot be a module, or it or something that it imports is missing.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ArgumentError(f"{where}: {name!r} is not the name of a module: write it as in an import statement")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArgumentError(
            f"{where}: {name!r} cannot be imported ({error}): put its folder on PYTHONPATH, or install what it needs"
        ) from error


def _nearest(name: str) -> str | None:
    """The id of mmenv that is closest to a misspelt one, ignoring case, then namespace and version; or None."""
    ids = [env_id for env_id, spec in gym.registry.items() if spec.entry_point == ENTRY]
    for key_of in (str.lower, _bare):
        candidates = {key_of(env_id): env_id for env_id in ids}
        if matches := difflib.get_close_matches(key_of(name), candidates, 1, cutoff=0.75):
            return candidates[matches[0]]
    return None


def _bare(env_id: str) -> str:
    """``vqa`` of ``mmenv/VQA-v0``."""
    return env_id.rpartition("/")[2].partition("-v")[0].lower()


def task_of(env_id: str) -> Callable[..., Task]:
    """The function of (dataset, image_size, tokenizer) that makes the task of an id.

    Raises:
        ArgumentError: see ``spec_of``.
    """
    name = spec_of(env_id).kwargs["env_id"]
    if name in _USER_TASKS:
        return _USER_TASKS[name][0]
    row = TABLE[name]
    task: Callable[..., Task] = getattr(importlib.import_module(row.module), row.task)
    return task


def default_task(env_id: str) -> Task:
    """The task of an id with the dataset, image size and tokenizer that it was registered with.

    Raises:
        ArgumentError: see ``spec_of``.
    """
    spec = spec_of(env_id)
    defaults = defaults_of(spec.kwargs["env_id"]) | spec.kwargs
    return make_task(task_of(env_id), **{name: defaults[name] for name in TASK_ARGUMENTS if name in defaults})


def defaults_of(name: str) -> dict[str, Any]:
    """The default arguments of a registered id."""
    if name in _USER_TASKS:
        return _USER_TASKS[name][1]
    return TABLE[name].defaults if name in TABLE else {}


def user_ids() -> list[str]:
    """The ids that ``register`` added, in their order."""
    return list(_USER_TASKS)


def make_env(env_id: str, **arguments: Any) -> TokenEnv:
    """Entry point of every id."""
    # Defaults that only the vector environment takes are left out.
    defaults = {k: v for k, v in defaults_of(env_id).items() if k in ARGUMENTS}
    return TokenEnv(task_of(env_id), **(defaults | arguments))


def make_vector_env(env_id: str, num_envs: int = 1, **arguments: Any) -> TokenVectorEnv:
    """Vector entry point of every id."""
    return TokenVectorEnv(task_of(env_id), num_envs, **(defaults_of(env_id) | arguments))


def make_unwrapped(env_id: str, **arguments: Any) -> TokenEnv:
    """``gym.make`` without Gymnasium's wrappers, for integrations that read the environment's own attributes.

    Raises:
        ArgumentError: see ``spec_of``.
    """
    env: Any = gym.make(spec_of(env_id), **arguments).unwrapped
    return env


# Gymnasium reads the render modes from the entry point, and wraps for "human" if there is "rgb_array".
make_env.metadata = TokenEnv.metadata  # type: ignore[attr-defined]


def register(env_id: str, task: Callable[..., Task], **defaults: Any) -> None:
    """Register your own task for ``gym.make`` and ``gym.make_vec``.

    Args:
        env_id: ``"namespace/Name-v0"``.
        task: a ``Task`` subclass, or a function of (dataset, image_size, tokenizer).
        **defaults: arguments of the environment, for example ``reward="gold"``.

    Raises:
        ArgumentError: ``env_id`` lacks namespace or version, or names a package; ``task`` cannot make a task; or a
            default is not an argument of an environment.
    """
    if isinstance(task, Task) or not callable(task):
        raise ArgumentTypeError(
            f"task={task!r} cannot make a task: give a Task subclass or a function that returns a Task"
        )
    refuse_unknown("register", defaults, VECTOR_ARGUMENTS)
    _check_new_id(env_id)
    if ":" in env_id:
        raise ArgumentError(f"env_id={env_id!r} names a package: register {env_id.rpartition(':')[2]!r} without it")
    _register(env_id)
    _USER_TASKS[env_id] = (task, defaults)


def _check_new_id(env_id: Any) -> None:
    """Refuse an id without namespace or version, which Gymnasium itself would take."""
    try:
        namespace, _, version = parse_env_id(env_id.rpartition(":")[2])
    except (gym.error.Error, AttributeError):
        namespace = version = None
    if namespace is None or version is None:
        raise ArgumentError(f"env_id={env_id!r} is not an id: give namespace/Name-v0, such as 'mine/Squares-v0'")


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
