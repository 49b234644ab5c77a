"""A run's folder: what it holds, who may write to it, checkpoints that survive a kill, and how it is read again."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, as_tensor
from torch.optim import Optimizer

import mmenv
from agents.files import INTERRUPTED as INTERRUPTED
from agents.files import RunError as RunError
from agents.files import algorithm_of as algorithm_of
from agents.files import append_line as append_line
from agents.files import explain as explain
from agents.files import named, read_json, sync, write_json
from agents.files import plain as plain
from agents.files import read_field as read_field
from agents.files import read_lines as read_lines
from agents.files import standard as standard
from agents.files import write_lines as write_lines
from agents.policies.protocol import Shape

# All that a run writes into its folder, beside ``checkpoint`` and ``lock``.
FILES = (
    "config.json", "metrics.jsonl", "samples.jsonl", "samples", "summary.json", "evaluations.json", "curves.png",
    "samples.png", "tensorboard", "model.zip", "start.safetensors",
)  # fmt: skip
# What the results of a run depend on.
PACKAGES = (
    "torch", "numpy", "gymnasium", "pillow", "soundfile", "transformers", "tokenizers", "peft", "accelerate",
    "stable-baselines3", "sb3-contrib",
)  # fmt: skip


# Who writes.


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder, which is made where there is none.

    The lock goes with the process, whatever ends it. A writer that leaves nothing leaves no folder either.

    Raises:
        RunError: another process writes there.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(folder):
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    if [path.name for path in folder.iterdir()] == ["lock"]:
                        (folder / "lock").unlink()
    finally:
        with contextlib.suppress(OSError):  # not empty, or gone
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    path = folder / "lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder} is in use: another process writes there; let it end, or give another --out"
            ) from None
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise RunError(f"{folder} was removed by another process at this moment: try again")
        yield


def check_room(folder: Path, overwrite: bool) -> None:
    """Refuse a folder in which a new run would destroy something.

    Raises:
        RunError: the folder holds a run, or judgements of one; the message says what may be done.
    """
    if newest_checkpoint(folder) is not None or (folder / "summary.json").is_file():
        if not overwrite:
            raise RunError(f"{folder} holds a run: --resume {folder} goes on with it, --overwrite begins anew there")
        if (folder / "feedback.db").is_file():
            raise RunError(f"{folder}/feedback.db holds judgements of that run's samples: give another --out")


def begin(folder: Path, overwrite: bool, config: Mapping[str, Any]) -> None:
    """Forget a folder's earlier run and write down a new one's settings; what is not a run's own stays.

    Raises:
        RunError: as of ``check_room``.
    """
    check_room(folder, overwrite)
    # First of all: were the folder's earlier run still there, a resume could take its weights for this one's.
    remove_checkpoints(folder)
    write_json(folder / "config.json", config)
    for name in FILES[1:]:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# Checkpoints.


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    networks: Mapping[str, Any] | None = None,
    vocabulary: Mapping[str, str] | None = None,
    keep: Collection[int] = (),
) -> None:
    """Write ``folder/checkpoint/step-N``: a kill at any moment leaves the last one or the new one whole.

    A step that is there already is not written again: nothing has been learned since.

    Args:
        folder: of the run.
        step: number of updates.
        tensors: one safetensors file for each name.
        state: everything else, as JSON.
        networks: shapes of those of ``tensors`` that are networks, so that ``load_pretrained`` reads their files.
        vocabulary: metadata of their words, where these were learned from the data.
        keep: earlier steps that stay; all others go.
    """
    home = folder / "checkpoint"
    home.mkdir(exist_ok=True)  # without parents: a folder that was renamed meanwhile is not made again
    for leftover in home.glob("*.tmp"):
        shutil.rmtree(leftover)
    path, new = home / f"step-{step}", home / f"step-{step}.tmp"
    if not path.exists():
        new.mkdir()
        try:
            _write_checkpoint(new, tensors, state, networks or {}, vocabulary or {})
        except OSError:
            shutil.rmtree(new, ignore_errors=True)  # on a full disk it takes the room of others
            raise
        new.rename(path)
        sync(home)
    for other, old in _steps(folder).items():
        if other not in (step, *keep):
            gone = old.with_name(f"{old.name}.tmp")
            old.rename(gone)  # at once: none is ever there in part
            shutil.rmtree(gone)


def _write_checkpoint(
    new: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    networks: Mapping[str, Any],
    vocabulary: Mapping[str, str],
) -> None:
    """Fill a folder with the files of a checkpoint and have them reach the disk."""
    for name, group in tensors.items():
        path = new / f"{name}.safetensors"
        about = {**network_metadata(networks[name]), **vocabulary} if name in networks else None
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in group.items()}, path, about)
        except SafetensorError as error:
            found = re.search(r"\(os error (\d+)\)", str(error))
            code = int(found[1]) if found else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error
    with named(new):
        (new / "state.json").write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
        checksums = {path.name: _checksum(path) for path in sorted(new.iterdir())}
        (new / "checksums.json").write_text(json.dumps(checksums, indent=1), encoding="utf-8")
        for path in new.iterdir():
            sync(path)
        sync(new)


def network_metadata(config: Shape) -> dict[str, str]:
    """What makes a safetensors file one that ``load_pretrained`` reads, where it holds one of our networks."""
    return {"kind": config.kind, "config": json.dumps(dataclasses.asdict(config))}


def _steps(folder: Path) -> dict[int, Path]:
    """Checkpoints by number of updates."""
    home = folder / "checkpoint"
    paths = home.iterdir() if home.is_dir() else ()  # a folder that cannot be read is an error, and no empty one
    found = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in paths)
    return {int(match[1]): path for match, path in found if match}


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run; None before the first."""
    steps = _steps(folder)
    return steps[max(steps)] if steps else None


def remove_checkpoints(folder: Path) -> None:
    """Forget all checkpoints of a run, at once."""
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


def policy_of(folder: Path) -> Path:
    """The weights that a run has learned so far.

    Raises:
        FileNotFoundError: there are none yet.
        RunError: the file is missing or damaged.
    """
    path = newest_checkpoint(folder)
    if path is None:
        raise FileNotFoundError(f"{folder} is a run without a checkpoint: let it begin first")
    _checked(path, "policy.safetensors")
    return path / "policy.safetensors"


def _checked(path: Path, *names: str) -> list[str]:
    """Names of a checkpoint's files, all or some, each as it was written.

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
    remedy = f"delete {path} to go on from {newest.name}" if newest else "or begin anew with --overwrite"
    raise RunError(f"{file} {fault}; copy it from a backup, {'or ' * bool(newest)}{remedy}")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_metrics(path: Path, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``; training hangs on none of them, so ``report`` is told of one that is damaged."""
    rows = []
    for row in read_lines(path, report):
        numbers = all(value is None or type(value) in (int, float) for value in row.values())
        if numbers and all(type(row.get(name)) is int for name in ("update", "tokens")):
            rows.append(row)
        else:
            report(f"{path}: a row that is no row of metrics is left out: {json.dumps(row)[:200]}")
    return rows


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


# What a run was.


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "mmenv": mmenv.__version__}
    for name in PACKAGES:
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
