"""A run's folder: what it holds, checkpoints that survive a kill at any moment, and how it is read again."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def save_checkpoint(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write ``folder/checkpoint`` anew: a kill leaves the old one or the new one whole."""
    new, current, old = (folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name, group in tensors.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in group.items()}, new / f"{name}.safetensors")
    (new / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for path in new.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    # The marker comes last: a folder without it is half written.
    (new / "complete").touch()
    shutil.rmtree(old, ignore_errors=True)
    if current.exists():
        current.rename(old)
    new.rename(current)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The newest whole checkpoint of a run.

    Raises:
        FileNotFoundError: there is none; the message says how runs are begun.
    """
    for name in ("checkpoint", "checkpoint.new", "checkpoint.old"):
        path = folder / name
        if (path / "complete").is_file():
            tensors = {p.stem: load_file(p) for p in path.glob("*.safetensors")}
            return tensors, json.loads((path / "state.json").read_text(encoding="utf-8"))
    raise FileNotFoundError(f"{folder} holds no checkpoint: begin the run with --out {folder}, without --resume")


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
    names = ("mmenv", "torch", "numpy", "gymnasium", "stable-baselines3")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The checkout's commit, with a plus sign where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        name = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changed else "")


def config_from(path: Path, cls: type) -> Any:
    """The dataclass ``cls`` as a run's ``config.json`` has it."""
    fields = {f.name for f in dataclasses.fields(cls)}
    given = json.loads(path.read_text(encoding="utf-8"))
    return cls(**{k: v for k, v in given.items() if k in fields})
