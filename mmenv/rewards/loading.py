"""Finds a reward function by name, path or server address: ``resolve_reward`` for a task, ``load_reward`` for a file.

``NAMES`` and ``SERVERS`` are the tables of all names and of all kinds of servers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from mmenv.arguments import ArgumentError, ArgumentTypeError
from mmenv.rewards.base import GoldReward, RewardFunction
from mmenv.rewards.metrics.references import METRICS, reference_reward
from mmenv.tasks.base import Task

MODELS_IN_MEMORY = 16  # reward models and servers that a process keeps for its environments
SHIPPED_KINDS = {"preference": "strong", "preference-weak": "weak"}  # the shipped file is KIND-TASK


def resolve_reward(reward: str | Path | RewardFunction, task: Task) -> RewardFunction:
    """The reward function of a task from what a user passes as ``reward``; models are shared within the process.

    Args:
        reward: a name of ``NAMES``, the path of a .safetensors file or of a transformers model's folder, the address of
            a server, or a function, which is returned.
        task: rewards by name read its gold, its references or its name.

    Raises:
        ArgumentError: ``reward`` is none of these; the message lists the accepted values.
        WeightsError: a file or a folder holds no reward model.
    """
    if callable(reward):
        return reward
    remedy = (
        f"give one of {list(NAMES)}, the path of a .safetensors file or of a model's folder, the address of a reward "
        "server, or a function"
    )
    if not isinstance(reward, str | Path):
        raise ArgumentTypeError(f"reward={reward!r} is not a reward: {remedy}")
    if reward in NAMES:
        return NAMES[str(reward)](str(reward), task)
    if is_server(str(reward)):
        return _shared_server(str(reward))
    path = Path(reward)
    if path.suffix != ".safetensors" and not path.is_dir():
        raise ArgumentError(f"reward={str(reward)!r} is unknown: {remedy}")
    if not path.exists():
        raise ArgumentError(f"reward={str(reward)!r}: there is no file of this name, {remedy}")
    # The time of the last change is a part of the key, so that a file that was written again is loaded again.
    return _shared_model(str(path), path.stat().st_mtime_ns)


def load_reward(name_or_path: str | Path) -> RewardFunction:
    """A preference model or an ensemble by shipped name or path, or a transformers model by its folder.

    Raises:
        WeightsError: the file is missing, broken or of another kind.
        MissingExtraError: a folder is given and transformers is missing.
    """
    if Path(name_or_path).is_dir():
        from mmenv.rewards.judges.classifier import load_classifier

        return load_classifier(name_or_path)
    from mmenv.models.checkpoints import read_tensors, resolve
    from mmenv.rewards.preference.ensemble import load_ensemble
    from mmenv.rewards.preference.model import load_preference_model

    if read_tensors(resolve(name_or_path))[1].get("kind") == "ensemble":
        return load_ensemble(name_or_path)
    return load_preference_model(name_or_path)


@functools.lru_cache(maxsize=MODELS_IN_MEMORY)
def _shared_model(name_or_path: str, changed: int) -> RewardFunction:
    return load_reward(name_or_path)


def _shipped_model(name: str, task: Task) -> RewardFunction:
    from mmenv.models.checkpoints import shipped

    file = f"{SHIPPED_KINDS[name]}-{task.name}"
    if file not in shipped():
        raise ArgumentError(
            f"reward={name!r}: no preference model is shipped for the task {task.name!r}: give reward='gold' if the "
            "task knows the truth, the path of a model that `python -m mmenv train-reward` wrote, or a function"
        )
    return _shared_model(file, 0)


def _gold(name: str, task: Task) -> RewardFunction:
    return GoldReward(task.gold)


NAMES: dict[str, Callable[[str, Task], RewardFunction]] = {
    **dict.fromkeys(SHIPPED_KINDS, _shipped_model),
    "gold": _gold,
    **dict.fromkeys(METRICS, reference_reward),
}


def is_server(reward: str) -> bool:
    """Whether a text is the address of a reward server, such as ``http://gpu:8766`` or ``vllm+http://gpu/score``."""
    kind, address = _split_kind(reward)
    return kind in SERVERS and address.startswith(("http://", "https://"))


