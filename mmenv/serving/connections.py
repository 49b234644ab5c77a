"""Limits on the connections of a server of ours: how long a request may take to arrive, and how many there are."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 64  # connections that are accepted in one turn of the loop
MOST_CONNECTIONS = 512
LEAST_CONNECTIONS = 8
SPARE_FILES = 64  # file handles for the database, media and the log


def connection_limit() -> int:
    """The number of connections that leaves a server enough file handles.

    A server without handles cannot accept, and asyncio retries with a traceback each time until connections close.
    """
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(LEAST_CONNECTIONS, min(MOST_CONNECTIONS, files - BACKLOG - SPARE_FILES))


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 with deadlines, so that slow or idle clients cannot hold connections forever; made by ``limited``.

    A connection is dropped when a request is not complete ``request_seconds`` after the connection began or the last
    answer ended, and when its client has not read for as long. When there are ``most`` connections, a new
    one replaces the connection that has waited longest for a request; if none waits, the new one is dropped.
    """

    request_seconds = 30.0
    most = MOST_CONNECTIONS
    deadline: asyncio.TimerHandle | None = None
    stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the first deadline; drop the connection that has waited longest if there are too many."""
        super().connection_made(transport)
        self._await_request()
        if len(self.connections) > self.most:
            waiting = [c for c in self.connections if isinstance(c, LimitedProtocol) and c.deadline and c is not self]
            oldest = min(waiting, key=lambda c: c.deadline.when(), default=self)  # type: ignore[union-attr]
            oldest.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        self._stop("deadline")
        self._stop("stalled")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A complete request ends its deadline."""
        super().data_received(data)
        self._check_request()

    def on_response_complete(self) -> None:
        """Start the deadline of the next request, which may have arrived already."""
        self._await_request()
        super().on_response_complete()
        if not self.transport.is_closing():
            self._check_request()

    def pause_writing(self) -> None:
        """The client reads slower than the answer is sent: start a deadline."""
        self.stalled = self.loop.call_later(self.request_seconds, self.drop)
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client reads again: cancel that deadline."""
        self._stop("stalled")
        super().resume_writing()

    def drop(self) -> None:
        """Close the connection at once."""
        self._stop("deadline")
        self.connections.discard(self)
        self.transport.abort()

    def _check_request(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop("deadline")

    def _await_request(self) -> None:
        self._stop("deadline")
        self.deadline = self.loop.call_later(self.request_seconds, self.drop)

    def _stop(self, timer: str) -> None:
        handle = getattr(self, timer)
        if handle is not None:
            handle.cancel()
            setattr(self, timer, None)


def limited(request_seconds: float = 30.0) -> dict[str, Any]:
    """Arguments of ``uvicorn.Config`` for a server with limits on its connections.

    Args:
        request_seconds: most seconds until a request is complete.
    """
    fields = {"request_seconds": request_seconds, "most": connection_limit()}
    return {"http": type("LimitedProtocol", (LimitedProtocol,), fields), "backlog": BACKLOG}
