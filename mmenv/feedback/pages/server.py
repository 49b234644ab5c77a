"""The labelling server: pages, their JSON interface, media, and sign-in."""

from __future__ import annotations

import asyncio
import hashlib
import json
import mimetypes
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from mmenv.arguments import require

with require("labelling"):
    from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
    from fastapi.staticfiles import StaticFiles
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from pydantic import BaseModel, ConfigDict, Field

from mmenv.data.media import DatasetError
from mmenv.feedback.comparison import ComparisonError
from mmenv.feedback.pages.config import LabelConfig
from mmenv.feedback.pages.presentation import media_file, shown_order, view_of
from mmenv.feedback.pages.results import ResultsCache, page_values, standing
from mmenv.feedback.pages.sessions import SESSION, YEAR, FailedLogins, PageGuard, Session, Sessions
from mmenv.feedback.store import FeedbackStore, StoreError, UnknownItemError
from mmenv.feedback.store.annotators import checked_name
from mmenv.feedback.store.judgements import MAX_SECONDS
from mmenv.serving.guard import Access, new_token

HERE = Path(__file__).parent
NAME_LENGTH = 80
RESULTS_WAIT = {"page": 1.0, "standing": 0.3}  # seconds that each waits for current results
mimetypes.add_type("font/woff2", ".woff2")
mimetypes.add_type("text/javascript", ".js")
STATUS: dict[type[Exception], int] = {
    ComparisonError: 422,
    UnknownItemError: 404,
    DatasetError: 404,
    StoreError: 503,
}


Index = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


class PageMessage(BaseModel):
    """A request of the labelling page.

    ``annotator`` is the name that the page was opened with. The session's name counts; if the two differ, somebody else
    has signed in with this browser, and the request is refused.
    """

    model_config = ConfigDict(extra="forbid")
    annotator: str | None = Field(default=None, max_length=NAME_LENGTH)


class ItemMessage(PageMessage):
    """A request for an item; ``queue`` holds the items that the page has already, in the order of judging."""

    queue: list[Index] = Field(default=[], max_length=64)


class JudgementMessage(PageMessage):
    """A judgement; its indices are places on the screen, not in the item's order."""

    item: Index
    key: str = Field(min_length=8, max_length=100)
    choice: Index | Literal["tie"] | None = None
    ranking: list[Index] | None = None
    scores: list[Annotated[int, Field(ge=1, le=5, strict=True)]] | None = None
    skipped: bool = False
    seconds: float | None = Field(default=None, ge=0, le=MAX_SECONDS, allow_inf_nan=False, strict=True)


def create_label_app(
    store: FeedbackStore,
    config: LabelConfig | None = None,
    access: Access | None = None,
    sessions: Sessions | None = None,
) -> FastAPI:
    """The application: pages, their interface and media, behind the guard.

    Args:
        store: with the items.
        config: how to assign them.
        access: address and token; by default for this machine alone, with a new token.
        sessions: of the browsers that have signed in.
    """
    config, access = config or LabelConfig(), access or Access()
    if access.token is None:
        access = replace(access, token=new_token())
    sessions = sessions or Sessions(access)
    app = FastAPI(title="mmenv label", docs_url=None, redoc_url=None, openapi_url=None)
    pages, results = Pages(config, sessions), ResultsCache(store)
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(RequestValidationError, _handle_invalid)
    _add_pages(app, store, pages)
    _add_results(app, store, config, pages, results)
    _add_login(app, pages)
    _add_interface(app, store, config)
    _add_files(app, store)
    app.add_middleware(PageGuard, sessions=sessions)
    return app


def _handler(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_request: Request, error: Exception) -> Response:
        return _error(str(error), status)

    return handle


