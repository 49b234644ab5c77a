"""Saving and loading networks: safetensors with the shape in the file's metadata, nothing pickled."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

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


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in float32 and the metadata of a file.

    Raises:
        WeightsError: the file is truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k).float() for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}): make or copy it again") from error


def save_network(network: Network, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``network`` as float16 with its configuration."""
    config = json.dumps(dataclasses.asdict(network.config))
    tensors = {k: v.detach().half().contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, path, {"kind": "network", "config": config, **(metadata or {})})


VOCABULARIES: dict[str, type[WordTokenizer]] = {c.__name__: c for c in (WordTokenizer, UnicodeTokenizer)}


def vocabulary_metadata(tokenizer: Tokenizer) -> dict[str, str]:
    """A learned vocabulary as metadata of the weights that speak it; nothing for other tokenizers."""
    if not isinstance(tokenizer, UnicodeTokenizer):
        return {}
    return {"vocabulary": json.dumps({"kind": type(tokenizer).__name__, "words": tokenizer.words[3:]})}


def vocabulary_in(metadata: Mapping[str, str]) -> WordTokenizer | None:
    """The vocabulary that came with weights; None where there is none, as in all shipped ones."""
    if "vocabulary" not in metadata:
        return None
    told = json.loads(metadata["vocabulary"])
    return VOCABULARIES[told["kind"]](told["words"])


def build(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Network:
    """The network that ``tensors`` and ``metadata`` describe.

    Raises:
        WeightsError: they do not fit together.
    """
    if "config" not in metadata:
        raise WeightsError(f"{path} has no network configuration in its metadata: save it with save_network")
    fields = json.loads(metadata["config"])
    fields["modalities"] = tuple(fields["modalities"])
    network = Network(NetworkConfig(**fields))
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit its own configuration: {error}") from error
    return network.eval()


def load_pretrained(name_or_path: str | Path) -> Network:
    """A network by shipped name (``"base"``, ``"start-vqa"``, ...) or by path, float32, in eval mode.

    Raises:
        WeightsError: the file is missing, broken or of another kind; the message says which names exist.
    """
    path = resolve(name_or_path)
    tensors, metadata = read(path)
    if metadata.get("kind") != "network":
        raise WeightsError(f"{path} holds {metadata.get('kind', 'something else')!r}, not a network")
    return build(tensors, metadata, path)
