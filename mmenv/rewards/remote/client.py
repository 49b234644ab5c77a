"""Requests to reward servers, repeated until an answer comes or patience ends, and the reward of an mmenv server."""

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
from mmenv.rewards.remote.breaker import Breaker
from mmenv.rewards.remote.connection import Body, Lane, LateError
from mmenv.rewards.remote.hosts import HOSTS, PORTS, key_for
from mmenv.rewards.remote.messages import TOKEN, MessageError, decode_reply, encode_request
from mmenv.serving.guard import is_loopback

with require("serve"):
    import httpx

RETRIED = (408, 425, 429, 500, 502, 503, 504)  # busy, or a proxy failed: the request itself may be right
LONGEST_WAIT = 5.0  # seconds between two attempts
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestPolicy:
    """Deadlines, retries and the token of requests to a server.

    Attributes:
        timeout: seconds for one attempt, from its start to the last byte of the answer.
        patience: seconds without a valid answer after which RewardError ends the run.
        startup: seconds to wait for a server that has never answered; with 0 a wrong address is an error at once.
        concurrency: most requests under way at once.
        token: sent as a bearer token; None takes that of the environment, if the server's host is a configured one
            (``mmenv.rewards.remote.hosts``).
        variable: environment variable of the token. Every kind of server has its own, so that none is sent to
            somebody else's: MMENV_REWARD_TOKEN, VLLM_API_KEY, OPENAI_API_KEY.
        failures: consecutive failures that open the breaker, so that nothing is sent.
        cooldown: seconds before a single request probes whether the server is back.
        backoff: seconds before the second attempt; doubled each time, up to five, and varied by half.

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
            if not getattr(self, name) > 0:  # also refuses nan
                raise ValueError(f"{name}={getattr(self, name)} is not positive: give seconds above 0")
        for name in ("concurrency", "failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: give 1 or more")
        for name, meaning in (("patience", "for a single attempt"), ("startup", "to wait for no server")):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not a duration: give seconds, or 0 {meaning}")


class BusyError(MessageError):
    """The server, or a proxy before it, is too busy for this request."""


class RefusedRequestError(RewardError):
    """A server refuses this request, and would refuse it again.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """Requests to one server, repeated until a valid answer comes or patience ends; threads may share it.

    Args:
        url: ``http://`` or ``https://``, with or without a path.
        policy: deadlines, retries and token.

    Raises:
        ValueError: ``url`` is not an address.
    """

    def __init__(self, url: str, policy: RequestPolicy) -> None:
        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL:
            parts = httpx.URL("")
        if parts.scheme not in PORTS or not parts.host:
            raise ValueError(f"{url!r} is not the address of a server: give one like http://127.0.0.1:8766")
        self.url, self.policy = url.rstrip("/"), policy
        # The environment's proxies are for other machines, never for loopback.
        self.direct = is_loopback(parts.host)
        self._begin()

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request; a key of the environment is sent to configured hosts only."""
        url, policy = httpx.URL(self.url), self.policy
        token = policy.token or key_for(policy.variable, url.scheme, url.host, url.port or PORTS[url.scheme])
        headers = {"accept-encoding": "identity"}
        return headers | ({"authorization": f"Bearer {token}"} if token else {})

    def _begin(self) -> None:
        self.breaker = Breaker(self.policy.failures, self.policy.cooldown)
        self.lanes: queue.LifoQueue[Lane | None] = queue.LifoQueue()
        for _ in range(self.policy.concurrency):
            self.lanes.put(None)
        self.owner, self.lock = os.getpid(), threading.Lock()
        self.context: ssl.SSLContext | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: self.__dict__[k] for k in ("url", "policy", "direct")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @contextlib.contextmanager
    def _lane(self) -> Iterator[Lane]:
        """A free connection; waits for one."""
        lane = self.lanes.get()
        try:
            with self.lock:
                self.context = self.context or httpx.create_ssl_context()  # reads SSL_CERT_FILE, also for loopback
            lane = lane or Lane(self.direct, self.context)
            yield lane
        finally:
            self.lanes.put(lane)

    def ask(self, path: str, read: Callable[[bytes], T], method: str = "POST", **body: Any) -> T:
        """Send a request, repeatedly if need be, and read the answer.

        Args:
            path: appended to the address.
            read: makes the result of the body of a 200 answer; a MessageError from it repeats the request.
            method: HTTP method; the request must be idempotent.
            **body: ``content=`` or ``json=``, as httpx takes them.

        Raises:
            RewardError: the server refuses the request, has never answered, or gave no valid answer for ``patience``
                seconds.
        """
        if self.owner != os.getpid():  # a forked process must not write into its parent's sockets
            self._begin()
        begun, attempt = time.monotonic(), 0
        reason = f"{self.breaker.consecutive_failures} requests failed in a row"
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
            silent = time.monotonic() - max(begun, self.breaker.last_success)
            # After one thread gave up, the others give up too, unless a probe may still find the server back.
            if (self.breaker.gave_up and not self.breaker.probing) or silent + wait > self.policy.patience:
                self.breaker.gave_up = True
                raise self._lost(silent, reason)
            time.sleep(wait)

    def _attempt(self, lane: Lane, method: str, path: str, read: Callable[[bytes], T], body: Body) -> T:
        status, data = lane.send(method, self.url + path, self.headers, self.policy.timeout, body)
        if status in RETRIED:
            raise BusyError(f"status {status}, {_quoted(data, 300)}")
        if status != 200:
            # The server works, and would refuse the same request again.
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
        """What to do about a status, as the end of an error message."""
        variable = self.policy.variable
        if status in (401, 403) and "authorization" not in self.headers and os.environ.get(variable):
            return f"; {variable} is set but was not sent, because no list allows this host: add it to {HOSTS}"
        return REMEDIES.get(status, "").format(variable)

    def _raise_if_hopeless(self, error: Exception, path: str, waited: float) -> None:
        """Raise where a retry cannot help: a refused certificate, or an address that never answered as it should."""
        if (refused := _certificate_error(error)) is not None:
            raise RewardError(
                f"the certificate of {self.url} is not accepted ({refused}): correct the address, or name "
                "the authority's PEM file in SSL_CERT_FILE"
            ) from error
        if self.breaker.last_success > -math.inf or waited < min(self.policy.startup, self.policy.patience):
            return
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            raise RewardError(
                f"nothing answers at {self.url} ({error}): start the server first, correct host or port, or give "
                "startup=SECONDS to wait for a server that is being started"
            ) from error
        if isinstance(error, MessageError | httpx.LocalProtocolError) and not isinstance(error, BusyError | LateError):
            raise RewardError(
                f"the program at {self.url}{path} is not a server of this kind ({error}): correct host, port or path"
            ) from error

    def _note_failure(self, reason: str) -> None:
        self.breaker.failed()
        if self.breaker.consecutive_failures == self.breaker.failures:
            logger.warning("%s does not answer (%s): waiting up to %g s", self.url, reason, self.policy.patience)

    def _backoff(self, attempt: int) -> float:
        """Seconds before the next attempt; random, so that clients do not return at once (no result depends on it)."""
        return min(LONGEST_WAIT, self.policy.backoff * 2**attempt) * random.uniform(0.5, 1.5)

    def _lost(self, silent: float, reason: str) -> RewardError:
        return RewardError(
            f"the server at {self.url} gave no valid answer for {silent:.0f} s, the patience is "
            f"{self.policy.patience:g} s ({reason}): start it again and resume the run, or give it more patience"
        )


def _quoted(data: bytes, most: int) -> str:
    """The beginning of an answer as text."""
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

    Scores equal those of a local call bit for bit on the same kind of machine: one call is one request, scored in one
    call. Calls of more than ``batch_size`` responses are split, where mmenv's reward models split them too.

    Args:
        url: address of the server.
        batch_size: most responses of one request; 0 never splits. Give a multiple of the reward's own batch: 512 for
            preference models, 32 for models of transformers.
        name: name of the reward in ``info``.
        **settings: the fields of ``RequestPolicy``.
    """

    def __init__(self, url: str, batch_size: int = 512, name: str = "remote", **settings: Any) -> None:
        if batch_size < 0:
            raise ValueError(f"batch_size={batch_size} is negative: give 0 to send all at once, or 512")
        self.connection = Connection(url, RequestPolicy(**settings))
        self.batch_size, self.name = batch_size, name

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The server's scores, float32 (n,).

        Raises:
            RewardError: the server refuses, or gave no valid answer for ``patience`` seconds.
        """
        step = self.batch_size or max(1, len(samples))
        cuts = [slice(i, i + step) for i in range(0, len(samples), step)]
        return gathered(lambda cut: self._ask(samples[cut], responses[cut]), cuts, self.connection)

    def _ask(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        request = uuid.uuid4().hex  # the same in every attempt
        body = encode_request(request, samples, responses)
        return self.connection.ask("/score", lambda answer: decode_reply(answer, request, body, samples), content=body)


def gathered(ask: Callable[[T], np.ndarray], parts: Sequence[T], connection: Connection) -> np.ndarray:
    """Send several requests, at most ``concurrency`` at once; the answers joined in order, float32 (n,)."""
    if not parts:
        return np.empty(0, np.float32)
    if len(parts) == 1:
        return ask(parts[0])
    with ThreadPoolExecutor(min(connection.policy.concurrency, len(parts))) as threads:
        return np.concatenate(list(threads.map(ask, parts)))
