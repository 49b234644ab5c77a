"""Rewards of other machines: one call is one request, and a server that dies is waited for."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import random
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from mmenv.arguments import require
from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import RewardError
from mmenv.rewards.remote.connection import Body, Lane, LateError
from mmenv.rewards.remote.hosts import HOSTS, PORTS, key_for
from mmenv.rewards.remote.wire import TOKEN, MessageError, decode_reply, encode_request
from mmenv.serving.guard import is_loopback

with require("serve"):
    import httpx

RETRIED = (408, 425, 429, 500, 502, 503, 504)  # too busy, or something in between: the question itself may be sound
LONGEST_WAIT = 5.0
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calling:
    """How a server is asked.

    Attributes:
        timeout: seconds until one attempt is given up, from its beginning to the last byte of the answer.
        patience: seconds without one sound answer after which the run is stopped.
        startup: seconds to wait for a server that has never answered; with 0 a wrong address is an error at once.
        concurrency: most requests under way at once.
        token: sent as a bearer token; None takes that of the environment, if the server's host is a configured one
            (``mmenv.rewards.remote.hosts``).
        variable: environment variable of the token. Every kind of server has its own, so that none is sent to
            somebody else's: MMENV_REWARD_TOKEN, VLLM_API_KEY, OPENAI_API_KEY.
        failures: failed attempts in a row that open the circuit: nothing is sent any more, but
        cooldown: after so many seconds one request, alone, to see whether the server is back.
        backoff: seconds before the second attempt; they double, up to five, and vary by half.

    Raises:
        ValueError: names the argument and the remedy.
    """

    timeout: float = 60.0
    patience: float = 300.0
    startup: float = 0.0
    concurrency: int = 8
    token: str | None = field(default=None, repr=False)
    variable: str = TOKEN
    failures: int = 5
    cooldown: float = 1.0
    backoff: float = 0.1

    def __post_init__(self) -> None:
        for name in ("timeout", "cooldown", "backoff"):
            if not getattr(self, name) > 0:  # nan is none either
                raise ValueError(f"{name}={getattr(self, name)} is not positive: give seconds above 0")
        for name in ("concurrency", "failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: give 1 or more")
        for name, none in (("patience", "for a single attempt"), ("startup", "to wait for none")):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} is no time: give seconds, 0 {none}")


class BusyError(MessageError):
    """The server, or something before it, has no time now."""


class Breaker:
    """A circuit breaker for many threads: closed, open after failures in a row, and half open for one probe.

    Args:
        failures: in a row that open it.
        cooldown: seconds that it stays open.
        clock: seconds, never going back.
    """

    def __init__(self, failures: int, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures, self.cooldown, self.clock = failures, cooldown, clock
        self.lock = threading.Lock()
        self.in_a_row = 0
        self.opened = self.healthy = -float("inf")
        self.lost = False
        self.prober: int | None = None  # the thread whose probe is under way

    @property
    def probing(self) -> bool:
        """Whether a probe is under way."""
        return self.prober is not None

    def delay(self) -> float:
        """Seconds until it is worth asking again; with 0 the caller may send, and then says how it went."""
        with self.lock:
            if self.in_a_row < self.failures:
                return 0.0
            left = self.opened + self.cooldown - self.clock()
            if left > 0 or self.probing:
                return max(left, 0.05)
            self.prober = threading.get_ident()
            return 0.0

    def succeeded(self) -> None:
        """A sound answer came."""
        with self.lock:
            self.in_a_row, self.lost, self.prober, self.healthy = 0, False, None, self.clock()

    def failed(self) -> None:
        """None came."""
        with self.lock:
            self.in_a_row += 1
            self.opened = self.clock()
            self._end_probe()

    def released(self) -> None:
        """It was not found out: the sender was interrupted."""
        with self.lock:
            self._end_probe()

    def _end_probe(self) -> None:
        """Of the calling thread: who sent before the circuit opened says nothing of another's probe."""
        if self.prober == threading.get_ident():
            self.prober = None


