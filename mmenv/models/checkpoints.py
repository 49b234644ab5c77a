"""Saving and loading networks: safetensors with the shape in the file's metadata, nothing pickled.

A file may name a parent in its metadata: ``"parent"`` is a shipped name, or a path relative to the file's folder. It
then holds only the tensors that differ from its parent's, and ``lineage`` tells what it descends from.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmenv.models.transformer import Network, NetworkConfig
from mmenv.tokenizer import Tokenizer, UnicodeTokenizer, WordTokenizer

PRETRAINED = Path(__file__).parent / "pretrained"


class WeightsError(ValueError):
    """A weights file that is missing, broken, or of another kind."""


def shipped() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(p.stem for p in PRETRAINED.glob("*.safetensors"))


def resolve(name_or_path: str | Path) -> Path:
    """A shipped name or a path -> the file.

    Raises:
        WeightsError: neither.
    """
    inside = PRETRAINED / f"{name_or_path}.safetensors"
    path = inside if inside.is_file() else Path(name_or_path)
    if not path.is_file():
        raise WeightsError(
            f"no weights {str(name_or_path)!r}: give one of {shipped()} or the path of a .safetensors file"
        )
    return path


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in float32 and the metadata of one file, without its parents."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k).float() for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}): make or copy it again") from error


def _parent_of(path: Path, metadata: Mapping[str, str]) -> Path | None:
    """The file that holds the tensors that ``path`` lacks."""
    name = metadata.get("parent")
    if name is None:
        return None
    inside = PRETRAINED / f"{name}.safetensors"
    parent = inside if inside.is_file() else path.parent / name
    if Path(name).is_absolute() or not parent.is_file():
        raise WeightsError(
            f"{path} holds what differs from its parent {name!r}, which is neither one of {shipped()} nor a file "
            f"relative to {path.parent}: copy the parent there, too"
        )
    return parent


def _chain(path: Path) -> list[tuple[Path, dict[str, Tensor], dict[str, str]]]:
    """A file and its parents, the nearest first, each with its own tensors and metadata.

    Raises:
        WeightsError: one of them is missing or broken, or a file is its own ancestor.
    """
    chain: list[tuple[Path, dict[str, Tensor], dict[str, str]]] = []
    at: Path | None = path
    while at is not None:
        if any(at.samefile(other) for other, _, _ in chain):
            names = " -> ".join(str(other) for other, _, _ in chain)
            raise WeightsError(f"{at} is its own ancestor ({names} -> {at}): save one of them without a parent")
        tensors, metadata = _read_file(at)
        chain.append((at, tensors, metadata))
        at = _parent_of(at, metadata)
    return chain


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file in float32, with those that it takes from its parents, and its metadata.

    Raises:
        WeightsError: the file is truncated or not safetensors, a parent is missing, or a file is its own ancestor.
    """
    chain = _chain(path)
    tensors: dict[str, Tensor] = {}
    for _, some, _ in reversed(chain):
        tensors |= some
    return tensors, chain[0][2]


def lineage(name_or_path: str | Path) -> list[str]:
    """What weights descend from: their own name, their parent's, and so on; a path where a file is not shipped.

    Raises:
        WeightsError: a file of the chain is missing or broken, or one is its own ancestor.
    """
    paths = [path for path, _, _ in _chain(resolve(name_or_path))]
    return [path.stem if path.parent == PRETRAINED else str(path) for path in paths]


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    metadata: Mapping[str, str],
    parent: str | Path | None = None,
) -> None:
    """Write tensors as float16; those that equal the parent's are left out.

    Args:
        tensors: by name.
        path: the file.
        metadata: of the file.
        parent: a shipped name or a path; its name, or its path relative to the file's folder, goes into the metadata.

    Raises:
        WeightsError: there is no such parent, it holds tensors that are not among ``tensors``, or it is the file.
    """
    path, fields = Path(path), dict(metadata)
    halves = {name: tensor.detach().half().contiguous().cpu() for name, tensor in tensors.items()}
    if parent is not None:
        origin = resolve(parent)
        inherited, _ = read_tensors(origin)
        lacking = sorted(inherited.keys() - halves.keys())
        if lacking or origin.resolve() == path.resolve():
            raise WeightsError(f"{origin} is no parent of {path}: it is the same file, or has {lacking[:3]} besides")
        shared = [name for name, tensor in inherited.items() if torch.equal(tensor.half(), halves[name])]
        for name in shared:
            del halves[name]
        is_shipped = origin.parent == PRETRAINED
        fields["parent"] = origin.stem if is_shipped else os.path.relpath(origin.resolve(), path.parent.resolve())
    save_file(halves, path, fields)


