"""The folder of a run: what it holds, who writes to it, and what its results depend on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import mmenv
from agents.files import RunError, read_lines, write_json
from agents.training.checkpoints import newest_checkpoint, remove_checkpoints

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
    """Lock a folder for this process, and create it where there is none.

    The lock ends with the process. A folder that is created and stays empty is removed again.

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
    """Refuse a folder in which a new run would destroy an earlier one.

    Raises:
        RunError: the folder holds a run, or judgements of one; the message says what may be done.
    """
    if newest_checkpoint(folder) is not None or (folder / "summary.json").is_file():
        if not overwrite:
            raise RunError(f"{folder} holds a run: --resume {folder} goes on with it, --overwrite starts again there")
        if (folder / "feedback.db").is_file():
            raise RunError(f"{folder}/feedback.db holds judgements of that run's samples: give another --out")


def begin(folder: Path, overwrite: bool, config: Mapping[str, Any]) -> None:
    """Delete the earlier run of a folder and write the settings of a new one; other files stay.

    Raises:
        RunError: as of ``check_room``.
    """
    check_room(folder, overwrite)
    # First, because a resume could otherwise take the earlier run's weights for this one's.
    remove_checkpoints(folder)
    write_json(folder / "config.json", config)
    for name in FILES[1:]:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# What it holds.


def read_metrics(path: Path, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``; ``report`` takes a message about each damaged row, which is left out."""
    rows = []
    for row in read_lines(path, report):
        numbers = all(value is None or type(value) in (int, float) for value in row.values())
        if numbers and all(type(row.get(name)) is int for name in ("update", "tokens")):
            rows.append(row)
        else:
            report(f"{path}: a row that is not a row of metrics is left out: {json.dumps(row)[:200]}")
    return rows


# What a run was.


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    result = {"python": platform.python_version(), "mmenv": mmenv.__version__}
    for name in PACKAGES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


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
