"""Who is let in to the labelling pages: a signed cookie that says under which name a browser labels."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from collections import deque
from dataclasses import dataclass, field

from mmenv.serving.guard import Access, App, Guard, Scope, cookies_of, new_token, same

SESSION = "mmenv.session"  # in the scope of a request
PUBLIC = ("/login", "/label")  # seen without a session: there a browser gets one
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """What a browser may do.

    Attributes:
        name: under which it labels; ``""`` before one was given.
        owner: whether it sees results while others still judge.
    """

    name: str = ""
    owner: bool = False


class Sessions:
    """Sessions in cookies, signed with a key that annotators do not know.

    Args:
        access: with the token that annotators know.
        port: of the server; cookies know no ports, so their names say it.
        key: of the signatures; with another key or token no old cookie is good any more.
    """

    def __init__(self, access: Access, port: int = 0, key: str | None = None) -> None:
        self.access = access
        self.cookie = f"mmenv_label_{port}"
        secret = (key or new_token()).encode()
        self._key = hmac.new(secret, f"session {access.token}".encode(), hashlib.sha256).digest()
        self.owner_token = _text(hmac.new(secret, f"owner {access.token}".encode(), hashlib.sha256).digest())

    def enter(self, token: str) -> Session | None:
        """The session of somebody who brings a token; None where it is not one of ours."""
        if self.access.knows(token):
            return Session()
        return Session(owner=True) if same(token, self.owner_token) else None

    def write(self, session: Session) -> str:
        """The cookie's value."""
        content = _text(json.dumps([session.name, session.owner]).encode())
        return f"{content}.{self._signature(content)}"

    def read(self, header: str) -> Session | None:
        """The session in a Cookie header; None where there is none that was signed here."""
        return next(filter(None, map(self._session_in, cookies_of(header, self.cookie))), None)

    def _session_in(self, cookie: str) -> Session | None:
        content, _, signature = cookie.partition(".")
        if not same(signature, self._signature(content)):
            return None
        try:
            name, owner = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
        except (ValueError, binascii.Error):
            return None
        return Session(name, owner)

    def _signature(self, content: str) -> str:
        return _text(hmac.new(self._key, content.encode("utf-8", "surrogatepass"), hashlib.sha256).digest())


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@dataclass
class Attempts:
    """Wrong tokens of late: after so many within a minute an address, or all together, must wait.

    Attributes:
        each, together: how many.
        seconds: that they count.
    """

    each: int = 10
    together: int = 100
    seconds: float = 60.0
    failed: deque[tuple[float, str]] = field(default_factory=deque)

    def refuses(self, address: str) -> bool:
        """Whether this address must wait."""
        while self.failed and self.failed[0][0] < time.monotonic() - self.seconds:
            self.failed.popleft()
        return len(self.failed) >= self.together or sum(a == address for _, a in self.failed) >= self.each

    def note(self, address: str) -> None:
        """Count a wrong token, and log it."""
        self.failed.append((time.monotonic(), address))
        number = sum(a == address for _, a in self.failed)
        logger.warning("sign-in with a wrong token from %s, number %d within a minute", address, number)


class PageGuard(Guard):
    """Lets browsers in that have a session, from the server's own pages.

    Args:
        app: what is guarded.
        sessions: who may come in.
    """

    def __init__(self, app: App, sessions: Sessions) -> None:
        super().__init__(app, sessions.access)
        self.sessions = sessions

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        refusal = super()._refusal(scope, headers) or self._crossed(scope, headers)
        if refusal:
            return refusal
        session = scope[SESSION] = self.sessions.read(headers.get("cookie", ""))
        if session is not None or scope["path"] in PUBLIC or scope["path"].startswith("/static/"):
            return None
        wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        return (303, "/login") if wants_page else (401, "sign in at /login")

    def _crossed(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason, where a request comes from the page of somebody else."""
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin", "")
            if origin.lower() != f"{self.access.scheme}://{headers.get('host', '')}".lower():
                return 403, f"origin {origin[:100]!r} is not this server: use its own pages"
        elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if elsewhere and not followed:  # a link that somebody follows is no harm; a picture or a frame may be
            return 403, "another page asks for this: open it by itself"
        return None
