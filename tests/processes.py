"""Commands in processes of their own that begin at once: forked off a server that has loaded everything."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
LOADED = [
    "agents.training.launch", "agents.training.trainer", "torch._dynamo", "accelerate", "mmenv.cli",
    "mmenv.rewards.remote.server", "mmenv.feedback.store", "uvicorn.lifespan.on",
    "uvicorn.loops.auto", "uvicorn.protocols.http.auto",
]  # fmt: skip


@dataclass(frozen=True)
class Signal:
    """A signal that a process sends itself, or another one, as soon as a file is there and has so many lines.

    The process that writes the file watches it whenever it opens, renames or makes a file, so that the moment does not
    depend on how quick a test is.

    Args:
        number: of the signal.
        path: of the file.
        lines: that it must have.
        to: id of the process that gets it; 0 is the one that watches.
    """

    number: int
    path: Path
    lines: int = 0
    to: int = 0

    def watch(self) -> None:
        """Begin, in the process that watches."""
        sent: list[bool] = []

        def look(event: str, _arguments: object) -> None:
            if sent or event not in ("open", "os.rename", "os.mkdir", "sqlite3.connect") or not self.path.exists():
                return
            sent.append(True)  # reading the file is an event as well
            if self.lines and len(self.path.read_bytes().splitlines()) < self.lines:
                sent.clear()
                return
            os.kill(self.to or os.getpid(), self.number)

        sys.addaudithook(look)


class Command:
    """``python -m NAME WORDS``, or ``python NAME WORDS`` where the name ends in ``.py``, begun now.

    Args:
        name: of a module, or of a file.
        *words: of its command line.
        daemon: ends with the tests; such a process may have none of multiprocessing itself.
        watch: a signal that the process sends.
        **environment: what differs from that of the tests.
    """

    def __init__(
        self, name: object, *words: object, daemon: bool = True, watch: Signal | None = None, **environment: object
    ) -> None:
        CONTEXT.set_forkserver_preload(LOADED)
        self._log = tempfile.NamedTemporaryFile("r", prefix="mmenv-log-", errors="replace")  # noqa: SIM115 closed with it
        given = {**os.environ, **{key: str(value) for key, value in environment.items()}}
        line = [str(name), *map(str, words)]
        self._process = CONTEXT.Process(target=_run, args=(line, self._log.name, given, watch), daemon=daemon)
        self._process.start()
        self.pid = self._process.pid

    @property
    def text(self) -> str:
        """What it has printed so far."""
        self._log.seek(0)
        return self._log.read()

    @property
    def code(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As the kernel does it: no goodbye."""
        self._process.kill()
        self._process.join()

    def ended(self, seconds: float = 400) -> str:
        """What it printed, once it has ended."""
        self._process.join(seconds)
        assert self.code is not None, f"it goes on after {seconds} seconds: {self.text}"
        return self.text

    def until(self, holds, seconds: float = 400) -> None:
        """Wait until something holds while it runs."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"it did not come true in {seconds} seconds: {self.text}"
            assert self.code is None, f"it ended with {self.code} too early: {self.text}"
            time.sleep(0.005)


def _run(line: list[str], log: str, environment: dict[str, str], watch: Signal | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = line
    if watch is not None:
        watch.watch()
    name = line[0]
    if name.endswith(".py"):
        runpy.run_path(name, run_name="__main__")
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)  # its classes find their module, as under -m
