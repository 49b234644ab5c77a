"""python -m mmenv serve-reward: a reward function behind HTTP, for environments on other machines."""

from __future__ import annotations

import asyncio
import importlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from mmenv.arguments import require

with require("serve"):
    import uvicorn
    from fastapi import FastAPI, Request, Response

from mmenv.data import sample as data
from mmenv.rewards.base import RewardError, RewardFunction, reward_name, score
from mmenv.rewards.remote.config import Serving
from mmenv.rewards.remote.hosts import HOSTS
from mmenv.rewards.remote.messages import TOKEN, MessageError, decode_request, encode_reply
from mmenv.rewards.tokens import pays_tokens
from mmenv.serving.connections import limited
from mmenv.serving.guard import (
    Access,
    App,
    Guard,
    Message,
    Receive,
    Scope,
    Send,
    is_loopback,
    listen,
    refuse,
)


class TokenGuard(Guard):
    """The policy of a reward server: programs with the token, no pages of browsers, and a limit on all bytes together.

    Args:
        app: the guarded application.
        access: host, names and token.
        most: most bytes of all open requests, from their first byte to their answer.
    """

    def __init__(self, app: App, access: Access, most: int) -> None:
        super().__init__(app, access)
        self.most, self.open_bytes = most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of a request until it is answered."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            more = len(message.get("body", b""))
            if self.open_bytes + more > self.most:
                raise Busy(f"{self.open_bytes} bytes of requests are open: repeat the request later")
            size, self.open_bytes = size + more, self.open_bytes + more
            return message

        try:
            await super().__call__(scope, counted, send)
        except Busy as error:
            await refuse(STATUS[Busy], str(error), send)
        finally:
            self.open_bytes -= size

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self.access.serves(host):
            return 421, f"this server is not {host[:100]!r}: use its address, or give it that --name"
        if "origin" in headers:
            return 403, "this server is for programs, not for pages of a browser"
        if not self.access.knows(headers.get("authorization", "").removeprefix("Bearer ")):
            return 401, "the token is missing or wrong"
        return None


class Busy(RuntimeError):
    """The server has no room for another request."""


class ScoreRequest(NamedTuple):
    """A decoded request: its body, the future of its answer, its id, and n samples and responses."""

    body: bytes
    answer: Future[bytes]
    id: str
    samples: list[data.Sample]
    responses: list[data.Response]


class Scorer:
    """Scores requests one after another in a thread of its own: one request is one call of the reward.

    Args:
        reward: the function.
        waiting: most requests in the queue.
        merge: see ``Serving``.
    """

    def __init__(self, reward: RewardFunction, waiting: int = 256, merge: int = 0) -> None:
        self.reward, self.merge = reward, merge
        self.queue: queue.Queue[tuple[bytes, Future[bytes]]] = queue.Queue(waiting)
        self.calls = self.scored = 0
        threading.Thread(target=self._work, name="scorer", daemon=True).start()

    def submit(self, body: bytes) -> Future[bytes]:
        """Queue a request; returns the future of its answer.

        Raises:
            Busy: the queue is full.
        """
        answer: Future[bytes] = Future()
        try:
            self.queue.put_nowait((body, answer))
        except queue.Full:
            raise Busy(f"{self.queue.maxsize} requests are waiting: repeat the request later") from None
        return answer

    def _work(self) -> None:
        while True:
            group = [self.queue.get()]
            while self.merge and len(group) < self.merge and not self.queue.empty():
                group.append(self.queue.get())
            # Cancelled requests are not scored; a request that is being scored can no longer be cancelled.
            for batch in self._batches([entry for entry in group if entry[1].set_running_or_notify_cancel()]):
                self._answer(batch)

    def _batches(self, group: list[tuple[bytes, Future[bytes]]]) -> list[list[ScoreRequest]]:
        """Decode a group into batches of at most ``merge`` responses; invalid requests get their error."""
        batches: list[list[ScoreRequest]] = []
        size = 0
        for body, answer in group:
            try:
                request = ScoreRequest(body, answer, *decode_request(body))
            except MessageError as error:
                answer.set_exception(error)
                continue
            size += len(request.samples)
            if not batches or size > self.merge:
                batches.append([])
                size = len(request.samples)
            batches[-1].append(request)
        return batches

    def _answer(self, batch: list[ScoreRequest]) -> None:
        """Score a batch in one call; if that fails, each request alone, so that only the bad one gets the error."""
        samples = [sample for request in batch for sample in request.samples]
        responses = [response for request in batch for response in request.responses]
        try:
            scores = self._call(samples, responses)
        except RewardError as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                for request in batch:
                    self._answer([request])
            return
        ends = np.cumsum([len(request.samples) for request in batch])[:-1]
        for request, part in zip(batch, np.split(scores, ends), strict=True):
            request.answer.set_result(encode_reply(request.id, request.body, request.samples, part))

    def _call(self, samples: Sequence[data.Sample], responses: Sequence[data.Response]) -> np.ndarray:
        if not samples:
            return np.empty(0, np.float32)
        self.calls, self.scored = self.calls + 1, self.scored + len(samples)
        return score(self.reward, samples, responses)


