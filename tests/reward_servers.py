"""Reward servers in processes of their own, and clients that check every score they are given."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from processes import Command
from toys import exact, pictured

from mmenv.data.sample import Response, Sample
from mmenv.rewards.remote.client import RemoteReward

TOKEN = "a-token-of-more-than-twenty-letters"


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Server:
    """A command in a process of its own that prints its address once it listens; can be killed and started again."""

    def __init__(self, *command: str, port: int | None = None, **environment: str) -> None:
        self.port = port or free_port()
        self.command = [*command, "--port", str(self.port)]
        self.environment = environment
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Wait until it listens."""
        self.process = Command(*self.command, **self.environment)
        self.process.until(lambda: self.url in self.process.text)

    def kill(self) -> None:
        """As the kernel does it: no goodbye."""
        self.process.kill()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def serving(reward: str, *more: str, **environment: str) -> Server:
    """``python -m mmenv serve-reward`` of a reward; its token is ``TOKEN``."""
    return Server("mmenv", "serve-reward", "--reward", reward, *more, MMENV_REWARD_TOKEN=TOKEN, **environment)


class Scripted:
    """An HTTP server in a thread that answers as ``script`` says: (number of the request, body) -> (status, body).

    Instead of a body of bytes there may be a function that is given the socket, and writes whatever it likes.
    """

    def __init__(self, script: Callable[[int, bytes], tuple[int, Any]], port: int = 0) -> None:
        outer, self.lock, self.count, self.now, self.most = self, threading.Lock(), 0, 0, 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with outer.lock:
                    outer.count, outer.now = outer.count + 1, outer.now + 1
                    outer.most, number = max(outer.most, outer.now), outer.count
                status, said = script(number, body)
                with outer.lock:
                    outer.now -= 1
                if callable(said):
                    with contextlib.suppress(OSError):  # the client has hung up
                        said(self.connection)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def questions(first: int, count: int) -> tuple[list[Sample], list[Response]]:
    """Samples with pictures and responses, no two alike."""
    samples = [pictured(i) for i in range(first, first + count)]
    return samples, [Response(f"a {s.index * 7919 % 10007} ?", (3, s.index), "eos") for s in samples]


def ask_many(url: str, first: int, requests: int, most: int) -> dict[str, int]:
    """A client: so many requests of one to ``most`` responses; counts right, wrong and missing scores."""
    reward, rng = (
        RemoteReward(url, token=TOKEN, patience=300.0, startup=300.0, cooldown=0.2),
        np.random.default_rng(first),
    )
    right = wrong = 0
    for i in range(requests):
        samples, responses = questions((first + i) * most, int(rng.integers(1, most + 1)))
        scores, wanted = reward(samples, responses), exact(samples, responses)
        right += len(wanted) if scores.shape == wanted.shape and (scores == wanted).all() else 0
        wrong += 0 if scores.shape == wanted.shape and (scores == wanted).all() else 1
    return {"requests": requests, "right": right, "wrong": wrong}
