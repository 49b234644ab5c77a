"""A grid of runs, each in its own process, here or on a Ray cluster; a run that fails is tried again, then reported.

A cell's folder is locked while a process runs it: if a driver or a worker was killed and its run goes on, the next one
waits for that run and takes its result.
"""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents import files
from agents.training import checkpoints, launch, run_folder
from mmenv.arguments import require

FORMAT = 2  # of a row of results
POINTS = 100  # of a stored curve
OVERRUN = 1.5  # largest share of the budget; the last update always runs to its end
RETRIES_OF_RAY = 4  # where a worker or a node dies
# Runs are forked off a server that has loaded everything and computed nothing: each begins at once, alone in a process.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["agents.training.launch", "agents.training.trainer", "torch._dynamo"])


class Cell(NamedTuple):
    """One run of a grid.

    Attributes:
        label: its row in tables: the algorithm's name, or another one for other settings of it.
        algorithm: a name, or ``package.module:Class``.
        env_id: where it trains.
        seed: of the run.
        overrides: settings that differ from the algorithm's defaults, by name.
        files: settings that are paths of files below the grid's folder, relative to it, by name.
    """

    label: str
    algorithm: str
    env_id: str
    seed: int
    overrides: Mapping[str, Any] = {}
    files: Mapping[str, str] = {}

    @property
    def key(self) -> tuple[str, str, int]:
        """Label, id and seed, which no other cell has."""
        return self.label, self.env_id, self.seed

    @property
    def path(self) -> Path:
        """Its folder, below ``runs`` of the grid.

        Raises:
            ValueError: the label or the id cannot name a folder.
        """
        names = [name.replace(":", ".").replace("/", "-") for name in (self.label, self.env_id)]
        if odd := [name for name in names if not name.strip(". ") or not name.isprintable()]:
            raise ValueError(f"{odd[0]!r} names no folder: give a label of letters and digits")
        return Path(*names, str(self.seed))

    def config(self, root: Path) -> Any:
        """The settings of its run in the folder ``runs`` of a grid."""
        settings: dict[str, Any] = {"threads": 1, "pictures": False, **self.overrides}
        settings |= {name: str(root.parent / path) for name, path in self.files.items()}
        settings |= {"env_id": self.env_id, "seed": self.seed, "out": str(root / self.path)}
        return launch.config_class(self.algorithm)(**settings)


class RetryPolicy(NamedTuple):
    """How often a run that fails is tried again, and after how many seconds it is stopped; None is never."""

    retries: int = 1
    seconds: float | None = None


def play(cell: Cell, root: Path, retry: RetryPolicy) -> dict[str, Any]:
    """Run a cell to its end, or go on with it where its folder holds a part; its row of results.

    A run that raises, dies, is stopped or has an invalid result is a row as well: ``status`` is ``failed``, ``error``
    the reason.
    """
    folder = root / cell.path
    folder.mkdir(parents=True, exist_ok=True)
    error, fault, attempts = "", "", 0
    started = time.perf_counter()
    while attempts <= retry.retries:
        attempts += 1
        error, is_transient = _attempt(cell, root, retry.seconds)
        fault = "" if error else _fault(folder)
        if not error and not fault:
            break
        (folder / "summary.json").unlink(missing_ok=True)
        if not is_transient:
            checkpoints.remove_checkpoints(folder)  # the next attempt, now or in another call, begins anew
        if fault:  # the same seed would end the same
            break
    return _row(cell, root, error or fault, attempts) | {"wall": time.perf_counter() - started}


def _attempt(cell: Cell, root: Path, seconds: float | None) -> tuple[str, bool]:
    """Run once.

    Returns:
        why it failed, ``""`` if it did not; and whether that is transient, so that the next attempt goes on from the
        checkpoint. A reward server that is down, a full disk, a kill (by the kernel when memory runs out) and a time
        limit are; an error of the run itself would come again.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    folder = root / cell.path
    process = CONTEXT.Process(target=_work, args=(cell, root))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return f"stopped after {seconds:g} seconds", True
    if process.exitcode == files.INTERRUPTED:
        raise KeyboardInterrupt  # its checkpoint stays, and there is nothing to report
    if process.exitcode == 0 and (folder / "summary.json").is_file():
        return "", False
    is_transient = process.exitcode not in (0, 1, 2)
    return f"exit {process.exitcode}: {_last_line(folder / 'log.txt')}", is_transient


def _work(cell: Cell, root: Path) -> None:
    """The body of a run's process; its output goes to ``log.txt``."""
    folder = root / cell.path
    # Not the lock of the run itself, which fails at once for a second process: at this one it waits.
    with (folder / "cell.lock").open("w") as lock, (folder / "log.txt").open("a", encoding="utf-8") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _forget_others(cell, folder)
        if (folder / "summary.json").is_file():
            return
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        resume = checkpoints.newest_checkpoint(folder) is not None
        sys.exit(launch.run(cell.algorithm, cell.config(root), folder, resume))