async def _handle_invalid(_request: Request, error: Exception) -> Response:
    """The errors of a request without its values: JSON cannot hold all of them."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    texts = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in errors]
    return _error("; ".join(texts)[:2000], 422)


def _error(text: str, status: int) -> Response:
    return JSONResponse({"detail": text.encode("utf-8", "replace").decode()}, status)


class Pages:
    """The pages' templates; values are escaped."""

    def __init__(self, config: LabelConfig, sessions: Sessions) -> None:
        self.config, self.sessions = config, sessions
        loader = FileSystemLoader(HERE / "templates")
        self.templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self.templates.filters["percent"] = percent

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """The page of a template and its values."""
        return HTMLResponse(self.templates.get_template(template).render(config=self.config, **values), status)

    def set_session(self, response: Response, session: Session) -> Response:
        """Store the session in a cookie that scripts cannot read and other sites cannot send."""
        value, secure = self.sessions.write(session), self.sessions.access.https
        response.set_cookie(
            self.sessions.cookie, value, max_age=YEAR, httponly=True, samesite="strict", secure=secure, path="/"
        )
        return response


def percent(share: float | None) -> str:
    """``"83%"``, or a dash for None."""
    return "–" if share is None else f"{round(100 * share)}%"


def session_of(request: Request) -> Session | None:
    """The session of the browser that sent a request."""
    return request.scope.get(SESSION)


def annotator_of(request: Request) -> str:
    """The annotator's name in the browser that sent a request.

    Raises:
        HTTPException: it has no name yet.
    """
    session = session_of(request)
    if session is None or not session.name:
        raise HTTPException(401, "give your name first")
    return session.name


Annotator = Annotated[str, Depends(annotator_of)]


def _add_pages(app: FastAPI, store: FeedbackStore, pages: Pages) -> None:
    def welcome(session: Session, status: int = 200, error: str = "") -> Response:
        items, _ = store.progress()
        values = {"name": session.name, "names": store.annotators(), "items": items, "error": error}
        return pages.render("welcome.html", status, **values)

    @app.get("/")
    def get_welcome(request: Request) -> Response:
        return welcome(session_of(request) or Session())

    @app.post("/name")
    def post_name(request: Request, name: Annotated[str, Form()] = "") -> Response:
        session = session_of(request) or Session()
        try:
            name = checked_name(" ".join(name.split()))
            if len(name) > NAME_LENGTH:
                raise ComparisonError("too long")
        except ComparisonError:
            return welcome(replace(session, name=""), 422, f"Please give a name of 1 to {NAME_LENGTH} letters.")
        return pages.set_session(RedirectResponse("/label", 303), replace(session, name=name))

    @app.get("/label")
    def get_label(request: Request) -> Response:
        session = session_of(request)
        if session is None:
            return pages.render("login.html", name=None, error="")
        if not session.name:
            return welcome(session)
        # Servers of two stores may use the same address in turn; a browser keeps unsent answers for each.
        store_id = hashlib.sha256(store.name.encode()).hexdigest()[:16]
        return pages.render("label.html", name=session.name, store=store_id)