class RefusedRequestError(RewardError):
    """A server answered that it will not score this request; asking again would bring the same.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """Requests to one server, repeated until a sound answer comes or patience ends; threads may share it.

    Args:
        url: ``http://`` or ``https://``, with or without a path.
        calling: how it is asked.

    Raises:
        ValueError: the address is none.
    """

    def __init__(self, url: str, calling: Calling) -> None:
        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL:
            parts = httpx.URL("")
        if parts.scheme not in PORTS or not parts.host:
            raise ValueError(f"{url!r} is no address of a server: give one like http://127.0.0.1:8766")
        self.url, self.calling = url.rstrip("/"), calling
        # What a proxy of the environment is for never lies on this machine.
        self.direct = is_loopback(parts.host)
        self._begin()

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries; a key of the environment only for a configured host."""
        url, calling = httpx.URL(self.url), self.calling
        token = calling.token or key_for(calling.variable, url.scheme, url.host, url.port or PORTS[url.scheme])
        headers = {"accept-encoding": "identity"}
        return headers | ({"authorization": f"Bearer {token}"} if token else {})

    def _begin(self) -> None:
        self.breaker = Breaker(self.calling.failures, self.calling.cooldown)
        self.lanes: queue.LifoQueue[Lane | None] = queue.LifoQueue()
        for _ in range(self.calling.concurrency):
            self.lanes.put(None)
        self.owner, self.lock = os.getpid(), threading.Lock()
        self.context: ssl.SSLContext | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: self.__dict__[k] for k in ("url", "calling", "direct")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @contextlib.contextmanager
    def _lane(self) -> Iterator[Lane]:
        """A connection, when one is free."""
        lane = self.lanes.get()
        try:
            with self.lock:
                self.context = self.context or httpx.create_ssl_context()  # reads SSL_CERT_FILE, also for loopback
            lane = lane or Lane(self.direct, self.context)
            yield lane
        finally:
            self.lanes.put(lane)

    def ask(self, path: str, read: Callable[[bytes], T], method: str = "POST", **body: Any) -> T:
        """Send until ``read`` makes something of the answer.

        Args:
            path: after the address.
            read: of the body of an answer of status 200; raises MessageError where it is not whole, and it is asked
                again.
            method: of HTTP; asking twice must do no harm.
            **body: as httpx takes it, ``content=`` or ``json=``.

        Raises:
            RewardError: the server refuses the request itself, has never answered, or was not to be reached for as long
                as patience lasts.
        """
        if self.owner != os.getpid():  # a forked process must not write into its parent's sockets
            self._begin()
        begun, attempt = time.monotonic(), 0
        reason = f"{self.breaker.in_a_row} requests failed in a row"
        while True:
            wait = self.breaker.delay()
            if wait == 0:
                try:
                    with self._lane() as lane:
                        return self._attempt(lane, method, path, read, body)
                except (httpx.RequestError, MessageError) as error:
                    reason = f"{type(error).__name__}: {error}"
                    self._note_failure(reason)
                    self._raise_if_hopeless(error, path, time.monotonic() - begun)
                    wait, attempt = self._backoff(attempt), attempt + 1
                finally:
                    self.breaker.released()
            silent = time.monotonic() - max(begun, self.breaker.healthy)
            # A server that was lost may be back: whoever asks beside the probe waits for what that finds out.
            if (self.breaker.lost and not self.breaker.probing) or silent + wait > self.calling.patience:
                self.breaker.lost = True
                raise self._lost(silent, reason)
            time.sleep(wait)

    def _attempt(self, lane: Lane, method: str, path: str, read: Callable[[bytes], T], body: Body) -> T:
        status, data = lane.send(method, self.url + path, self.headers, self.calling.timeout, body)
        if status in RETRIED:
            raise BusyError(f"status {status}, {_quoted(data, 300)}")
        if status != 200:
            # It answers: the server is well, and would say the same again.
            self.breaker.succeeded()
            raise RefusedRequestError(
                f"the server at {self.url}{path} refuses the request, status {status}: "
                f"{_quoted(data, 500)}{self._remedy(status)}",
                status,
            )
        value = read(data)
        self.breaker.succeeded()
        return value

    def _remedy(self, status: int) -> str:
        """What to do about a status, as the end of a message."""
        variable = self.calling.variable
        if status in (401, 403) and "authorization" not in self.headers and os.environ.get(variable):
            return f"; {variable} is set but was not sent, because no list allows this host: add it to {HOSTS}"
        return REMEDIES.get(status, "").format(variable)

    def _raise_if_hopeless(self, error: Exception, path: str, waited: float) -> None:
        """Raise where asking again cannot help: a certificate, or what has never been a server of this kind."""
        if (refused := _certificate_error(error)) is not None:
            raise RewardError(
                f"the certificate of {self.url} is not accepted ({refused}): mend the address, or name the authority's "
                "PEM file in SSL_CERT_FILE"
            ) from error
        if self.breaker.healthy > -math.inf or waited < min(self.calling.startup, self.calling.patience):
            return
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            raise RewardError(
                f"nothing answers at {self.url} ({error}): start the server first, mend host or port, or give "
                "startup=SECONDS to wait for a server that is being started"
            ) from error
        if isinstance(error, MessageError | httpx.LocalProtocolError) and not isinstance(error, BusyError | LateError):
            raise RewardError(
                f"what answers at {self.url}{path} is no server of this kind ({error}): mend host, port or path"
            ) from error

    def _note_failure(self, reason: str) -> None:
        self.breaker.failed()
        if self.breaker.in_a_row == self.breaker.failures:
            logger.warning("%s does not answer (%s): waiting up to %g s", self.url, reason, self.calling.patience)

    def _backoff(self, attempt: int) -> float:
        """Seconds before the next attempt. Chance keeps clients from coming back all at once; no result hangs on it."""
        return min(LONGEST_WAIT, self.calling.backoff * 2**attempt) * random.uniform(0.5, 1.5)

    def _lost(self, silent: float, reason: str) -> RewardError:
        return RewardError(
            f"the server at {self.url} gave no sound answer for {silent:.0f} s, the patience is "
            f"{self.calling.patience:g} s ({reason}): start it again and resume the run, or give it more patience"
        )


