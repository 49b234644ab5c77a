"""What a run starts from: shipped weights or a file of them, a model of transformers, or an earlier run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from gymnasium import spaces

from agents.files import read_json
from agents.policies.protocol import AnyNetwork
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.loading import load_transformers, merged
from agents.policies.transformers.network import HFNetwork
from agents.settings.ids import START, id_and_split, shipped_start
from agents.settings.saved import read_settings
from agents.settings.shared import TrainConfig
from agents.training import checkpoints
from mmenv.arguments import one_of
from mmenv.envs.episode import EpisodeSpec
from mmenv.models.checkpoints import WeightsError, read_tensors, resolve, vocabulary_in
from mmenv.models.starting import start_network
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer
from mmenv.worlds.vocabulary import world_tokenizer


class Start(NamedTuple):
    """What a run starts from.

    Attributes:
        tokenizer: vocabulary of the start; None: that of the environment's task.
        network: makes the network, from the id and the specification of the environment.
    """

    tokenizer: Tokenizer | None
    network: Callable[[str, EpisodeSpec], AnyNetwork]

    def env_arguments(self, dataset: str | None = None) -> dict[str, Any]:
        """Arguments of an environment that the network fits: dataset (None: the embedded world) and tokenizer."""
        arguments: dict[str, Any] = {} if dataset is None else {"dataset": dataset}
        return arguments if self.tokenizer is None else {**arguments, "tokenizer": self.tokenizer}


def find_start(config: TrainConfig, checkpoint: Path | None = None) -> Start:
    """What ``config.start`` names.

    Args:
        config: of the run that begins.
        checkpoint: of a run that goes on. For our networks a checkpoint is complete, and the start's weights may be
            gone. For models of transformers it holds the trained weights only; the base is read from its folder again.

    Raises:
        WeightsError: there is no such start; the message says what to give.
    """
    model = _transformers(config)
    if model is not None:
        return Start(model.tokenizer, lambda env_id, spec: model)
    reason = f"start={config.start!r} is no model of transformers"
    for message in config.without_effect(reason, "lora_rank", "dtype", "gradient_checkpointing", "image_encoder"):
        raise WeightsError(message)
    if checkpoint is not None:
        return weights_start(checkpoint / "policy.safetensors")
    if config.start is not None and Path(config.start).is_dir():
        return weights_start(checkpoints.policy_of(Path(config.start)))
    return weights_start(config.start, config.starts_any_task)


def weights_start(name: str | Path | None = None, for_any_task: bool = False) -> Start:
    """Weights of one of our networks.

    Args:
        name: a shipped name or a path; None takes the shipped start.
        for_any_task: whether a task of one's own in the world's vocabulary takes it too; otherwise ``network`` refuses.

    Raises:
        WeightsError: there are no such weights.
    """

    def shipped(env_id: str, spec: EpisodeSpec) -> str:
        return START if for_any_task or spec.tokenizer != world_tokenizer() else shipped_start(env_id)

    def network(env_id: str, spec: EpisodeSpec) -> AnyNetwork:
        observations = cast(dict[str, spaces.Box], spec.observation_space.spaces)
        audio = observations["audio"].shape[0] if "audio" in observations else 0
        return start_network(
            name or shipped(env_id, spec), spec.tokenizer, observations["prompt"].shape[0], spec.budget, audio
        )

    return Start(None if name is None else vocabulary_in(read_tensors(resolve(name))[1]), network)


def _transformers(config: TrainConfig) -> HFNetwork | None:
    """The model of a ``save_pretrained`` folder, or of a run that began with one; None where our weights are named.

    Raises:
        WeightsError: the folder holds neither a model nor a run, or settings do not fit it.
    """
    if config.start is None or not Path(config.start).is_dir():
        return None
    folder = Path(config.start)
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{folder} has no config.json: give a folder that save_pretrained wrote, or that of a run")
    if "algorithm" not in read_json(path):
        return load_transformers(_model_config(config, folder, config.image_encoder), config.device)
    checkpoints.policy_of(folder)  # refuses a run that has learned nothing yet
    earlier = read_settings(path, TrainConfig, complete=False)
    network = _transformers(earlier)
    if network is None:
        return None
    if config.image_encoder not in (None, earlier.image_encoder):
        raise WeightsError(
            f"image_encoder={config.image_encoder!r} has no effect ({folder} has learned with "
            f"{earlier.image_encoder or 'none'!r}): leave out --image-encoder"
        )
    network.load_trained_state(checkpoints.load_checkpoint(folder)[0]["policy"])
    return merged(network, _model_config(config, Path(network.config.path), earlier.image_encoder))


def _model_config(config: TrainConfig, folder: Path, image_encoder: str | None) -> HFConfig:
    if config.train_encoder:
        raise WeightsError(f"train_encoder=True: the encoders of {folder} cannot be trained, leave it out")
    return HFConfig(
        str(folder), config.lora_rank, config.dtype, config.gradient_checkpointing, image_encoder, config.seed
    )


def check_splits(config: TrainConfig, task: Task) -> None:
    """Refuse a split of an evaluation that does not exist or is empty.

    Raises:
        ValueError: names the setting and the split.
    """
    for entry in config.also:
        one_of("also", id_and_split(entry, config.final_split)[1], task.splits)
    used = {"final_split": config.eval_episodes > 0, "eval_split": config.eval_every is not None}
    for name, needed in used.items():
        split = one_of(name, getattr(config, name), task.splits)
        if needed and not task.size(split):
            raise ValueError(f"{name}={split!r}: the dataset has no samples for it, give another")
