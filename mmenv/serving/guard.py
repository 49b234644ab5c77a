"""Checks before every request to mmenv's servers (host, size, token), and the security headers of every answer.

``Guard`` is what both servers share. Each adds its own policy: ``sessions.PageGuard`` for the labelling pages, and
``TokenGuard`` for the reward server. Starlette's TrustedHostMiddleware knows names only: it cannot accept every address
and refuse rebound names, limit a body without a length, or answer 421 with the reason.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LEAST_TOKEN = 20  # characters of a token
LEAST_LETTERS = 8  # different characters of a token
PORTS = 65536
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With no-referrer browsers send forms with the origin "null", which the origin check cannot tell apart.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


def new_token() -> str:
    """A new random token."""
    return secrets.token_urlsafe(32)


def check_token(token: str, name: str = "the token") -> str:
    """Check a token that a person chose.

    Args:
        token: returned unchanged.
        name: what the error calls it.

    Raises:
        ValueError: it is short or simple enough to be guessed, or has characters that a header or an address cannot
            carry.
    """
    if len(token) < LEAST_TOKEN or len(set(token)) < LEAST_LETTERS:
        raise ValueError(
            f"{name} has {len(token)} characters, {len(set(token))} of them different, and could be guessed: "
            f"give {LEAST_TOKEN} or more, such as {new_token()}"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{name} has characters that an address cannot carry: give letters and digits")
    return token


@dataclass(frozen=True)
class Access:
    """Who may use a server.

    Attributes:
        host: the address that the server is bound to.
        token: required of every client; None requires none, and is allowed on loopback only.
        https: whether browsers reach the server by https, directly or through a proxy.
        names: further host names of the server.
        body_limit: most bytes of a request.

    Raises:
        ValueError: the address is not loopback and there is no token, or the token could be guessed.
    """

    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    https: bool = False
    names: tuple[str, ...] = ()
    body_limit: int = 64 * 1024

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host!r} can be reached from other machines: give a token")
        if self.token is not None:
            check_token(self.token)

    @property
    def scheme(self) -> str:
        """``"https"`` or ``"http"``, as browsers see it."""
        return "https" if self.https else "http"

    def knows(self, token: str) -> bool:
        """Whether ``token`` is the token of the server."""
        return self.token is not None and same(token, self.token)

    def serves(self, host: str) -> bool:
        """Whether a Host header names this server.

        This stops DNS rebinding: a foreign page whose name was rebound to this server's address still sends its own
        name. Addresses cannot be rebound, so a server beyond loopback accepts any address.
        """
        name = host_name(host)
        if name is None:
            return False
        if name in (self.host.strip("[]").lower(), *(n.lower() for n in self.names)):
            return True
        if is_loopback(name):
            return True
        return not is_loopback(self.host) and is_address(name)


def host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None if the header is invalid."""
    if not host or set(host) & set("/?#@\\ "):
        return None
    try:
        parsed = urlsplit(f"//{host}")
        return parsed.hostname if parsed.port is None or parsed.port else None
    except ValueError:  # an unclosed bracket, or a port that is not a number
        return None


def same(one: str, other: str) -> bool:
    """Whether two texts are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def is_address(name: str) -> bool:
    """Whether ``name`` is an IP address."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether only this machine can reach an address."""
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name.strip("[]")).is_loopback)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: address or name of this machine.
        port: 0 takes a free one.

    Raises:
        ValueError: the address is taken or belongs to another machine, or there is no such port.
    """
    if not 0 <= port < PORTS:
        raise ValueError(f"port {port} does not exist: give 1 to {PORTS - 1}, or 0 for a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:  # an invalid name is a UnicodeError
        raise ValueError(f"cannot listen at {host}, port {port} ({error}): give another --port or --host") from error
    # Inherited by connections. Without it an answer in two parts waits 40 ms for the client's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Guard:
    """ASGI middleware: refuses requests before the application sees them, and adds the headers to every answer.

    Args:
        app: the guarded application.
        access: who may use it.
    """

    def __init__(self, app: App, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket, which no server here offers
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = headers_of(scope["headers"])

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = with_headers(message.get("headers", ()))
            await send(message)

        refusal = self._refusal(scope, headers)
        body = b"" if refusal else await self._body(headers, receive)
        if body is None:
            refusal = (413, f"too large: at most {self.access.body_limit} bytes")
        if refusal:
            await refuse(*refusal, sending)
        else:
            await self.app(scope, replay(body or b"", receive), sending)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason of a refusal, None to accept; each server adds its own policy."""
        host = headers.get("host", "")
        if not self.access.serves(host):
            return 421, f"this server is not {host[:100]!r}: use the address that it printed"
        return None

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """The complete body; None if it is larger than the limit, whatever its header says."""
        limit, length = self.access.body_limit, headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > limit:
            return None
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > limit:
                return None
        return b"".join(parts)


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; repeated ones are joined, so that they equal neither of the values."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key in headers:
            text = f"{headers[key]}{'; ' if key == 'cookie' else ', '}{text}"
        headers[key] = text
    return headers


def cookies_of(header: str, name: str) -> list[str]:
    """The values of all cookies with a name; the rest of the header may have any form.

    Cookies have no port: a header holds those of all programs on a host, and another program may have set one of the
    same name for a longer path, which then comes first.
    """
    parts = (part.strip().partition("=") for part in header.split(";"))
    return [value.strip('"') for key, separator, value in parts if separator and key == name]


def with_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with ``HEADERS`` added; the answer's own values win."""
    present = {name.lower() for name, _ in headers}
    added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in present]
    return [*headers, *added]


async def refuse(status: int, reason: str, send: Send) -> None:
    """Send an answer in plain text; with status 303, a redirection to ``reason``."""
    headers = [(b"location", reason.encode())] if status == 303 else []
    headers += [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode("utf-8", "replace")})


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that first gives a body that was read already."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return pending.pop() if pending else await receive()

    return received
