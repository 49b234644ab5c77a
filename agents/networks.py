"""The network that a run starts from: shipped weights or a file of them, a model of transformers, or an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents import runs
from agents.config import TrainConfig
from agents.hf_policy import HFConfig, HFNetwork, load_transformers, merged
from mmenv.models.checkpoints import WeightsError, load_pretrained
from mmenv.models.transformer import Network


def load_network(config: TrainConfig, checkpoint: Path | None = None) -> Network | HFNetwork:
    """What ``config.start`` names.

    Args:
        config: of the run that begins.
        checkpoint: of a run that goes on. It has all of a network of ours, so that the weights of the start may be
            gone; of a model of transformers it has what was learned, and the model is read from its folder.

    Raises:
        WeightsError: there is no such network; the message says what to give.
    """
    if config.start and Path(config.start).is_dir():
        return _from_folder(config, Path(config.start))
    if not config.start and not config.task_name:
        raise WeightsError(f"{config.env_id} has no shipped start: say what to start from, start=")
    start = config.start or f"start-{config.task_name}"
    return load_pretrained(checkpoint / "policy.safetensors" if checkpoint else start)


def env_arguments(network: Network | HFNetwork) -> dict[str, Any]:
    """What an environment must know of a network: its tokens, where they are not the task's own."""
    return {"tokenizer": network.tokenizer} if isinstance(network, HFNetwork) else {}


def _from_folder(config: TrainConfig, folder: Path) -> Network | HFNetwork:
    """A model that ``save_pretrained`` wrote, or what a run ended with."""
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{folder} has no config.json: give a folder that save_pretrained wrote, or that of a run")
    if "algorithm" not in runs.read_json(path):
        return load_transformers(_wanted(config, folder, config.image_encoder), config.device)
    checkpoint = runs.newest_checkpoint(folder)
    if checkpoint is None:
        raise WeightsError(f"{folder} is a run without a checkpoint: let it begin first")
    earlier = runs.config_from(path, TrainConfig)
    if not Path(earlier.start).is_dir():
        return load_pretrained(checkpoint / "policy.safetensors")
    network = _from_folder(earlier, Path(earlier.start))
    assert isinstance(network, HFNetwork), "a run from a run of one of our networks has such a network itself"
    network.load_state_dict(runs.load_checkpoint(folder)[0]["policy"])
    return merged(network, _wanted(config, Path(network.config.path), earlier.image_encoder))


def _wanted(config: TrainConfig, folder: Path, image_encoder: str) -> HFConfig:
    return HFConfig(
        str(folder), config.lora_rank, config.dtype, config.gradient_checkpointing, image_encoder, config.seed
    )
