"""Labelling in the browser: pages rendered here, a little script, and a store that keeps every answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote

try:
    from fastapi import FastAPI, Form, Request, Response
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from pydantic import BaseModel, ConfigDict, Field
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing: pip install -c constraints.txt -e ".[labelling]"') from error

from mmenv.data.media import DatasetError
from mmenv.feedback.comparison import TIE, ComparisonError
from mmenv.feedback.screen import MODES, media_file, results_of, shown_order, standing, view_of
from mmenv.feedback.security import SESSION, Access, Guard, cookies_of
from mmenv.feedback.store import FeedbackStore, StoreError, UnknownItemError

HERE = Path(__file__).parent
ANNOTATOR = "mmenv_annotator"
YEAR = 365 * 24 * 3600
STATIC_TYPES = {
    ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
    ".woff2": "font/woff2", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
STATUS: dict[type[Exception], int] = {
    ComparisonError: 422, UnknownItemError: 404, DatasetError: 404, StoreError: 503,
}  # fmt: skip


@dataclass(frozen=True)
class LabelConfig:
    """How items are handed out and asked about.

    Attributes:
        mode: ``"compare"`` (choose one), ``"rank"`` (order all) or ``"score"`` (1 to 5 for each).
        overlap: annotators that judge an item.
        repeats: share of items that come again to the same annotator.

    Raises:
        ValueError: names the argument and the remedy.
    """

    mode: str = "compare"
    overlap: int = 1
    repeats: float = 0.05

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is unknown: use one of {', '.join(MODES)}")
        if self.overlap < 1:
            raise ValueError(f"overlap {self.overlap} is too small: give 1 or more annotators an item")
        if not 0 <= self.repeats < 1:
            raise ValueError(f"repeats {self.repeats} is no share: give a number from 0 up to 1")


Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^\S(.*\S)?$")]
Place = Annotated[int, Field(ge=0, strict=True)]


class Asked(BaseModel):
    """Who asks, and which items are in hand already, in the order of judging."""

    model_config = ConfigDict(extra="forbid")
    annotator: Name
    hand: list[Place] = Field(default=[], max_length=64)


class Said(BaseModel):
    """A judgement as the page sends it: it speaks of places on the screen, not of the item's order."""

    model_config = ConfigDict(extra="forbid")
    annotator: Name
    item: Place
    key: str = Field(min_length=8, max_length=100)
    choice: Place | Literal["tie"] | None = None
    ranking: list[Place] | None = None
    scores: list[Annotated[int, Field(ge=1, le=5, strict=True)]] | None = None
    skipped: bool = False
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


def create_app(store: FeedbackStore, config: LabelConfig | None = None, access: Access | None = None) -> FastAPI:
    """The application: pages, their interface and media, behind the guard.

    Args:
        store: with the items in it.
        config: how to hand them out.
        access: who may come in; by default this machine alone.
    """
    config, access = config or LabelConfig(), access or Access()
    app = FastAPI(title="mmenv label", docs_url=None, redoc_url=None, openapi_url=None)
    pages = Pages(config, access)
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _explaining(status))
    _add_pages(app, store, config, pages)
    _add_login(app, access, pages)
    _add_interface(app, store, config)
    _add_files(app, store)
    app.add_middleware(Guard, access=access)
    return app


