"""One HTTP connection with a deadline and a size limit for every answer."""

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

from mmenv.rewards.remote.messages import MessageError

CONNECT_TIMEOUT = 5.0
MOST_BYTES = 16 * 1024 * 1024  # of an answer; 512 scores with their ids take about 50 KB
Body = Mapping[str, Any]  # ``content=`` or ``json=`` of httpx


class LateError(MessageError):
    """An answer was not complete at its deadline."""


class Lane:
    """A connection for one request at a time, with a deadline for the complete answer.

    Args:
        direct: whether to ignore the environment's proxies.
        context: TLS settings for https.
    """

    def __init__(self, direct: bool, context: ssl.SSLContext) -> None:
        self.client = httpx.Client(limits=httpx.Limits(max_connections=1), trust_env=not direct, verify=context)
        self.stream: Any = None
        self.late = False

    def send(self, method: str, url: str, headers: dict[str, str], timeout: float, body: Body) -> tuple[int, bytes]:
        """Send a request; returns status and body of the answer.

        Raises:
            httpx.RequestError: the connection failed or broke.
            LateError: the answer is not complete after ``timeout`` seconds.
            MessageError: the answer is larger than ``MOST_BYTES``, or compressed.
        """
        self.late = False
        limits = httpx.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout))
        # httpx limits each read separately, so a server that sends a byte now and then would never time out.
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
                raise LateError(f"no complete answer within {timeout:g} s") from error
            raise
        finally:
            deadline.cancel()
        if self.late:  # a body without a length may end because hang_up closed the socket
            raise LateError(f"no complete answer within {timeout:g} s")
        return answer.status_code, data

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Remember the stream in use, which httpx exposes only to trace functions."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self.stream = info["return_value"]

    def hang_up(self) -> None:
        """End the current request from another thread: shutdown wakes the thread that reads, close would not."""
        self.late = True
        if self.stream is not None:
            with contextlib.suppress(OSError):  # already closed
                socket.socket.shutdown(self.stream.get_extra_info("socket"), socket.SHUT_RDWR)


def _bounded(answer: httpx.Response) -> bytes:
    """The body of an answer; a MessageError if it is too large or compressed."""
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise MessageError(
            f"the answer is compressed ({encoding[:40]!r}), which was not requested and may hide any size"
        )
    data = bytearray()
    for part in answer.iter_raw():
        data += part
        if len(data) > MOST_BYTES:
            raise MessageError(f"the answer is larger than {MOST_BYTES} bytes")
    return bytes(data)
