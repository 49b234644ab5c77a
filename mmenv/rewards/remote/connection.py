"""One HTTP connection whose answers have a deadline and a largest size."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Mapping
from typing import Any

from mmenv.arguments import require

with require("serve"):
    import httpx

from mmenv.rewards.remote.wire import MessageError

CONNECT_TIMEOUT = 5.0
MOST_BYTES = 16 * 1024 * 1024  # of an answer: 512 scores and names take some 50 KB
Body = Mapping[str, Any]  # ``content=`` or ``json=`` of httpx


class LateError(MessageError):
    """An answer was not there, or not whole, at its deadline."""


class Lane:
    """A connection to a server for one request at a time, with a deadline for the whole of its answer.

    Args:
        direct: whether the environment's proxies are passed by.
        context: of https.
    """

    def __init__(self, direct: bool, context: ssl.SSLContext) -> None:
        self.client = httpx.Client(limits=httpx.Limits(max_connections=1), trust_env=not direct, verify=context)
        self.stream: Any = None
        self.late = False

    def send(self, method: str, url: str, headers: dict[str, str], timeout: float, body: Body) -> tuple[int, bytes]:
        """Status and body of an answer.

        Raises:
            httpx.RequestError: no connection, or it broke.
            LateError: the answer is not whole after ``timeout`` seconds.
            MessageError: it is larger than ``MOST_BYTES``, or packed.
        """
        self.late = False
        limits = httpx.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout))
        # httpx times each read by itself: a server that sends a byte now and then would be read for ever.
        deadline = threading.Timer(timeout, self.hang_up)
        deadline.daemon = True
        deadline.start()
        try:
            with self.client.stream(
                method, url, headers=headers, timeout=limits, extensions={"trace": self._trace}, **body
            ) as answer:
                data = _bounded(answer)
        except httpx.ConnectTimeout:
            raise
        except httpx.RequestError as error:
            if self.late or isinstance(error, httpx.TimeoutException):
                raise LateError(f"no whole answer within {timeout:g} s") from error
            raise
        finally:
            deadline.cancel()
        if self.late:  # the end of a body without a length may be ours
            raise LateError(f"no whole answer within {timeout:g} s")
        return answer.status_code, data

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Take down the stream in use, which httpx shows to nobody else."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self.stream = info["return_value"]

    def hang_up(self) -> None:
        """End the request under way, from another thread: closing a socket would not wake who reads it."""
        self.late = True
        if self.stream is not None:
            with contextlib.suppress(OSError):  # closed already
                socket.socket.shutdown(self.stream.get_extra_info("socket"), socket.SHUT_RDWR)


def _bounded(answer: httpx.Response) -> bytes:
    """The body of an answer, as long as it is neither too large nor packed."""
    packed = answer.headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise MessageError(f"the answer is packed ({packed[:40]!r}), which was not asked for and may hide any size")
    data = bytearray()
    for part in answer.iter_raw():
        data += part
        if len(data) > MOST_BYTES:
            raise MessageError(f"the answer is larger than {MOST_BYTES} bytes")
    return bytes(data)
