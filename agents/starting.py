"""What a run on data of one's own begins with: the words of its weights, and a network that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmenv.data.world import world_tokenizer
from mmenv.envs.setup import Setup
from mmenv.models.checkpoints import read, resolve, vocabulary_in
from mmenv.models.starting import start_network
from mmenv.models.transformer import Network


def data_arguments(dataset: str, weights: str | Path) -> dict[str, Any]:
    """Arguments of the environment: the dataset, and the vocabulary that the weights learned, so that it stays.

    Args:
        dataset: ``""`` for the embedded world.
        weights: to go on from, a shipped name or a path; ``""`` begins anew.
    """
    given: dict[str, Any] = {"dataset": dataset} if dataset else {}
    vocabulary = vocabulary_in(read(resolve(weights))[1]) if weights else None
    return given if vocabulary is None else {**given, "tokenizer": vocabulary}


def starting_network(weights: str | Path, task: str, setup: Setup) -> Network:
    """The network that learns: that of the weights, of the task's shipped start, or for other words the shipped base.

    Args:
        weights: a shipped name or a path; ``""`` where none are given.
        task: name of the task in shipped weights.
        setup: of the environment.
    """
    shipped = f"start-{task}" if setup.tokenizer == world_tokenizer() or not task else "base"
    spaces = setup.observation_space.spaces
    audio = spaces["audio"].shape[0] if "audio" in spaces else 0  # type: ignore[index]
    width = spaces["prompt"].shape[0]  # type: ignore[index]
    return start_network(weights or shipped, setup.tokenizer, width, setup.budget, audio)
