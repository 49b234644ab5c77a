"""Files of preference models: a head, and those tensors of the backbone that differ from the parent's."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmenv.models.checkpoints import (
    WeightsError,
    lineage,
    load_pretrained,
    metadata_object,
    read_tensors,
    resolve,
    save_tensors,
    vocabulary_in,
)
from mmenv.models.transformer import Network
from mmenv.tokenizer import WordTokenizer
from mmenv.worlds.vocabulary import world_tokenizer

HEAD, BACKBONE = "head.", "backbone."  # what names of tensors begin with


class Backbone(NamedTuple):
    """A network that preference models begin as, with its tokenizer and its file; nobody trains it."""

    network: Network
    tokenizer: WordTokenizer
    path: Path


def read_backbone(name_or_path: str | Path) -> Backbone:
    """A network by shipped name, by file, or by the folder of a run, whose newest policy it is.

    The same file gives one object within the process.

    Raises:
        WeightsError: there is no such network, or it does not name its words.
    """
    path = Path(name_or_path)
    if path.is_dir():
        policies = path.glob("checkpoint/step-*/policy.safetensors")
        path = max(policies, key=lambda file: int(file.parent.name.removeprefix("step-")), default=path)
        if path.is_dir():
            raise WeightsError(f"{path} is no run with a checkpoint: give a shipped name, a file, or a run's folder")
    path = resolve(path).resolve()
    return _read_backbone(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read_backbone(path: Path, changed: int) -> Backbone:
    """As ``read_backbone``; the time of the last change makes a file that was written again another one."""
    network = load_pretrained(path).requires_grad_(False)
    tokenizer = vocabulary_in(read_tensors(path)[1]) or world_tokenizer()
    if tokenizer.vocab_size != network.config.vocab_size:
        raise WeightsError(
            f"{path} has {network.config.vocab_size} words, the embedded world {tokenizer.vocab_size}, and it does not "
            "name them: give a network of the world, or one that was trained with a learned vocabulary"
        )
    return Backbone(network, tokenizer, path)


def with_decoder_copied(network: Network) -> Network:
    """A network with the same encoders, the very modules, and a decoder of its own."""
    shared = (network.encoders, network.media_position)
    return copy.deepcopy(network, {id(module): module for module in shared})


def own_tensors(head: torch.nn.Module, backbone: Network, parent: Network) -> dict[str, Tensor]:
    """The head, and the backbone's tensors that differ from the parent's."""
    tensors = {HEAD + name: tensor for name, tensor in head.state_dict().items()}
    before = parent.state_dict()
    for name, tensor in backbone.state_dict().items():
        if not torch.equal(tensor, before[name]):
            tensors[BACKBONE + name] = tensor
    return tensors


def restored_backbone(tensors: Mapping[str, Tensor], parent: Network) -> Network:
    """The parent with the tensors of a file in place of its own; the parent itself where the file has none.

    Raises:
        RuntimeError: the tensors are none of the parent's decoder.
    """
    changed = {name.removeprefix(BACKBONE): x for name, x in tensors.items() if name.startswith(BACKBONE)}
    if not changed:
        return parent
    if any(name.startswith(("encoders.", "media_position.")) for name in changed):
        raise RuntimeError("it changes the encoders, which preference models share with their parent")
    network = with_decoder_copied(parent)
    network.load_state_dict({**parent.state_dict(), **changed})
    return network


def save_reward(tensors: Mapping[str, Tensor], parent: Backbone, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write what a reward model has beside its parent, as float16; the parent's own tensors stay in its file."""
    save_tensors({**parent.network.state_dict(), **tensors}, path, metadata, parent.path)


class Saved(NamedTuple):
    """A file of a reward model: its path, its tensors, its settings, and the network that it began as."""

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    parent: Backbone


def read_reward(name_or_path: str | Path, kind: str, noun: str) -> Saved:
    """Saved weights of one kind, ``"preference"`` or ``"ensemble"``.

    Raises:
        WeightsError: the file or its parent is missing, broken or of another kind; the message says it is not ``noun``.
    """
    path = resolve(name_or_path)
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != kind:
        raise WeightsError(f"{path} holds {metadata.get('kind', 'something else')!r}, not {noun}")
    settings, ancestors = metadata_object(metadata, kind, path), lineage(path)
    if len(ancestors) == 1:
        raise WeightsError(f"{path} names no parent in its metadata: make or copy it again")
    return Saved(path, tensors, settings, read_backbone(ancestors[1]))
