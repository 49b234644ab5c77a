"""What a run starts from: shipped weights or a file of them, a model of transformers, or an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents.policies.transformers.network import HFConfig, HFNetwork, load_transformers, merged
from agents.settings.bounds import changed
from agents.settings.shared import TrainConfig
from agents.training import run_folder
from mmenv.envs.setup import Setup
from mmenv.models.checkpoints import WeightsError, read, resolve, vocabulary_in
from mmenv.models.starting import start_network
from mmenv.models.transformer import Network
from mmenv.worlds.scenes import world_tokenizer

Origin = HFNetwork | Path | str


def find_start(config: TrainConfig, checkpoint: Path | None = None) -> Origin:
    """What ``config.start`` names: a loaded model of transformers, or where weights of one of our networks are.

    Args:
        config: of the run that begins.
        checkpoint: of a run that goes on. It has all of a network of ours, so that the weights of the start may be
            gone; of a model of transformers it has what was learned, and the model is read from its folder.

    Returns:
        the model, or name or path of weights, ``""`` where none are named.

    Raises:
        WeightsError: there is no such start; the message says what to give.
    """
    named = _in_folder(config, Path(config.start)) if config.start and Path(config.start).is_dir() else config.start
    if not isinstance(named, HFNetwork):
        why = f"start={config.start!r} is no model of transformers"
        for told in changed(config, why, "lora_rank", "dtype", "gradient_checkpointing", "image_encoder"):
            raise WeightsError(told)
    return checkpoint / "policy.safetensors" if checkpoint and not isinstance(named, HFNetwork) else named


def env_arguments(dataset: str, origin: Origin) -> dict[str, Any]:
    """Arguments of the environment: the dataset, and the vocabulary of the start where that is not the task's own.

    Args:
        dataset: ``""`` for the embedded world.
        origin: what the run starts from.
    """
    given: dict[str, Any] = {"dataset": dataset} if dataset else {}
    if isinstance(origin, HFNetwork):
        return {**given, "tokenizer": origin.tokenizer}
    vocabulary = vocabulary_in(read(resolve(origin))[1]) if origin else None
    return given if vocabulary is None else {**given, "tokenizer": vocabulary}


def network_of(origin: Origin, task: str, setup: Setup) -> Network | HFNetwork:
    """The network that learns: the model, that of weights, of the task's shipped start, or for other words the base.

    Args:
        origin: what the run starts from.
        task: name of the task in shipped weights.
        setup: of the environment.
    """
    if isinstance(origin, HFNetwork):
        return origin
    shipped = f"start-{task}" if setup.tokenizer == world_tokenizer() or not task else "base"
    spaces = setup.observation_space.spaces
    audio = spaces["audio"].shape[0] if "audio" in spaces else 0  # type: ignore[index]
    width = spaces["prompt"].shape[0]  # type: ignore[index]
    return start_network(origin or shipped, setup.tokenizer, width, setup.budget, audio)


def _in_folder(config: TrainConfig, folder: Path) -> HFNetwork | Path:
    """A model that ``save_pretrained`` wrote, or what a run ended with."""
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{folder} has no config.json: give a folder that save_pretrained wrote, or that of a run")
    if "algorithm" not in run_folder.read_json(path):
        return load_transformers(_wanted(config, folder, config.image_encoder), config.device)
    weights = run_folder.policy_of(folder)
    earlier = run_folder.config_from(path, TrainConfig, whole=False)
    named = find_start(earlier)
    if not isinstance(named, HFNetwork):
        return weights
    if config.image_encoder not in ("", earlier.image_encoder):
        raise WeightsError(
            f"image_encoder={config.image_encoder!r} has no effect ({folder} has learned with "
            f"{earlier.image_encoder or 'none'!r}): leave out --image-encoder"
        )
    named.load_state_dict(run_folder.load_checkpoint(folder)[0]["policy"])
    return merged(named, _wanted(config, Path(named.config.path), earlier.image_encoder))


def _wanted(config: TrainConfig, folder: Path, image_encoder: str) -> HFConfig:
    if config.train_encoder:
        raise WeightsError(f"train_encoder=True: the towers of {folder} stay as they are, leave it out")
    return HFConfig(
        str(folder), config.lora_rank, config.dtype, config.gradient_checkpointing, image_encoder, config.seed
    )
