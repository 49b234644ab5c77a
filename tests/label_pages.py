"""Real parts for the tests of the labelling pages: comparisons with media, the command in a process, a browser."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import httpx
import numpy as np
import soundfile
from PIL import Image

from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import write_comparisons

CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
BROWSER_HINT = "Chromium was not found: apt-get install chromium, and pip install playwright"


def write_pairs(folder: Path, n: int, responses: int = 2, **more) -> Path:
    """``n`` comparisons with a picture of their own each; ``more`` replaces fields."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for k in range(n):
        if k < 40:
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(folder / f"{k}.png")
        said = tuple(f"answer {'abcd'[i]} to {k}" for i in range(responses))
        policies = {"policies": ["start", "trained", "weak", "random"][:responses]}
        fields = {"prompt": f"question {k} ?", "image": f"{k % 40}.png", "provenance": policies, **more}
        rows.append(Comparison(f"test/{k}", responses=said, **fields))
    write_comparisons(folder / "pairs.jsonl", rows)
    return folder / "pairs.jsonl"


def write_tone(path: Path, seconds: float = 0.4) -> str:
    """A sound, and its name."""
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(16_000 * seconds)) / 16_000)
    soundfile.write(path, wave.astype(np.float32), 16_000)
    return path.name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def begin(client: httpx.Client, name: str) -> None:
    """Label under a name from now on."""
    if getattr(client, "labels_as", None) != name:
        reply = client.post("/name", data={"name": name})
        assert reply.status_code == 303, reply.text
        client.labels_as = name


class LabelServer:
    """``python -m mmenv label`` in a process, always on the same port; can be killed and started again."""

    def __init__(self, pairs: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.port, self.options, self.database = free_port(), options, pairs.parent / "feedback.db"
        self.command = [sys.executable, "-m", "mmenv", "label", "--pairs", str(pairs), "--port", str(self.port)]
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.said: list[str] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.command, *self.options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.environment,
        )  # fmt: skip
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("open "):
                self.printed = line.split()[1]
                # What is said later must not fill the pipe.
                threading.Thread(target=self.said.extend, args=(self.process.stdout,), daemon=True).start()
                return
        raise AssertionError(f"the server did not start: {''.join(self.said)}")

    @property
    def url(self) -> str:
        return f"{urlsplit(self.printed).scheme}://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return urlsplit(self.printed).fragment

    @property
    def owner_token(self) -> str:
        return next(line.rpartition("#")[2].strip() for line in self.said if line.startswith("results"))

    def stranger(self, **more) -> httpx.Client:
        """A client that sends the Origin which a browser would send, and has not signed in."""
        return httpx.Client(base_url=self.url, headers={"origin": self.url}, timeout=60, **more)

    @contextmanager
    def client(self, token: str | None = None, **more) -> Iterator[httpx.Client]:
        """A client that has signed in."""
        with self.stranger(**more) as client:
            assert client.post("/login", data={"token": token or self.token}).status_code == 303
            yield client

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> LabelServer:
        return self

    def __exit__(self, *_) -> None:
        self.close()


# Loads everything once and forks a server for each line it reads, so that many starts take little time.
NURSERY = """
import json, os, signal, sys
import mmenv.cli, mmenv.feedback.pages.command
import uvicorn.lifespan.on, uvicorn.loops.auto, uvicorn.protocols.http.auto
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    words = json.loads(line)
    pid = os.fork()
    if not pid:
        try:
            mmenv.cli.main(words)
        finally:
            print("ended", flush=True)
            os._exit(1)
    print("pid", pid, flush=True)
"""


class QuickServer(LabelServer):
    """The same command, forked from a process that has its modules loaded already."""

    nursery: ClassVar[subprocess.Popen | None] = None
    pid = 0

    def start(self) -> None:
        if QuickServer.nursery is None:
            QuickServer.nursery = subprocess.Popen(
                [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=self.environment,
            )  # fmt: skip
            atexit.register(QuickServer.nursery.stdin.close)
        nursery = QuickServer.nursery
        nursery.stdin.write(json.dumps([*self.command[3:], *self.options]) + "\n")
        nursery.stdin.flush()
        said = {}
        while not {"pid", "results,", "open"} <= said.keys():
            line = nursery.stdout.readline()
            assert line, "the server did not start"
            word, _, rest = line.strip().partition(" ")
            assert word != "ended", "the server ended"
            said[word] = rest
            self.said.append(line)
        self.pid, self.printed = int(said["pid"]), said["open"]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{self.pid}").exists())

    def close(self) -> None:
        if Path(f"/proc/{self.pid}").exists():
            self.kill()


def chromium() -> str | None:
    """Debian's browser, or another of that family."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def wait_until(holds, seconds: float = 60.0) -> None:
    """Until ``holds()``; fails after a while."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.05)
