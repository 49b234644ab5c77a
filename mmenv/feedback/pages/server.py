"""Labelling in the browser: pages rendered here, a little script, and a store that keeps every answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from mmenv.arguments import require

with require("labelling"):
    from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from pydantic import BaseModel, ConfigDict, Field

from mmenv.data.media import DatasetError
from mmenv.feedback.comparison import TIE, ComparisonError
from mmenv.feedback.pages.config import LabelConfig
from mmenv.feedback.pages.results import Background, page_values, standing
from mmenv.feedback.pages.screen import media_file, shown_order, view_of
from mmenv.feedback.pages.sessions import SESSION, Attempts, PageGuard, Session, Sessions
from mmenv.feedback.store.checks import MOST_SECONDS, proper_name
from mmenv.feedback.store.store import FeedbackStore, StoreError, UnknownItemError
from mmenv.serving.guard import Access, new_token

HERE = Path(__file__).parent
YEAR = 365 * 24 * 3600
NAME_LENGTH = 80
PATIENCE = {"page": 1.0, "standing": 0.3}  # seconds that each waits for fresh results
STATIC_TYPES = {
    ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
    ".woff2": "font/woff2", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
STATUS: dict[type[Exception], int] = {
    ComparisonError: 422, UnknownItemError: 404, DatasetError: 404, StoreError: 503,
}  # fmt: skip


Place = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


class Asked(BaseModel):
    """Which items a page has in hand already, in the order of judging.

    ``annotator`` is under whom the page was opened. Whose answer it is says the session alone; where the two differ,
    somebody else has begun in this browser, and the request is refused.
    """

    model_config = ConfigDict(extra="forbid")
    annotator: str | None = Field(default=None, max_length=NAME_LENGTH)
    hand: list[Place] = Field(default=[], max_length=64)


class Said(BaseModel):
    """A judgement as the page sends it: it speaks of places on the screen, not of the item's order."""

    model_config = ConfigDict(extra="forbid")
    annotator: str | None = Field(default=None, max_length=NAME_LENGTH)
    item: Place
    key: str = Field(min_length=8, max_length=100)
    choice: Place | Literal["tie"] | None = None
    ranking: list[Place] | None = None
    scores: list[Annotated[int, Field(ge=1, le=5, strict=True)]] | None = None
    skipped: bool = False
    seconds: float | None = Field(default=None, ge=0, le=MOST_SECONDS, allow_inf_nan=False, strict=True)


def create_app(
    store: FeedbackStore,
    config: LabelConfig | None = None,
    access: Access | None = None,
    sessions: Sessions | None = None,
) -> FastAPI:
    """The application: pages, their interface and media, behind the guard.

    Args:
        store: with the items in it.
        config: how to hand them out.
        access: who may come in; by default this machine alone, with a token that nobody knows yet.
        sessions: of the browsers that are let in.
    """
    config, access = config or LabelConfig(), access or Access()
    if access.token is None:
        access = replace(access, token=new_token())
    sessions = sessions or Sessions(access)
    app = FastAPI(title="mmenv label", docs_url=None, redoc_url=None, openapi_url=None)
    pages, background = Pages(config, sessions), Background(store)
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _explaining(status))
    app.add_exception_handler(RequestValidationError, _refusing)
    _add_pages(app, store, pages)
    _add_results(app, store, config, pages, background)
    _add_login(app, pages)
    _add_interface(app, store, config)
    _add_files(app, store)
    app.add_middleware(PageGuard, sessions=sessions)
    return app


def _explaining(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def explain(_request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error).encode("utf-8", "replace").decode()}, status)

    return explain


