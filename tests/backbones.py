"""Small untrained networks that preference models begin as."""

from __future__ import annotations

from pathlib import Path

import torch

from mmenv.models.checkpoints import save_network
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.rewards.preference.files import Backbone, read_backbone
from mmenv.worlds.vocabulary import world_tokenizer


def small_backbone(folder: Path, **sizes: int) -> Backbone:
    """An untrained network of the world's words, saved in a folder as small.safetensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(NetworkConfig(world_tokenizer().vocab_size, **{"width": 32, "layers": 1, **sizes}))
    save_network(network, folder / "small.safetensors")
    return read_backbone(folder / "small.safetensors")
