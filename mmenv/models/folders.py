"""Folders that ``save_pretrained`` of transformers wrote, read without running or fetching anything.

No code of a folder is run (``trust_remote_code=False``, without a question on the terminal), only safetensors are read
as weights, and every fault of a folder is a ``WeightsError``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmenv.arguments import require
from mmenv.models.checkpoints import WeightsError

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


def installed(name: str) -> Any:
    """A module of the extra ``hf``.

    Raises:
        ModuleNotFoundError: it is missing; the message has the command that installs it.
    """
    with require("hf"):
        return importlib.import_module(name)


def read_config(folder: Path) -> Any:
    """The configuration of a folder's model.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} has no config.json: give a folder that save_pretrained wrote")
    return _read("AutoConfig", folder)


def read_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    return _read("AutoTokenizer", folder)


def read_processor(folder: Path) -> Any:
    """The folder's processor where the model has one, else its tokenizer.

    Raises:
        WeightsError: there is neither, or it cannot be read.
    """
    return _read("AutoProcessor", folder)


def _read(auto_class: str, folder: Path) -> Any:
    """What an ``Auto`` class of transformers reads from a folder."""
    kind = getattr(installed("transformers"), auto_class)
    with refused(folder):
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def read_model(kind: Any, folder: Path, unread: str = "", **more: Any) -> Any:
    """The folder's model, in evaluation mode.

    Args:
        kind: an ``Auto`` class of transformers, or one of its models.
        folder: with the weights, as safetensors.
        unread: part of the names of weights that are not used; the folder may lack them, and they are random then.
        **more: ``dtype``.

    Raises:
        WeightsError: weights are missing, of another shape or format, or cannot be read.
    """
    _check_files(folder)
    with refused(folder):
        model, report = kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
            **more,
        )  # fmt: skip
    missing = sorted(key for key in report["missing_keys"] if not (unread and unread in key))
    if missing:
        raise WeightsError(f"{folder} lacks {missing[:3]}: train the head and save the model with it")
    return model.eval()


@contextlib.contextmanager
def refused(what: Path | str) -> Iterator[None]:
    """Raise ``WeightsError``, one sentence, for whatever fails while transformers reads ``what``."""
    try:
        yield
    except WeightsError:
        raise
    # Folders are other people's files: readers fail in any way, and tokenizers raises bare Exceptions.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise WeightsError(f"{what} cannot be read ({type(error).__name__}: {reason}): save it again") from error


def _check_files(folder: Path) -> None:
    """Refuse what transformers would read beside the folder's safetensors."""
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(
            f"{folder} holds adapters, and no model: merge them into theirs (merge_and_unload) and save it"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
        remedy = "load it where you trust it, and save it with save_pretrained(..., safe_serialization=True)"
        raise WeightsError(
            f"{folder} has {pickles[0]} and no safetensors, and pickled weights are not opened: {remedy}"
            if pickles
            else f"{folder} has no *.safetensors: save the model there with save_pretrained"
        )
    if not (folder / INDEX).is_file():
        return
    with refused(folder):
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    outside = sorted(s for s in map(str, shards) if Path(s).name != s or not s.endswith(".safetensors"))
    missing = sorted(s for s in shards - set(outside) if not (folder / s).is_file())
    if outside or missing:
        raise WeightsError(
            f"{folder / INDEX} names {(outside or missing)[0]!r}, which is no file of the folder: copy it again"
        )