async def _refusing(_request: Request, error: Exception) -> Response:
    """What is wrong with a request, without its values: JSON cannot say all of them again."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    texts = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults]
    return JSONResponse({"detail": "; ".join(texts)[:2000].encode("utf-8", "replace").decode()}, 422)


class Pages:
    """Templates, filled in; what is put into them is text and never markup."""

    def __init__(self, config: LabelConfig, sessions: Sessions) -> None:
        self.config, self.sessions = config, sessions
        loader = FileSystemLoader(HERE / "templates")
        self.templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self.templates.filters["percent"] = percent

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page."""
        return HTMLResponse(self.templates.get_template(template).render(config=self.config, **values), status)

    def keep(self, response: Response, session: Session) -> Response:
        """Set the session in a cookie that scripts cannot read and other sites cannot send."""
        response.set_cookie(
            self.sessions.cookie, self.sessions.write(session), max_age=YEAR, httponly=True, samesite="strict",
            secure=self.sessions.access.https, path="/",
        )  # fmt: skip
        return response


def percent(share: float | None) -> str:
    """``"83%"``, or a dash where nothing is known."""
    return "–" if share is None else f"{round(100 * share)}%"


def session_of(request: Request) -> Session | None:
    """The session of the browser that asks."""
    return request.scope.get(SESSION)


def annotator_of(request: Request) -> str:
    """Under which name the browser that asks labels.

    Raises:
        HTTPException: under none yet.
    """
    session = session_of(request)
    if session is None or not session.name:
        raise HTTPException(401, "give your name first")
    return session.name


Annotator = Annotated[str, Depends(annotator_of)]


def _add_pages(app: FastAPI, store: FeedbackStore, pages: Pages) -> None:
    def welcome(session: Session, status: int = 200, wrong: str = "") -> Response:
        items, _ = store.progress()
        known = store.annotators()
        return pages.render("welcome.html", status, name=session.name, known=known, items=items, wrong=wrong)

    @app.get("/")
    def start(request: Request) -> Response:
        return welcome(session_of(request) or Session())

    @app.post("/name")
    def introduce(request: Request, name: Annotated[str, Form()] = "") -> Response:
        session = session_of(request) or Session()
        try:
            name = proper_name(" ".join(name.split()))
            if len(name) > NAME_LENGTH:
                raise ComparisonError("too long")
        except ComparisonError:
            return welcome(replace(session, name=""), 422, f"Please give a name of 1 to {NAME_LENGTH} letters.")
        return pages.keep(RedirectResponse("/label", 303), replace(session, name=name))

    @app.get("/label")
    def label(request: Request) -> Response:
        session = session_of(request)
        if session is None:  # what is missing stands in the page's place
            return pages.render("login.html", name=None, wrong="")
        if not session.name:
            return welcome(session)
        # Pages of two stores may follow each other at one address; a browser keeps answers for each.
        place = hashlib.sha256(store.name.encode()).hexdigest()[:16]
        return pages.render("label.html", name=session.name, store=place)


