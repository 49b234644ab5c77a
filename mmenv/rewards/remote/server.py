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
from mmenv.rewards.remote.wire import TOKEN, MessageError, decode_request, encode_reply
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
    """Lets programs in that know the token, and no page of a browser; and no more bytes than there is room for.

    Args:
        app: what is guarded.
        access: who may come in, with a token.
        most: bytes of all requests under way, from their first byte to their answer.
    """

    def __init__(self, app: App, access: Access, most: int) -> None:
        super().__init__(app, access)
        self.most, self.held = most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what a request holds until it is answered."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            more = len(message.get("body", b""))
            if self.held + more > self.most:
                raise Busy(f"{self.held} bytes of requests are under way: come again")
            size, self.held = size + more, self.held + more
            return message

        try:
            await super().__call__(scope, counted, send)
        except Busy as error:
            await refuse(STATUS[Busy], str(error), send)
        finally:
            self.held -= size

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self.access.serves(host):
            return 421, f"this server is not {host[:100]!r}: use its address, or give it that --name"
        if "origin" in headers:
            return 403, "this server is for programs, not for pages"
        if not self.access.knows(headers.get("authorization", "").removeprefix("Bearer ")):
            return 401, "the token is missing or wrong"
        return None


class Busy(RuntimeError):
    """The queue is full."""


class Question(NamedTuple):
    """A request that was read: its body, where its answer goes, its id, and n samples and responses."""

    body: bytes
    answer: Future[bytes]
    request: str
    samples: list[data.Sample]
    responses: list[data.Response]


class Scorer:
    """Scores questions one after another in a thread of its own: one question is one call of the reward.

    Args:
        reward: the function.
        waiting: most questions in the queue.
        merge: see ``Serving``.
    """

    def __init__(self, reward: RewardFunction, waiting: int = 256, merge: int = 0) -> None:
        self.reward, self.merge = reward, merge
        self.questions: queue.Queue[tuple[bytes, Future[bytes]]] = queue.Queue(waiting)
        self.calls = self.scored = 0
        threading.Thread(target=self._work, name="scorer", daemon=True).start()

    def submit(self, body: bytes) -> Future[bytes]:
        """The answer to a question, when it comes.

        Raises:
            Busy: too many are waiting.
        """
        answer: Future[bytes] = Future()
        try:
            self.questions.put_nowait((body, answer))
        except queue.Full:
            raise Busy(f"{self.questions.maxsize} requests are waiting: come again") from None
        return answer

    def _work(self) -> None:
        while True:
            group = [self.questions.get()]
            while self.merge and len(group) < self.merge and not self.questions.empty():
                group.append(self.questions.get())
            # What nobody waits for any more is not scored; what is under way cannot be called off.
            for some in self._parts([q for q in group if q[1].set_running_or_notify_cancel()]):
                self._answer(some)

    def _parts(self, group: list[tuple[bytes, Future[bytes]]]) -> list[list[Question]]:
        """The questions of a group in lists of at most ``merge`` responses; what is no question hears so."""
        parts: list[list[Question]] = []
        size = 0
        for body, answer in group:
            try:
                question = Question(body, answer, *decode_request(body))
            except MessageError as error:
                answer.set_exception(error)
                continue
            size += len(question.samples)
            if not parts or size > self.merge:
                parts.append([])
                size = len(question.samples)
            parts[-1].append(question)
        return parts

    def _answer(self, questions: list[Question]) -> None:
        """One call for several questions; where it fails, one for each, and only who asked for that hears of it."""
        try:
            scores = self._call([s for q in questions for s in q.samples], [r for q in questions for r in q.responses])
        except RewardError as error:
            if len(questions) == 1:
                questions[0].answer.set_exception(error)
            else:
                for question in questions:
                    self._answer([question])
            return
        ends = np.cumsum([len(q.samples) for q in questions])[:-1]
        for question, part in zip(questions, np.split(scores, ends), strict=True):
            question.answer.set_result(encode_reply(question.request, question.body, question.samples, part))

    def _call(self, samples: Sequence[data.Sample], responses: Sequence[data.Response]) -> np.ndarray:
        if not samples:
            return np.empty(0, np.float32)
        self.calls, self.scored = self.calls + 1, self.scored + len(samples)
        return score(self.reward, samples, responses)


STATUS: dict[type[Exception], int] = {MessageError: 400, RewardError: 422, Busy: 503}


def create_app(reward: RewardFunction, serving: Serving | None = None) -> FastAPI:
    """The application: ``POST /score`` and ``GET /health``, behind the guard."""
    serving = serving or Serving()
    app = FastAPI(title="mmenv reward", docs_url=None, redoc_url=None, openapi_url=None)
    scorer = Scorer(reward, serving.waiting, serving.merge)

    @app.post("/score")
    async def ask(request: Request) -> Response:
        try:
            reply = await asyncio.wrap_future(scorer.submit(await request.body()))
        except tuple(STATUS) as error:
            # A name of the request may be no text that UTF-8 can hold.
            return Response(str(error).encode("utf-8", "replace"), STATUS[type(error)], media_type="text/plain")
        return Response(reply, media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        counts = {"calls": scorer.calls, "scored": scorer.scored, "waiting": scorer.questions.qsize()}
        return {"reward": reward_name(reward), **counts}

    access = Access(serving.host, serving.token, names=serving.names, body_limit=serving.body_limit)
    app.add_middleware(TokenGuard, access=access, most=serving.bodies_limit)
    return app


def imported(name: str) -> RewardFunction:
    """The reward function that ``module:function`` names.

    Raises:
        ValueError: there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # "..x" and "" are no names of modules
        raise ValueError(f"reward {name!r} is no function ({error}): give module:function, importable here") from error
    if not callable(found):
        raise ValueError(f"reward {name!r} is {type(found).__name__} and cannot be called: give a reward function")
    return found


def serve(console: Console, reward: RewardFunction, serving: Serving) -> int:
    """Serve until interrupted; the address is printed once requests are answered.

    Raises:
        ValueError: the address cannot be listened at.
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
            console.print("http can be read on the way, its token too: use it in a network that you trust")
        uvicorn.Server(config).run(sockets=[listening])
    return 0
