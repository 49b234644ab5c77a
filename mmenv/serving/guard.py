"""What stands before every request to a server of ours: host, size and token; and the headers after it.

``Guard`` is what both servers share; who is let in is the policy of each: ``sessions.PageGuard`` for the labelling
pages, and the reward server's own.
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

LEAST_TOKEN, LEAST_LETTERS = 20, 8  # characters of a token, and how many of them differ
PORTS = 65536
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: with that a form is sent with the origin "null", and nobody could tell where it comes from.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


def new_token() -> str:
    """A token that cannot be guessed."""
    return secrets.token_urlsafe(32)


def check_token(token: str, name: str = "the token") -> str:
    """A token, where it will do.

    Raises:
        ValueError: it is short or simple enough to be guessed, or has spaces or other characters that a header or an
            address cannot carry.
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
    """Who may come in.

    Attributes:
        host: the address that the server is bound to.
        token: what everybody has to know; None asks for nothing, and is for loopback alone.
        https: whether browsers reach the server by https, itself or through a proxy.
        names: further names by which browsers reach it.
        body_limit: most bytes of a request.

    Raises:
        ValueError: an address beyond loopback without a token, or a token that could be guessed.
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

    def knows(self, given: str) -> bool:
        """Whether this is the token."""
        return self.token is not None and same(given, self.token)

    def serves(self, host: str) -> bool:
        """Whether a Host header names this server.

        A page of somebody else whose name was rebound to our address still sends its own name. An address cannot be
        rebound, so beyond loopback any of them will do.
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
    """The name in a Host header, without its port; None where it is none."""
    if not host or set(host) & set("/?#@\\ "):
        return None
    try:
        parsed = urlsplit(f"//{host}")
        return parsed.hostname if parsed.port is None or parsed.port else None
    except ValueError:  # a bracket without its other half, or a port that is no number
        return None


def same(given: str, wanted: str) -> bool:
    """Whether two texts are equal, in a time that says nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode("utf-8", "surrogatepass"))


def is_address(name: str) -> bool:
    """Whether this is an IP address and no name."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether only this machine can reach an address."""
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name.strip("[]")).is_loopback)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: the address is taken, or not one of this machine, or there is no such port.
    """
    if not 0 <= port < PORTS:
        raise ValueError(f"port {port} does not exist: give 1 to {PORTS - 1}, or 0 for a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:  # a name that no resolver takes is a UnicodeError
        raise ValueError(f"cannot listen at {host}, port {port} ({error}): give another --port or --host") from error
    # Connections inherit it. Otherwise an answer in two parts waits 40 ms for the other side's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Guard:
    """ASGI middleware: refuses before the application is called, and puts the headers on every answer.

    Args:
        app: what is guarded.
        access: who may come in.
    """

    def __init__(self, app: App, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a socket is asked for: there are none
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
        """Status and reason, where a request is not let in; each server adds its own policy."""
        host = headers.get("host", "")
        if not self.access.serves(host):
            return 421, f"this server is not {host[:100]!r}: use the address that it printed"
        return None

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """The whole body; None where it is larger than allowed, whatever its header said."""
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
    """Headers by name; what was sent twice is joined, so that it equals neither of the two."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key in headers:
            text = f"{headers[key]}{'; ' if key == 'cookie' else ', '}{text}"
        headers[key] = text
    return headers


def cookies_of(header: str, name: str) -> list[str]:
    """The values of all cookies of a name; whatever else stands in the header may have any form.

    Cookies know no ports: those of all programs on a host come together, and another program may have set one of the
    same name for a longer path, which then stands before ours.
    """
    parts = (part.strip().partition("=") for part in header.split(";"))
    return [value.strip('"') for key, separator, value in parts if separator and key == name]


def with_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """Headers of an answer with ours beside them; what an answer says itself stays."""
    given = {name.lower() for name, _ in headers}
    ours = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
    return [*headers, *ours]


async def refuse(status: int, reason: str, send: Send) -> None:
    """An answer in plain text, or the way to another page."""
    headers = [(b"location", reason.encode())] if status == 303 else []
    headers += [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode("utf-8", "replace")})


def replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, and after it what comes."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return pending.pop() if pending else await receive()

    return received
