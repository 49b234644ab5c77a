"""Sessions of browsers: a signed cookie with the annotator's name, and the guard that asks for it."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections import deque
from dataclasses import dataclass, field

from mmenv.arguments import require
from mmenv.serving.guard import Access, App, Guard, Scope, cookies_of, new_token, same

with require("labelling"):
    from itsdangerous import BadData, URLSafeTimedSerializer

SESSION = "mmenv.session"  # key in the scope of a request
PUBLIC = ("/login", "/label")  # pages that a browser gets without a session
YEAR = 365 * 24 * 3600  # seconds
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """What a browser may do.

    Attributes:
        name: of the annotator; ``""`` before one was given.
        owner: whether it sees results while others still judge.
    """

    name: str = ""
    owner: bool = False


class Sessions:
    """Sessions in cookies, signed with a key that annotators do not know.

    Not Starlette's ``SessionMiddleware``: of two cookies of one name it reads the last, which another program on the
    host may have set; here the one with a good signature counts.

    Args:
        access: with the token that annotators know.
        port: of the server; it is part of the cookie's name, because all ports of a host share their cookies.
        key: of the signatures; another key or token makes all old cookies invalid.
    """

    def __init__(self, access: Access, port: int = 0, key: str | None = None) -> None:
        self.access = access
        self.cookie = f"mmenv_label_{port}"
        key = key or new_token()
        self._serializer = URLSafeTimedSerializer(f"{key} {access.token}", salt="mmenv session")
        self.owner_token = hmac.new(key.encode(), f"owner {access.token}".encode(), hashlib.sha256).hexdigest()

    def sign_in(self, token: str) -> Session | None:
        """The session for a token; None for an unknown one."""
        if self.access.knows(token):
            return Session()
        return Session(owner=True) if same(token, self.owner_token) else None

    def write(self, session: Session) -> str:
        """The cookie's value."""
        return str(self._serializer.dumps([session.name, session.owner]))

    def read(self, header: str) -> Session | None:
        """The session in a Cookie header; None without a cookie that was signed here, at most a year ago."""
        for cookie in cookies_of(header, self.cookie):
            try:
                return Session(*self._serializer.loads(cookie, max_age=YEAR))
            except BadData:
                continue
        return None


@dataclass
class FailedLogins:
    """Wrong tokens in the last minute: after too many, an address, or all addresses, must wait.

    Attributes:
        per_address, total: how many are too many.
        seconds: for which they count.
    """

    per_address: int = 10
    total: int = 100
    seconds: float = 60.0
    failed: deque[tuple[float, str]] = field(default_factory=deque)

    def blocks(self, address: str) -> bool:
        """Whether this address must wait."""
        while self.failed and self.failed[0][0] < time.monotonic() - self.seconds:
            self.failed.popleft()
        return len(self.failed) >= self.total or self._number(address) >= self.per_address

    def add(self, address: str) -> None:
        """Count a wrong token, and log it."""
        self.failed.append((time.monotonic(), address))
        number = self._number(address)
        logger.warning("sign-in with a wrong token from %s, number %d within a minute", address, number)

    def _number(self, address: str) -> int:
        return sum(failed == address for _, failed in self.failed)


class PageGuard(Guard):
    """Refuses browsers without a session, and requests from the pages of other sites.

    Args:
        app: the application behind the guard.
        sessions: of the browsers that may use it.
    """

    def __init__(self, app: App, sessions: Sessions) -> None:
        super().__init__(app, sessions.access)
        self.sessions = sessions

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        refusal = super()._refusal(scope, headers) or self._cross_site_refusal(scope, headers)
        if refusal:
            return refusal
        session = scope[SESSION] = self.sessions.read(headers.get("cookie", ""))
        if session is not None or scope["path"] in PUBLIC or scope["path"].startswith("/static/"):
            return None
        wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        return (303, "/login") if wants_page else (401, "sign in at /login")

    def _cross_site_refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason if another site's page makes the request."""
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin", "")
            if origin.lower() != f"{self.access.scheme}://{headers.get('host', '')}".lower():
                return 403, f"origin {origin[:100]!r} is not this server: use its own pages"
        other_site = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        # Following a link is harmless; a picture or a frame on another page may not be.
        follows_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if other_site and not follows_link:
            return 403, "another site's page requests this: open it by itself"
        return None