def reward_of_url(url: str) -> RewardFunction:
    """The reward behind an address.

    ``http(s)://`` is a server of mmenv, ``vllm+http(s)://.../score`` and ``.../pooling`` are vLLM's, and
    ``openai+http(s)://.../v1`` is a judge with the default rubric. The query sets the numbers of ``RequestPolicy`` and
    the options of the kind, as in ``http://gpu:8766?patience=60``; for other arguments use the classes in Python. It
    cannot hold a token, because runs save the address.

    Raises:
        ValueError: the address has another form, or its query sets something else.
    """
    kind, address = _split_kind(url)
    server = SERVERS[kind]
    address, _, query = address.partition("?")
    return server.make(address, _settings(url, query, server.options))


@functools.lru_cache(maxsize=MODELS_IN_MEMORY)
def _shared_server(url: str) -> RewardFunction:
    return reward_of_url(url)


def _split_kind(url: str) -> tuple[str, str]:
    """``"vllm+http://gpu"`` -> ``("vllm", "http://gpu")``; the kind of an address without one is ``""``."""
    kind, plus, address = url.partition("+")
    return (kind, address) if plus and kind and kind in SERVERS else ("", url)


def _mmenv_server(address: str, settings: dict[str, Any]) -> RewardFunction:
    from mmenv.rewards.remote.client import RemoteReward

    return RemoteReward(address, **settings)


def _vllm_server(address: str, settings: dict[str, Any]) -> RewardFunction:
    from mmenv.rewards.remote.endpoints import VLLMPooling, VLLMScore

    base, _, endpoint = address.rstrip("/").rpartition("/")
    classes: dict[str, Callable[..., RewardFunction]] = {"score": VLLMScore, "pooling": VLLMPooling}
    if endpoint not in classes:
        raise ValueError(
            f"reward='vllm+{address}' is not an endpoint of vLLM: give vllm+http://HOST:PORT/score or /pooling"
        )
    return classes[endpoint](base, **settings)


def _chat_judge(address: str, settings: dict[str, Any]) -> RewardFunction:
    from mmenv.rewards.remote.endpoints import ChatJudge

    return ChatJudge(address, **settings)


def _settings(url: str, query: str, options: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The numbers of ``RequestPolicy`` and the options that a query sets."""
    from mmenv.rewards.remote.client import RequestPolicy

    numbers = {f.name: type(f.default) for f in dataclasses.fields(RequestPolicy) if f.name not in SECRETS}
    readers: dict[str, Callable[[str], Any]] = {**options, **numbers}
    try:
        return {name: readers[name](value) for name, value in parse_qsl(query, True, True)}
    except (KeyError, ValueError) as error:
        raise ValueError(f"reward={url!r} sets {error}: give numbers or names for {', '.join(readers)}") from error


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader of values that takes ``none`` as None."""
    return lambda text: None if text == "none" else read(text)


SECRETS = ("token", "variable")  # fields of RequestPolicy that an address may not set


class Server(NamedTuple):
    """A kind of server: what makes its reward from address and settings, and the query's options with their readers."""

    make: Callable[[str, dict[str, Any]], RewardFunction]
    options: dict[str, Callable[[str], Any]]


# Kinds of servers by the prefix before the ``+`` of an address; "" is mmenv's own.
SERVERS = {
    "": Server(_mmenv_server, {"batch_size": int}),
    "vllm": Server(_vllm_server, {"model": str}),
    "openai": Server(
        _chat_judge,
        {
            "model": str,
            "attempts": int,
            "temperature": _or_none(float),
            "max_tokens": _or_none(int),
            "max_completion_tokens": _or_none(int),
            "on_refusal": _or_none(float),
        },
    ),
}