def _add_results(app: FastAPI, store: FeedbackStore, config: LabelConfig, pages: Pages, cache: ResultsCache) -> None:
    def still_judging(session: Session) -> bool:
        """Whether somebody has items left, whose judgement the results could bias."""
        _, left = store.progress(config.overlap)
        if session.owner or not left:
            return False
        mine = store.counts(session.name, config.overlap)
        return mine.left > 0 or not mine.judged + mine.skipped

    @app.get("/results")
    async def get_results(request: Request) -> Response:
        latest = await cache.current(RESULTS_WAIT["page"])

        def render() -> Response:
            session = session_of(request) or Session()
            items, unjudged = store.progress()
            values = {} if latest is None else page_values(latest, store.annotator_totals())
            values |= {"items": items, "judged_items": items - unjudged, "ready": latest is not None}
            return pages.render("results.html", name=session.name, hidden=still_judging(session), **values)

        return await asyncio.to_thread(render)

    @app.get("/results.jsonl")
    def download(request: Request) -> Response:
        if still_judging(session_of(request) or Session()):
            raise HTTPException(403, "the judgements can be read once you have judged all items")
        lines: Iterator[str] = (json.dumps(judged.comparison.to_row()) + "\n" for judged in store.judged_items())
        disposition = {"content-disposition": 'attachment; filename="judgements.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=disposition)

    @app.get("/api/standing")
    async def get_standing(annotator: Annotator) -> dict[str, Any]:
        return standing(await cache.current(RESULTS_WAIT["standing"]), annotator)


def _add_login(app: FastAPI, pages: Pages) -> None:
    failed_logins = FailedLogins()

    @app.get("/login")
    def get_login() -> Response:
        return pages.render("login.html", name=None, error="")

    @app.post("/login")
    def sign_in(request: Request, token: Annotated[str, Form()] = "") -> Response:
        address = request.client.host if request.client else "unknown"
        if failed_logins.blocks(address):
            response = pages.render("login.html", 429, name=None, error="Too many wrong tokens: wait a minute.")
            response.headers["retry-after"] = str(round(failed_logins.seconds))
            return response
        session = pages.sessions.sign_in(token.strip())
        if session is None:
            failed_logins.add(address)
            return pages.render("login.html", 403, name=None, error="That is not the token of this server.")
        old = session_of(request) or Session()
        redirect = RedirectResponse("/results" if session.owner else "/", 303)
        return pages.set_session(redirect, Session(old.name, session.owner or old.owner))

    @app.post("/logout")
    def sign_out() -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(pages.sessions.cookie, path="/")
        return response


def _add_interface(app: FastAPI, store: FeedbackStore, config: LabelConfig) -> None:
    def counts(annotator: str) -> dict[str, int]:
        return asdict(store.counts(annotator, config.overlap))

    def check_annotator(message: PageMessage, annotator: str) -> None:
        if message.annotator not in (None, annotator):
            raise HTTPException(409, f"this browser labels as {annotator!r} now: load the page again")

    @app.post("/api/next")
    def next_item(message: ItemMessage, annotator: Annotator) -> dict[str, Any]:
        check_annotator(message, annotator)
        item = store.next(annotator, config.overlap, config.repeats, message.queue)
        return {"item": view_of(item, annotator), "counts": counts(annotator)}

    @app.post("/api/judgements")
    def post_judgement(message: JudgementMessage, annotator: Annotator) -> dict[str, Any]:
        check_annotator(message, annotator)
        new = record(store, message, annotator)
        return {"new": new, "counts": counts(annotator)}

    @app.post("/api/undo")
    def undo(message: PageMessage, annotator: Annotator) -> dict[str, Any]:
        check_annotator(message, annotator)
        item = store.undo(annotator)
        return {"item": view_of(item, annotator), "counts": counts(annotator)}


def record(store: FeedbackStore, message: JudgementMessage, annotator: str) -> bool:
    """Record a judgement in the item's order; it is durable when this returns.

    Raises:
        ComparisonError: it names a place that the item does not have.
    """
    item = store.item(message.item, annotator)
    order = shown_order(annotator, item)
    n, choice, ranking, scores = len(order), message.choice, message.ranking, message.scores
    places = [place for place in (choice, *(ranking or ())) if isinstance(place, int)]
    if any(place >= n for place in places) or (scores is not None and len(scores) != n):
        raise ComparisonError(f"item {item.id} has {n} responses: choose, rank or score these")
    return store.record(
        item.id,
        annotator,
        message.key,
        choice=order[choice] if isinstance(choice, int) else choice,
        ranking=None if ranking is None else [order[place] for place in ranking],
        scores=None if scores is None else [float(scores[order.index(i)]) for i in range(n)],
        skipped=message.skipped,
        order=order,
        seconds=message.seconds,
    )


class StaticAssets(StaticFiles):
    """Style sheets, scripts and fonts, which browsers keep, and revalidate by their ETag."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, or 304 if the browser has it."""
        response = super().file_response(*args, **options)
        response.headers["cache-control"] = "no-cache"
        return response


def _add_files(app: FastAPI, store: FeedbackStore) -> None:
    app.mount("/static", StaticAssets(directory=HERE / "static"))

    @app.get("/media/{item_id}/{name}")
    def get_media(item_id: int, name: str) -> Response:
        path, kind = media_file(store.item(item_id), name)
        # A file that is opened by itself is a page, and may not run anything.
        headers = {"content-security-policy": "default-src 'none'; sandbox", "cache-control": "private, max-age=600"}
        return FileResponse(path, media_type=kind, headers=headers)
