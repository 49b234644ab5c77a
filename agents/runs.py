"""A run's folder: what it holds, checkpoints that survive a kill at any moment, and how it is read again."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mmenv
from mmenv.models.transformer import NetworkConfig

INTERRUPTED = 130  # the exit of a run that was, as a shell reports it


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    _replace(path, json.dumps(value, indent=1, allow_nan=False))


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def plain(value: Any) -> Any:
    """A value as JSON would give it back."""
    return json.loads(json.dumps(value))


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines anew, all or none."""
    _replace(path, "".join(json.dumps(row) + "\n" for row in rows))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    _sync(temporary)
    temporary.replace(path)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(
    folder: Path,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    networks: Mapping[str, Any] | None = None,
    vocabulary: Mapping[str, str] | None = None,
) -> None:
    """Write ``folder/checkpoint`` anew: a kill at any moment leaves the old one or the new one whole.

    Args:
        folder: of the run.
        tensors: one safetensors file for each name.
        state: everything else, as JSON.
        networks: shapes of those of ``tensors`` that are networks, so that ``load_pretrained`` reads their files.
        vocabulary: metadata of their words, where these were learned from the data.
    """
    new, current, old = (folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    if not (current / "complete").is_file() and newest_checkpoint(folder) is not None:
        # An earlier kill came between two renames: the only whole one must not be in the way.
        shutil.rmtree(current, ignore_errors=True)
        newest_checkpoint(folder).rename(current)  # type: ignore[union-attr]
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name, group in tensors.items():
        metadata = {**network_metadata(networks[name]), **(vocabulary or {})} if networks and name in networks else None
        save_file({k: v.detach().cpu().contiguous() for k, v in group.items()}, new / f"{name}.safetensors", metadata)
    (new / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for path in new.iterdir():
        _sync(path)
    # The marker comes last: a folder without it is half written.
    (new / "complete").touch()
    _sync(new)
    shutil.rmtree(old, ignore_errors=True)
    if current.exists():
        current.rename(old)
    new.rename(current)
    _sync(folder)
    shutil.rmtree(old, ignore_errors=True)


def network_metadata(config: Any) -> dict[str, str]:
    """What makes a safetensors file one that ``load_pretrained`` reads, where it holds one of our networks."""
    kind = "network" if isinstance(config, NetworkConfig) else "what a transformers model learned"
    return {"kind": kind, "config": json.dumps(dataclasses.asdict(config))}


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; None before the first."""
    paths = (folder / name for name in ("checkpoint", "checkpoint.new", "checkpoint.old"))
    return next((path for path in paths if (path / "complete").is_file()), None)


def make_room(folder: Path, overwrite: bool) -> None:
    """Ready a folder for a new run: without ``overwrite`` nothing is lost, and judgements keep their samples anyway.

    Raises:
        ValueError: the folder holds a run, or judgements of one; the message says what may be done.
    """
    if newest_checkpoint(folder) is not None or (folder / "summary.json").is_file():
        if not overwrite:
            raise ValueError(f"{folder} holds a run: --resume {folder} goes on with it, --overwrite begins anew there")
        if (folder / "feedback.db").is_file():
            raise ValueError(f"{folder}/feedback.db holds judgements of that run's samples: give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    # First of all: were the folder's earlier run still there, a resume could take its weights for this one's.
    remove_checkpoints(folder)
    for name in ("metrics.jsonl", "samples.jsonl", "summary.json", "curves.png", "samples.png"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    """Forget an earlier run in the same folder."""
    for name in ("checkpoint.old", "checkpoint.new", "checkpoint"):
        shutil.rmtree(folder / name, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The newest whole checkpoint of a run.

    Raises:
        FileNotFoundError: there is none; the message says how runs are begun.
    """
    path = newest_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint: begin the run with --out {folder}, without --resume")
    tensors = {p.stem: load_file(p) for p in path.glob("*.safetensors")}
    return tensors, json.loads((path / "state.json").read_text(encoding="utf-8"))


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts as named tensors."""
    states = optimiser.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, state in states.items() for name, value in state.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put ``optimiser_tensors`` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add one JSON line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole JSON lines; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("torch", "numpy", "gymnasium", "stable-baselines3")
    found = {"python": platform.python_version(), "mmenv": mmenv.__version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, with a plus sign where files differ from it; None outside a checkout."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def algorithm_of(folder: Path) -> str:
    """What a folder's run is, by its ``config.json``.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: begin a run there with --out {folder}")
    return str(json.loads(path.read_text(encoding="utf-8"))["algorithm"])


def config_from(path: Path, cls: type) -> Any:
    """The dataclass ``cls`` as a run's ``config.json`` has it."""
    fields = {f.name for f in dataclasses.fields(cls)}
    given = json.loads(path.read_text(encoding="utf-8"))
    # JSON has no tuples, which is what sequences of settings are.
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in fields})