def _add_results(app: FastAPI, store: FeedbackStore, config: LabelConfig, pages: Pages, background: Background) -> None:
    def still_judging(session: Session) -> bool:
        """Whether somebody could judge otherwise for having seen who wins."""
        _, left = store.progress(config.overlap)
        if session.owner or not left:
            return False
        mine = store.counts(session.name, config.overlap)
        return mine.left > 0 or not mine.judged + mine.skipped

    @app.get("/results")
    async def results(request: Request) -> Response:
        latest = await background.fresh(PATIENCE["page"])

        def render() -> Response:
            session = session_of(request) or Session()
            (items, unjudged), hidden = store.progress(), still_judging(session)
            values = {} if latest is None else page_values(latest, store.people())
            told = {"items": items, "judged_items": items - unjudged, "hidden": hidden, "ready": latest is not None}
            return pages.render("results.html", name=session.name, **told, **values)

        return await asyncio.to_thread(render)

    @app.get("/results.jsonl")
    def download(request: Request) -> Response:
        if still_judging(session_of(request) or Session()):
            raise HTTPException(403, "the judgements can be read once you have judged all items")
        lines: Iterator[str] = (json.dumps(j.to_row()) + "\n" for j in store.stream())
        disposition = {"content-disposition": 'attachment; filename="judgements.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=disposition)

    @app.get("/api/standing")
    async def how(annotator: Annotator) -> dict[str, Any]:
        return standing(await background.fresh(PATIENCE["standing"]), annotator)


def _add_login(app: FastAPI, pages: Pages) -> None:
    attempts = Attempts()

    @app.get("/login")
    def ask() -> Response:
        return pages.render("login.html", name=None, wrong="")

    @app.post("/login")
    def enter(request: Request, token: Annotated[str, Form()] = "") -> Response:
        address = request.client.host if request.client else "unknown"
        if attempts.refuses(address):
            busy = pages.render("login.html", 429, name=None, wrong="Too many wrong tokens: wait a minute.")
            busy.headers["retry-after"] = str(round(attempts.seconds))
            return busy
        session = pages.sessions.enter(token.strip())
        if session is None:
            attempts.note(address)
            return pages.render("login.html", 403, name=None, wrong="That is not the token of this server.")
        old = session_of(request) or Session()
        response = RedirectResponse("/results" if session.owner else "/", 303)
        return pages.keep(response, Session(old.name, session.owner or old.owner))

    @app.post("/logout")
    def leave() -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(pages.sessions.cookie, path="/")
        return response


def _add_interface(app: FastAPI, store: FeedbackStore, config: LabelConfig) -> None:
    def counts(annotator: str) -> dict[str, int]:
        return asdict(store.counts(annotator, config.overlap))

    def agreed(claimed: str | None, annotator: str) -> None:
        if claimed not in (None, annotator):
            raise HTTPException(409, f"this browser labels as {annotator!r} now: load the page again")

    @app.post("/api/next")
    def give(asked: Asked, annotator: Annotator) -> dict[str, Any]:
        agreed(asked.annotator, annotator)
        item = store.next(annotator, config.overlap, config.repeats, asked.hand)
        view = None if item is None else view_of(item, annotator)
        return {"item": view, "counts": counts(annotator)}

    @app.post("/api/judgements")
    def take(said: Said, annotator: Annotator) -> dict[str, Any]:
        agreed(said.annotator, annotator)
        new = record(store, said, annotator)
        return {"new": new, "counts": counts(annotator)}

    @app.post("/api/undo")
    def take_back(asked: Asked, annotator: Annotator) -> dict[str, Any]:
        agreed(asked.annotator, annotator)
        item = store.undo(annotator)
        view = None if item is None else view_of(item, annotator)
        return {"item": view, "counts": counts(annotator)}


def record(store: FeedbackStore, said: Said, annotator: str) -> bool:
    """Keep a judgement, turned from places on the screen to the item's order; durable when this returns.

    Raises:
        ComparisonError: it names a place that the item does not have.
    """
    item = store.item(said.item, annotator)
    order = shown_order(annotator, item)
    places = [p for p in (said.choice, *(said.ranking or ())) if isinstance(p, int)]
    if any(p >= len(order) for p in places) or (said.scores is not None and len(said.scores) != len(order)):
        raise ComparisonError(f"item {item.id} has {len(order)} responses: choose, rank or score these")
    by_item = None if said.scores is None else [float(said.scores[order.index(i)]) for i in range(len(order))]
    return store.record(
        item.id, annotator, said.key,
        choice=order[said.choice] if isinstance(said.choice, int) else (TIE if said.choice else None),
        ranking=None if said.ranking is None else [order[p] for p in said.ranking],
        scores=by_item, skipped=said.skipped, order=order, seconds=said.seconds,
    )  # fmt: skip


def _add_files(app: FastAPI, store: FeedbackStore) -> None:
    static = {path.name: path.read_bytes() for path in (HERE / "static").iterdir() if path.suffix in STATIC_TYPES}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:20]}"' for name, content in static.items()}

    @app.get("/static/{name}")
    def asset(name: str, request: Request) -> Response:
        if name not in static:
            return Response("no such file", 404, media_type="text/plain")
        headers = {"etag": tags[name], "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(static[name], headers=headers, media_type=STATIC_TYPES[Path(name).suffix])

    @app.get("/media/{item_id}/{name}")
    def media(item_id: int, name: str) -> Response:
        path, kind = media_file(store.item(item_id), name)
        # Should somebody open a file by itself, it is a page of its own that may do nothing.
        headers = {"content-security-policy": "default-src 'none'; sandbox", "cache-control": "private, max-age=600"}
        return FileResponse(path, media_type=kind, headers=headers)