def _forget_others(cell: Cell, folder: Path) -> None:
    """Remove what the folder holds of a run with other settings, which must not be resumed, and write these down."""
    path, text = folder / "cell.json", json.dumps(cell._asdict())
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != text:
        checkpoints.remove_checkpoints(folder)
        (folder / "summary.json").unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def _fault(folder: Path) -> str:
    """Why the result of a finished run is invalid; ``""`` if it is valid."""
    summary, budget = (
        files.read_json(folder / "summary.json"),
        files.read_json(folder / "config.json")["total_tokens"],
    )
    if summary["episodes"] and summary["reward"]["after"] is None:
        return "reward after training is not finite"
    if summary["tokens"] > OVERRUN * budget:
        return f"took {summary['tokens']:,} tokens of a budget of {budget:,}: a smaller num_envs ends nearer to it"
    return ""


def _row(cell: Cell, root: Path, error: str, attempts: int) -> dict[str, Any]:
    """A row of results, with everything that reports need to know of the run."""
    folder = root / cell.path
    row: dict[str, Any] = {
        "format": FORMAT,
        **files.as_json(cell._asdict()),
        "status": "failed" if error else "done",
        "attempts": attempts,
        "log": str(cell.path / "log.txt"),
        "machine": machine(),
        "versions": run_folder.versions(),
    }
    if error:
        return row | {"error": error, "commit": run_folder.commit()}
    summary = files.read_json(folder / "summary.json")
    # The cell's own label, algorithm and seed take precedence over those of the summary.
    measured = {k: v for k, v in summary.items() if k not in row or k == "versions"}
    config = {k: v for k, v in files.read_json(folder / "config.json").items() if k not in ("out", "algorithm")}
    updates = len(run_folder.read_metrics(folder / "metrics.jsonl", lambda fault: None))
    return row | measured | {"config": config, "updates": updates, "curve": curve(folder)}


def curve(folder: Path) -> dict[str, list[float | None]]:
    """Tokens, seconds, gold, reward and KL of a run's updates, thinned; None where a value is unknown."""
    rows = [r for r in run_folder.read_metrics(folder / "metrics.jsonl", lambda fault: None) if "reward" in r]
    indices = np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).astype(int) if rows else np.zeros(0, int)
    names = ("tokens", "seconds", "gold", "reward", "kl")
    return {name: [_rounded(rows[i].get(name)) for i in np.unique(indices)] for name in names}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 4)


def machine() -> str:
    """System, architecture and number of cores of this machine."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def local(cells: Sequence[Cell], root: Path, retry: RetryPolicy, jobs: int) -> Iterator[dict[str, Any]]:
    """Rows in the order in which runs end, ``jobs`` at a time on this machine."""
    executor = ThreadPoolExecutor(jobs)
    try:
        waiting = [executor.submit(play, cell, root, retry) for cell in cells]
        for done in as_completed(waiting):
            yield done.result()
    finally:
        # An interrupt reaches the runs too: those under way end with a checkpoint, and no other begins.
        executor.shutdown(wait=True, cancel_futures=True)


def on_ray(cells: Sequence[Cell], root: Path, retry: RetryPolicy) -> Iterator[dict[str, Any]]:
    """Rows in the order in which runs end, one a core of a Ray cluster: the running one, else one on this machine.

    Folders are written where a run is: on many machines ``root`` is on a file system that all see.

    Raises:
        MissingExtraError: ray is missing; the message has the command that installs it.
    """
    with require("cluster"):
        import ray
    where = os.pathsep.join([os.getcwd(), *filter(None, sys.path)])
    ours = not ray.is_initialized()
    if ours:
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": where}}, log_to_driver=False, logging_level=logging.WARNING)
    task = ray.remote(num_cpus=1, max_retries=RETRIES_OF_RAY)(play)
    try:
        waiting = [task.remote(cell, root, retry) for cell in cells]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield ray.get(done[0])
    finally:
        if ours:
            ray.shutdown()