def _explaining(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def explain(_request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, status)

    return explain


class Pages:
    """Templates, filled in; what is put into them is text and never markup."""

    def __init__(self, config: LabelConfig, access: Access) -> None:
        self.config, self.access = config, access
        loader = FileSystemLoader(HERE / "templates")
        self.templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self.templates.filters["percent"] = percent

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page."""
        return HTMLResponse(self.templates.get_template(template).render(config=self.config, **values), status)

    def keep(self, response: Response, name: str, value: str) -> None:
        """Set a cookie that scripts cannot read and other sites cannot send."""
        response.set_cookie(
            name, value, max_age=YEAR, httponly=True, samesite="strict", secure=self.access.https, path="/"
        )


def percent(share: float | None) -> str:
    """``"83%"``, or a dash where nothing is known."""
    return "–" if share is None else f"{round(100 * share)}%"


def annotator_of(request: Request) -> str | None:
    """Who labels in this browser."""
    return unquote(cookies_of(request.headers.get("cookie", "")).get(ANNOTATOR, "")) or None


def _add_pages(app: FastAPI, store: FeedbackStore, config: LabelConfig, pages: Pages) -> None:
    @app.get("/")
    def start(request: Request) -> Response:
        name = annotator_of(request)
        return pages.render("welcome.html", name=name, known=store.annotators(), items=len(store.items()), wrong="")

    @app.post("/name")
    def introduce(name: Annotated[str, Form()] = "") -> Response:
        name = " ".join(name.split())
        if not 0 < len(name) <= 80 or not name.isprintable():
            wrong = "Please give a name of 1 to 80 letters."
            return pages.render("welcome.html", 422, name=None, known=[], items=len(store.items()), wrong=wrong)
        response = RedirectResponse("/label", 303)
        pages.keep(response, ANNOTATOR, quote(name, safe=""))
        return response

    @app.get("/label")
    def label(request: Request) -> Response:
        name = annotator_of(request)
        return RedirectResponse("/", 303) if name is None else pages.render("label.html", name=name)

    @app.get("/results")
    def results(request: Request) -> Response:
        return pages.render("results.html", name=annotator_of(request), **results_of(store, config.overlap))

    @app.get("/results.jsonl")
    def download() -> Response:
        lines: Iterator[str] = (json.dumps(j.to_row()) + "\n" for j in store.judgements())
        disposition = {"content-disposition": 'attachment; filename="judgements.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=disposition)


def _add_login(app: FastAPI, access: Access, pages: Pages) -> None:
    @app.get("/login")
    def ask(request: Request) -> Response:
        if access.admits(cookies_of(request.headers.get("cookie", ""))):
            return RedirectResponse("/", 303)
        return pages.render("login.html", name=None, wrong="")

    @app.post("/login")
    def enter(token: Annotated[str, Form()] = "") -> Response:
        if not access.knows(token.strip()):
            return pages.render("login.html", 403, name=None, wrong="That is not the token of this server.")
        response = RedirectResponse("/", 303)
        pages.keep(response, SESSION, access.session)
        return response


def _add_interface(app: FastAPI, store: FeedbackStore, config: LabelConfig) -> None:
    def counts(annotator: str) -> dict[str, int]:
        return asdict(store.counts(annotator, config.overlap))

    @app.post("/api/next")
    def give(asked: Asked) -> dict[str, Any]:
        item = store.next(asked.annotator, config.overlap, config.repeats, asked.hand)
        view = None if item is None else view_of(item, asked.annotator)
        return {"item": view, "counts": counts(asked.annotator)}

    @app.post("/api/judgements")
    def take(said: Said) -> dict[str, Any]:
        new = record(store, said)
        return {"new": new, "counts": counts(said.annotator)}

    @app.post("/api/undo")
    def take_back(asked: Asked) -> dict[str, Any]:
        item = store.undo(asked.annotator)
        view = None if item is None else view_of(item, asked.annotator)
        return {"item": view, "counts": counts(asked.annotator)}

    @app.get("/api/standing")
    def how(annotator: str) -> dict[str, Any]:
        return asdict(standing(store.judgements(), annotator))


def record(store: FeedbackStore, said: Said) -> bool:
    """Keep a judgement, turned from places on the screen to the item's order; durable when this returns.

    Raises:
        ComparisonError: it names a place that the item does not have.
    """
    item = store.item(said.item, said.annotator)
    order = shown_order(said.annotator, item)
    places = [p for p in (said.choice, *(said.ranking or ())) if isinstance(p, int)]
    if any(p >= len(order) for p in places) or (said.scores is not None and len(said.scores) != len(order)):
        raise ComparisonError(f"item {item.id} has {len(order)} responses: choose, rank or score these")
    by_item = None if said.scores is None else [float(said.scores[order.index(i)]) for i in range(len(order))]
    return store.record(
        item.id, said.annotator, said.key,
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
