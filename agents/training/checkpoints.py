"""Checkpoints of a run: saving, finding, verifying by checksums, and pruning."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, as_tensor
from torch.optim import Optimizer

from agents.distributed.processes import RankLost
from agents.files import RunError, named, read_json, sync
from agents.policies.protocol import Shape


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    networks: Mapping[str, Any] | None = None,
    vocabulary: Mapping[str, str] | None = None,
    keep: Collection[int] = (),
    constant: Collection[str] = (),
) -> None:
    """Write ``folder/checkpoint/step-N``: a kill at any moment leaves the last one or the new one complete.

    A step that is there already is not written again: nothing has been learned since.

    Args:
        folder: of the run.
        step: number of updates.
        tensors: one safetensors file for each name.
        state: everything else, as JSON.
        networks: shapes of those of ``tensors`` that are networks, so that ``load_pretrained`` reads their files.
        vocabulary: metadata of their words, where these were learned from the data.
        keep: earlier steps that stay; all others go.
        constant: those of ``tensors`` that never change in a run: written once, then linked from step to step.
    """
    home = folder / "checkpoint"
    home.mkdir(exist_ok=True)  # without parents: a folder that was renamed meanwhile is not made again
    for leftover in home.glob("*.tmp"):
        shutil.rmtree(leftover)
    path, new = home / f"step-{step}", home / f"step-{step}.tmp"
    if not path.exists():
        previous = newest_checkpoint(folder)
        new.mkdir()
        try:
            linked = _link(previous, new, constant) if previous else {}
            _write_checkpoint(new, tensors, state, networks or {}, vocabulary or {}, linked)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)  # on a full disk it takes the room of others
            raise
        new.rename(path)
        sync(home)
    for other, old in _steps(folder).items():
        if other not in (step, *keep):
            gone = old.with_name(f"{old.name}.tmp")
            old.rename(gone)  # at once, so that no checkpoint is ever incomplete
            shutil.rmtree(gone)


def _write_checkpoint(
    new: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    networks: Mapping[str, Any],
    vocabulary: Mapping[str, str],
    linked: Mapping[str, str],
) -> None:
    """Fill a folder with the files of a checkpoint, but for the ``linked`` ones, and have them reach the disk."""
    for name, group in tensors.items():
        if f"{name}.safetensors" in linked:
            continue
        path = new / f"{name}.safetensors"
        about = {**network_metadata(networks[name]), **vocabulary} if name in networks else None
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in group.items()}, path, about)
        except SafetensorError as error:
            match = re.search(r"\(os error (\d+)\)", str(error))
            code = int(match[1]) if match else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error
    with named(new):
        (new / "state.json").write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
        checksums = {path.name: linked.get(path.name) or _checksum(path) for path in sorted(new.iterdir())}
        (new / "checksums.json").write_text(json.dumps(checksums, indent=1), encoding="utf-8")
        for path in new.iterdir():
            sync(path)
        sync(new)


def _link(previous: Path, new: Path, names: Collection[str]) -> dict[str, str]:
    """Link files of the previous checkpoint into a new one; their checksums, by file, as they were first written."""
    if not (previous / "checksums.json").is_file():
        return {}
    checksums = read_json(previous / "checksums.json")
    linked = {}
    for name in (f"{name}.safetensors" for name in names):
        with contextlib.suppress(OSError):  # a file system without links: it is written again
            os.link(previous / name, new / name)
            linked[name] = str(checksums[name])
    return linked


def network_metadata(config: Shape) -> dict[str, str]:
    """What makes a safetensors file one that ``load_pretrained`` reads, where it holds one of our networks."""
    return {"kind": config.kind, "config": json.dumps(dataclasses.asdict(config))}


def _steps(folder: Path) -> dict[int, Path]:
    """Checkpoints by number of updates."""
    home = folder / "checkpoint"
    paths = home.iterdir() if home.is_dir() else ()  # a folder that cannot be read is an error, not an empty one
    matches = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in paths)
    return {int(match[1]): path for match, path in matches if match}


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run; None before the first."""
    steps = _steps(folder)
    return steps[max(steps)] if steps else None


def remove_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a run, at once."""
    home, gone = folder / "checkpoint", folder / "checkpoint.tmp"
    shutil.rmtree(gone, ignore_errors=True)
    if home.exists():
        home.rename(gone)
        shutil.rmtree(gone)


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The newest checkpoint of a run.

    Raises:
        FileNotFoundError: there is none; the message says how runs are begun.
        RunError: a file of it is missing or damaged.
    """
    path = newest_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint: begin the run with --out {folder}, without --resume")
    return read_checkpoint(path)


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file, and the state, of a checkpoint.

    Raises:
        RunError: a file of it is missing or damaged.
    """
    names = _checked(path)
    tensors = {Path(name).stem: load_file(path / name) for name in names if name.endswith(".safetensors")}
    return tensors, read_json(path / "state.json")


@contextlib.contextmanager
def fits(checkpoint: Path | None, folder: Path) -> Iterator[None]:
    """Report errors of restoring a checkpoint as one that does not fit the run's settings; None restores none.

    Raises:
        RunError: the checkpoint does not fit.
    """
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        if checkpoint is None or isinstance(error, RankLost):
            raise
        reason = str(error).splitlines()[0]
        raise RunError(
            f"{checkpoint} does not fit {folder}/config.json ({type(error).__name__}: {reason}): copy both from one "
            "backup, or start again with --overwrite"
        ) from error


def policy_of(folder: Path) -> Path:
    """The file of the policy in the newest checkpoint of a run.

    Raises:
        FileNotFoundError: there are none yet.
        RunError: the file is missing or damaged.
    """
    path = newest_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(f"{folder} is a run without a checkpoint: wait until it has begun")
    _checked(path, "policy.safetensors")
    return path / "policy.safetensors"


def _checked(path: Path, *names: str) -> list[str]:
    """Verify files of a checkpoint, all or some; returns the names of all.

    Raises:
        RunError: one is missing or damaged.
    """
    home = path / "checksums.json"
    if not home.is_file():
        _refuse(home, "is missing")
    try:
        checksums = read_json(home)
    except RunError:
        _refuse(home, "is damaged")
    for name in names or ("policy.safetensors", "state.json", *checksums):
        file = path / name
        if Path(name).name != name or not file.is_file():
            _refuse(file, "is missing")
        if _checksum(file) != checksums.get(name):
            _refuse(file, "is damaged: its checksum differs")
    return list(checksums)


def _refuse(file: Path, fault: str) -> NoReturn:
    path, folder = file.parent, file.parent.parent.parent
    older = [step for step in _steps(folder).values() if step != path]
    newest = max(older, key=lambda step: int(step.name.removeprefix("step-")), default=None)
    remedy = f"delete {path} to go on from {newest.name}" if newest else "or start again with --overwrite"
    raise RunError(f"{file} {fault}; copy it from a backup, {'or ' * bool(newest)}{remedy}")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts as named tensors."""
    states = optimiser.state_dict()["state"]
    return {f"{i}.{name}": as_tensor(value) for i, state in states.items() for name, value in state.items()}


def restore_optimiser(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put ``optimiser_tensors`` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
