"""Rewards of other machines: one call is one request, and a server that dies is waited for."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from mmenv.data.sample import Response, Sample
from mmenv.feedback.security import is_loopback
from mmenv.rewards.base import RewardError
from mmenv.rewards.hosts import HOSTS, PORTS, key_for
from mmenv.rewards.wire import TOKEN, MessageError, decode_reply, encode_request

try:
    import httpx
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing: pip install -c constraints.txt -e ".[serve]"') from error

RETRIED = (408, 425, 429, 500, 502, 503, 504)  # too busy, or something in between: the question itself may be sound
LONGEST_WAIT = 5.0
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calling:
    """How a server is asked.

    Attributes:
        timeout: seconds until one attempt is given up.
        patience: seconds without one sound answer after which the run is stopped.
        concurrency: most requests under way at once.
        token: sent as a bearer token; None takes that of the environment, if the server's host is a configured one
            (``mmenv.rewards.hosts``).
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
        if not self.patience >= 0:
            raise ValueError(f"patience={self.patience} is no time: give seconds, 0 for a single attempt")


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


class Connection:
    """Requests to one server, repeated until a sound answer comes or patience ends; threads may share it.

    Args:
        url: ``http://`` or ``https://``, with or without a path.
        calling: how it is asked.

    Raises:
        ValueError: the address is none.
    """

    def __init__(self, url: str, calling: Calling) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server: give one like http://127.0.0.1:8766")
        self.url, self.calling = url.rstrip("/"), calling
        # What a proxy of the environment is for never lies on this machine.
        self.direct = is_loopback(parts.hostname)
        self._begin()

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries; a key of the environment only for a configured host."""
        url, calling = httpx.URL(self.url), self.calling
        token = calling.token or key_for(calling.variable, url.scheme, url.host, url.port or PORTS[url.scheme])
        return {"authorization": f"Bearer {token}"} if token else {}

    def _remedy(self, status: int) -> str:
        """What to do about a status, in the words that end a message."""
        variable = self.calling.variable
        if status in (401, 403) and "authorization" not in self.headers and os.environ.get(variable):
            return f"; {variable} is set but was not sent, because no list allows this host: add it to {HOSTS}"
        return REMEDIES.get(status, "").format(variable)

    def _begin(self) -> None:
        self.breaker = Breaker(self.calling.failures, self.calling.cooldown)
        self.slots = threading.BoundedSemaphore(self.calling.concurrency)
        self.client: httpx.Client | None = None
        self.owner, self.lock = os.getpid(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: self.__dict__[k] for k in ("url", "calling", "direct")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _open(self) -> httpx.Client:
        """The client; a process that was forked must not write into its parent's sockets."""
        if self.owner != os.getpid():
            self._begin()
        with self.lock:
            if self.client is None:
                most = httpx.Limits(max_connections=None, max_keepalive_connections=self.calling.concurrency)
                self.client = httpx.Client(limits=most, trust_env=not self.direct)
            return self.client

    def ask(self, path: str, read: Callable[[httpx.Response], T], method: str = "POST", **body: Any) -> T:
        """Send until ``read`` makes something of the answer.

        Args:
            path: after the address.
            read: of an answer of status 200; raises MessageError where it is not whole, and it is asked again.
            method: of HTTP; asking twice must do no harm.
            **body: as httpx takes it, ``content=`` or ``json=``.

        Raises:
            RewardError: the server refuses the request itself, or was not to be reached for as long as patience lasts.
        """
        client, begun, attempt = self._open(), time.monotonic(), 0
        reason = f"{self.breaker.in_a_row} requests failed in a row"
        while True:
            wait = self.breaker.delay()
            if wait == 0:
                try:
                    with self.slots:
                        return self._attempt(client, method, path, read, body)
                except (httpx.RequestError, MessageError) as error:
                    reason = f"{type(error).__name__}: {error}"
                    self._note_failure(reason)
                    wait, attempt = self._backoff(attempt), attempt + 1
                finally:
                    self.breaker.released()
            silent = time.monotonic() - max(begun, self.breaker.healthy)
            # A server that was lost may be back: whoever asks beside the probe waits for what that finds out.
            if (self.breaker.lost and not self.breaker.probing) or silent + wait > self.calling.patience:
                self.breaker.lost = True
                raise self._lost(silent, reason)
            time.sleep(wait)

    def _attempt(
        self, client: httpx.Client, method: str, path: str, read: Callable[[httpx.Response], T], body: dict[str, Any]
    ) -> T:
        timeout = httpx.Timeout(self.calling.timeout, connect=min(5.0, self.calling.timeout))
        answer = client.request(method, self.url + path, headers=self.headers, timeout=timeout, **body)
        if answer.status_code in RETRIED:
            raise MessageError(f"status {answer.status_code}, {answer.text[:300]}")
        if answer.status_code != 200:
            # It answers: the server is well, and would say the same again.
            self.breaker.succeeded()
            raise RewardError(
                f"the server at {self.url}{path} refuses the request, status {answer.status_code}: "
                f"{answer.text[:500]}{self._remedy(answer.status_code)}"
            )
        value = read(answer)
        self.breaker.succeeded()
        return value

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
        return self.connection.ask(
            "/score", lambda answer: decode_reply(answer.content, request, body, samples), content=body
        )


def gathered(ask: Callable[[T], np.ndarray], parts: Sequence[T], connection: Connection) -> np.ndarray:
    """The answers to several requests, as many at once as may be under way, put together in order: float32 (n,)."""
    if not parts:
        return np.empty(0, np.float32)
    if len(parts) == 1:
        return ask(parts[0])
    with ThreadPoolExecutor(min(connection.calling.concurrency, len(parts))) as threads:
        return np.concatenate(list(threads.map(ask, parts)))
