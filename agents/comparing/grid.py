"""A grid of runs, each a process of its own, here or on a Ray cluster; one that fails is tried again, then reported.

A cell's folder is locked while somebody works on it: where a driver or a worker was killed and left its run going, the
next one waits for that run and takes its result.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents import files
from agents.algorithms.registry import modules_in
from agents.training import checkpoints, run_folder
from mmenv.arguments import require

FORMAT = 1  # of a row of results
POINTS = 60  # kept of a curve
OVERRUN = 1.5  # times the budget; less is the last update, which is played to its end
GRID = "{grid}"  # in settings: the folder of the grid, so that its rows are the same wherever that lies
RETRIES_OF_RAY = 4  # where a worker or a node dies
# Runs are forked off a server that has loaded everything and computed nothing: each begins at once, alone in a process.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["agents.__main__", "agents.training.trainer", "torch._dynamo"])
PASSING = 75  # the exit of a run whose failure may pass, and whose checkpoint stays (EX_TEMPFAIL)


class Cell(NamedTuple):
    """One run of a grid.

    Attributes:
        label: its row in tables: the algorithm's name, or another one for other settings of it.
        algorithm: a name, or ``package.module:Class``.
        env_id: where it trains.
        seed: of the run.
        settings: further words of the command line, those of this grid and those of this algorithm; ``GRID`` in them
            becomes the folder that holds ``runs``.
    """

    label: str
    algorithm: str
    env_id: str
    seed: int
    settings: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from the others."""
        return self.label, self.env_id, self.seed

    @property
    def path(self) -> Path:
        """Its folder, below that of the grid.

        Raises:
            ValueError: the label or the id cannot name a folder.
        """
        names = [name.replace(":", ".").replace("/", "-") for name in (self.label, self.env_id)]
        if odd := [name for name in names if not name.strip(". ") or not name.isprintable()]:
            raise ValueError(f"{odd[0]!r} names no folder: give a label of letters and digits")
        return Path(*names, str(self.seed))

    def words(self, folder: Path) -> list[str]:
        """The command line that runs it in a folder, or goes on with what the folder holds."""
        if checkpoints.newest_checkpoint(folder) is not None and not self.algorithm.startswith("sb3-"):
            own = modules_in([self.env_id, *(word for word in self.settings if "//" not in word)])
            return [self.algorithm, "--resume", str(folder), *(["--trust", *own] if own else [])]
        words = [self.algorithm, "--env-id", self.env_id, "--seed", str(self.seed), "--threads", "1", "--no-pictures"]
        settings = [
            word.replace(GRID, str(folder.parents[len(self.path.parts)])) if GRID in word else word
            for word in self.settings
        ]
        return [*words, *settings, "--out", str(folder)]


class Patience(NamedTuple):
    """How often a run that fails is tried again, and after how many seconds it is stopped; None is never."""

    retries: int = 1
    seconds: float | None = None


def play(cell: Cell, root: Path, patience: Patience) -> dict[str, Any]:
    """Run a cell to its end, or go on with it where its folder holds a part; its row of results.

    A run that raises, dies, is stopped or ends in a fault is a row as well, with ``status`` ``failed`` and the reason.
    """
    folder = root / cell.path
    folder.mkdir(parents=True, exist_ok=True)
    error, fault, attempts = "", "", 0
    while attempts <= patience.retries:
        attempts += 1
        error, passing = _attempt(cell, folder, patience.seconds)
        fault = "" if error else _fault(folder)
        if not error and not fault:
            break
        (folder / "summary.json").unlink(missing_ok=True)
        if not passing:
            checkpoints.remove_checkpoints(folder)  # the next attempt, now or in another call, begins anew
        if fault:  # the same seed would end the same
            break
    return _row(cell, root, error or fault, attempts)


def _attempt(cell: Cell, folder: Path, seconds: float | None) -> tuple[str, bool]:
    """Run once: why it failed, or nothing; and whether that may pass, so that the next attempt goes on from here.

    A reward server that is down, a full disk, a kill (of the kernel where memory ends) and a time limit may; an error
    of the run itself would meet the same again.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    process = CONTEXT.Process(target=_work, args=(cell, folder))
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
    passing = process.exitcode not in (0, 1, 2)
    return f"exit {process.exitcode}: {_last_line(folder / 'log.txt')}", passing


def _work(cell: Cell, folder: Path) -> None:
    """What the process of a run does: the command line, with what it says in ``log.txt``."""
    from agents.__main__ import main

    # Not the lock of the run itself, which whoever trains there takes: at this one others wait.
    with (folder / "cell.lock").open("w") as lock, (folder / "log.txt").open("a", encoding="utf-8") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _forget_others(cell, folder)
        if (folder / "summary.json").is_file():
            return
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.exit(main(cell.words(folder), PASSING))


def _forget_others(cell: Cell, folder: Path) -> None:
    """Remove what the folder holds of a run of other settings, which must not be gone on with, and note these."""
    path, text = folder / "cell.json", json.dumps(cell._asdict())
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != text:
        checkpoints.remove_checkpoints(folder)
        (folder / "summary.json").unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _fault(folder: Path) -> str:
    """What makes the result of a run that ended no result, or nothing."""
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
    """A row of results, with everything that is needed to compute what is said of the run."""
    folder = root / cell.path
    row: dict[str, Any] = {
        "format": FORMAT, "label": cell.label, "algorithm": cell.algorithm, "env_id": cell.env_id, "seed": cell.seed,
        "settings": list(cell.settings), "status": "failed" if error else "done", "attempts": attempts,
        "log": str(cell.path / "log.txt"), "machine": machine(), "versions": run_folder.versions(),
    }  # fmt: skip
    if error:
        return row | {"error": error, "commit": run_folder.commit()}
    summary = files.read_json(folder / "summary.json")
    # By its label, which may be another name for the algorithm.
    kept = {k: v for k, v in summary.items() if k not in row or k == "versions"}
    config = {k: v for k, v in files.read_json(folder / "config.json").items() if k not in ("out", "algorithm")}
    return row | kept | {"config": config, "curve": curve(folder)}


def curve(folder: Path) -> dict[str, list[float | None]]:
    """Tokens, gold, reward and KL of a run's updates, thinned; None where nothing is known."""
    rows = [r for r in run_folder.read_metrics(folder / "metrics.jsonl", lambda fault: None) if "reward" in r]
    kept = np.unique(np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).astype(int)) if rows else []
    names = ("tokens", "gold", "reward", "kl")
    return {name: [_rounded(rows[i].get(name)) for i in kept] for name in names}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 4)


def machine() -> str:
    """What a result ran on."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def local(cells: Sequence[Cell], root: Path, patience: Patience, jobs: int) -> Iterator[dict[str, Any]]:
    """Rows in the order in which runs end, ``jobs`` at a time on this machine."""
    executor = ThreadPoolExecutor(jobs)
    try:
        waiting = [executor.submit(play, cell, root, patience) for cell in cells]
        for done in as_completed(waiting):
            yield done.result()
    finally:
        # After an interrupt, which the runs have heard too, those under way end with a checkpoint; no other begins.
        executor.shutdown(wait=True, cancel_futures=True)


def on_ray(cells: Sequence[Cell], root: Path, patience: Patience) -> Iterator[dict[str, Any]]:
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
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": where}}, log_to_driver=False, logging_level="warning")
    task = ray.remote(num_cpus=1, max_retries=RETRIES_OF_RAY)(play)
    try:
        waiting = [task.remote(cell, root, patience) for cell in cells]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield ray.get(done[0])
    finally:
        if ours:
            ray.shutdown()