def save_network(
    network: Network,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    parent: str | Path | None = None,
) -> None:
    """Write ``network`` as float16 with its configuration; of a ``parent``'s tensors only those that changed.

    Raises:
        WeightsError: see ``save_tensors``.
    """
    config = json.dumps(dataclasses.asdict(network.config))
    save_tensors(network.state_dict(), path, {"kind": "network", "config": config, **(metadata or {})}, parent)


VOCABULARIES: dict[str, type[WordTokenizer]] = {c.__name__: c for c in (WordTokenizer, UnicodeTokenizer)}


def vocabulary_metadata(tokenizer: Tokenizer) -> dict[str, str]:
    """A learned vocabulary as metadata of weights; empty for other tokenizers."""
    if not isinstance(tokenizer, UnicodeTokenizer):
        return {}
    return {"vocabulary": json.dumps({"kind": type(tokenizer).__name__, "words": tokenizer.words[3:]})}


def vocabulary_in(metadata: Mapping[str, str]) -> WordTokenizer | None:
    """The vocabulary in the metadata of weights; None where there is none, as in all shipped ones.

    Raises:
        WeightsError: it is broken.
    """
    if "vocabulary" not in metadata:
        return None
    fields = metadata_object(metadata, "vocabulary", "the weights")
    kind, words = fields.get("kind"), fields.get("words")
    if kind not in VOCABULARIES or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise WeightsError(
            f"the vocabulary of the weights has kind {kind!r}, none of {list(VOCABULARIES)}, or no words"
        )
    try:
        return VOCABULARIES[kind](words)
    except ValueError as error:
        raise WeightsError(f"the vocabulary of the weights is broken: {error}") from error


def metadata_object(metadata: Mapping[str, str], key: str, path: Path | str) -> dict[str, Any]:
    """The JSON object under a key of a file's metadata.

    Raises:
        WeightsError: there is none, or it is no object.
    """
    if key not in metadata:
        raise WeightsError(f"{path} has no {key!r} in its metadata: make or copy it again")
    try:
        fields = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} has a broken {key!r} in its metadata ({error}): make or copy it again") from error
    if not isinstance(fields, dict):
        raise WeightsError(f"{path} has {type(fields).__name__} for {key!r} in its metadata, no object: make it again")
    return fields


def build(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Network:
    """The network that ``tensors`` and ``metadata`` describe.

    Raises:
        WeightsError: they do not fit together.
    """
    config = _network_config(metadata_object(metadata, "config", path), tensors, path)
    try:
        network = Network(config)
        network.load_state_dict(dict(tensors))
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} does not fit its own configuration: {reason}") from error
    return network.eval()


def _network_config(fields: dict[str, Any], tensors: Mapping[str, Tensor], path: Path) -> NetworkConfig:
    """The configuration, checked: its fields, their types, and no number that is larger than the file."""
    allowed = {f.name: f for f in dataclasses.fields(NetworkConfig)}
    required = {name for name, f in allowed.items() if f.default is dataclasses.MISSING}
    different = sorted((fields.keys() - allowed.keys()) | (required - fields.keys()))
    if different:
        raise WeightsError(f"{path} lacks or adds {different[:3]} in its configuration: make or copy it again")
    modalities = fields.get("modalities", ())
    if not isinstance(modalities, list | tuple) or not all(isinstance(m, str) for m in modalities):
        raise WeightsError(f"{path} has modalities={modalities!r} in its configuration, no list of names")
    numbers = {name: value for name, value in fields.items() if name != "modalities"}
    # A width is a row and a column of matrices, all other sizes are rows of it: nothing larger than the file is made.
    most, width = sum(tensor.numel() for tensor in tensors.values()), numbers.get("width", NetworkConfig.width)
    for name, value in numbers.items():
        sized = 1 if name in ("pad_id", "heads", "image_side") else width
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value * sized <= most:
            raise WeightsError(
                f"{path} has {name}={value!r} in its configuration, which its {most} numbers do not hold: copy it again"
            )
    return NetworkConfig(**{**numbers, "modalities": tuple(modalities)})


def load_pretrained(name_or_path: str | Path) -> Network:
    """A network by shipped name (``"start"``, ``"encoders"``) or by path, float32, in eval mode.

    Raises:
        WeightsError: the file is missing, broken or of another kind; the message says which names exist.
    """
    path = resolve(name_or_path)
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != "network":
        raise WeightsError(f"{path} holds {metadata.get('kind', 'something else')!r}, not a network")
    return build(tensors, metadata, path)