STATUS: dict[type[Exception], int] = {MessageError: 400, RewardError: 422, Busy: 503}


def create_app(reward: RewardFunction, serving: Serving | None = None) -> FastAPI:
    """The application: ``POST /score`` and ``GET /health``, behind the guard.

    Raises:
        ValueError: the reward pays at the tokens, which the protocol of servers has no message for.
    """
    if pays_tokens(reward):
        raise ValueError(
            f"reward {reward_name(reward)!r} has per_token, and a server scores complete responses alone: use it in "
            "the process of the environment, or serve a reward that pays at the end"
        )
    serving = serving or Serving()
    app = FastAPI(title="mmenv reward", docs_url=None, redoc_url=None, openapi_url=None)
    scorer = Scorer(reward, serving.waiting, serving.merge)

    @app.post("/score")
    async def ask(request: Request) -> Response:
        try:
            reply = await asyncio.wrap_future(scorer.submit(await request.body()))
        except tuple(STATUS) as error:
            # The error may quote a name that UTF-8 cannot encode.
            return Response(str(error).encode("utf-8", "replace"), STATUS[type(error)], media_type="text/plain")
        return Response(reply, media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        counts = {"calls": scorer.calls, "scored": scorer.scored, "waiting": scorer.queue.qsize()}
        return {"reward": reward_name(reward), **counts}

    access = Access(serving.host, serving.token, names=serving.names, body_limit=serving.body_limit)
    app.add_middleware(TokenGuard, access=access, most=serving.bodies_limit)
    return app


def imported(name: str) -> RewardFunction:
    """Import the reward function ``module:function``.

    Raises:
        ValueError: it cannot be imported or called.
    """
    module, _, attribute = name.partition(":")
    try:
        function: RewardFunction = getattr(importlib.import_module(module), attribute)
    except (
        ImportError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:  # also of names like "..x" and ""
        raise ValueError(f"reward {name!r} cannot be imported ({error}): give module:function") from error
    if not callable(function):
        raise ValueError(f"reward {name!r} is {type(function).__name__} and cannot be called: give a reward function")
    return function


def serve(console: Console, reward: RewardFunction, serving: Serving) -> int:
    """Serve until interrupted; prints the address when the server is ready.

    Raises:
        ValueError: the address or port is not available.
    """
    with listen(serving.host, serving.port) as listening:
        config = uvicorn.Config(
            create_app(reward, serving), log_level="warning", access_log=False, proxy_headers=False,
            server_header=False, timeout_graceful_shutdown=5, **limited(serving.request_seconds),
        )  # fmt: skip
        host = serving.host if ":" not in serving.host else f"[{serving.host.strip('[]')}]"
        address = f"http://{host}:{listening.getsockname()[1]}"
        console.print(
            f"{reward_name(reward)} is served: reward={address}", soft_wrap=True, highlight=False, markup=False
        )
        if serving.made:
            line = f"export {TOKEN}={serving.token} {HOSTS}={address}"
            console.print(f"clients need its token: {line}", soft_wrap=True, highlight=False, markup=False)
        if not is_loopback(serving.host):
            console.print("http is not encrypted, the token neither: use it only in a network that you trust")
        uvicorn.Server(config).run(sockets=[listening])
    return 0
