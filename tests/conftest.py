"""Toy tasks for every test, ``toy/Colours-v0``, ``toy/Talk-v0``, ``toy/Unknown-v0``, paid by gold; a tiny network."""

from __future__ import annotations

import os
import signal
import tempfile

import gymnasium as gym
import pytest
import torch
from toys import Colours, Talk, Unknown, characters

import mmenv

_cache = tempfile.TemporaryDirectory(prefix="mmenv-cache-")  # tests leave the user's own cache alone
os.environ["MMENV_CACHE"] = _cache.name

# Tests compute little at a time and several run at once: more threads would spend their time waiting for each other.
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
torch.set_num_threads(1)

# What a shell began in the background ignores Ctrl-C, and so would the runs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

mmenv.register("toy/Colours-v0", Colours, reward="gold")
mmenv.register("toy/Talk-v0", Talk, reward="gold")
mmenv.register("toy/Unknown-v0", Unknown, reward=characters)


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> str:
    """Weights of a tiny network for ``mmenv/VQA-v0``, as a command line names them."""
    from mmenv.models.checkpoints import save_network
    from mmenv.models.transformer import Network, NetworkConfig

    torch.manual_seed(0)
    vocab = int(gym.make("mmenv/VQA-v0", reward="gold").action_space.n)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(Network(NetworkConfig(vocab_size=vocab, width=32, layers=1, heads=2)), path)
    return str(path)


@pytest.fixture(scope="session")
def reward_model(start, tmp_path_factory) -> str:
    """An untrained preference model that begins as ``start``, by its path: for tests that need no judgement of it."""
    from mmenv.rewards.preference.files import read_backbone
    from mmenv.rewards.preference.model import PreferenceModel

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("rewards") / "untrained.safetensors"
    PreferenceModel(read_backbone(start)).save(path)
    return str(path)