def _quoted(data: bytes, most: int) -> str:
    """The beginning of an answer in words."""
    return data[:most].decode("utf-8", "replace")


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The refused certificate behind an error, if there is one."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


REMEDIES = {
    401: "; give token=, or set {}",
    403: "; give token=, or set {}",
    404: "; is the address that of the right server?",
    413: "; ask for less at once, batch_size=",
}


class RemoteReward:
    """The reward function of a server that ``python -m mmenv serve-reward`` started.

    Scores are those of a local call, to the last bit, on a like machine: a call travels as one request and is scored in
    one call. Only what is larger than ``batch_size`` is cut, where our own reward models cut it too.

    Args:
        url: address of the server.
        batch_size: most responses of one request; 0 cuts nothing. A multiple of what the reward reads at once: 512 for
            preference models, 32 for models of transformers.
        name: name of the reward in ``info``.
        **settings: the fields of ``Calling``.
    """

    def __init__(self, url: str, batch_size: int = 512, name: str = "remote", **settings: Any) -> None:
        if batch_size < 0:
            raise ValueError(f"batch_size={batch_size} is negative: give 0 to cut nothing, or 512")
        self.connection = Connection(url, Calling(**settings))
        self.batch_size, self.name = batch_size, name

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The server's scores, float32 (n,).

        Raises:
            RewardError: the server refuses, or is gone for longer than patience.
        """
        step = self.batch_size or max(1, len(samples))
        cuts = [slice(i, i + step) for i in range(0, len(samples), step)]
        return gathered(lambda cut: self._ask(samples[cut], responses[cut]), cuts, self.connection)

    def _ask(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        request = uuid.uuid4().hex  # every attempt asks the same question
        body = encode_request(request, samples, responses)
        return self.connection.ask("/score", lambda answer: decode_reply(answer, request, body, samples), content=body)


def gathered(ask: Callable[[T], np.ndarray], parts: Sequence[T], connection: Connection) -> np.ndarray:
    """The answers to several requests, as many at once as may be under way, put together in order: float32 (n,)."""
    if not parts:
        return np.empty(0, np.float32)
    if len(parts) == 1:
        return ask(parts[0])
    with ThreadPoolExecutor(min(connection.calling.concurrency, len(parts))) as threads:
        return np.concatenate(list(threads.map(ask, parts)))
