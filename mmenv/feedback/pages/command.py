"""python -m mmenv label: comparisons of a run or a file go into a store, and a server hands them to people."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from mmenv.arguments import require

with require("labelling"):
    import uvicorn

from mmenv.feedback.comparison import Comparison, media_paths, read_comparisons
from mmenv.feedback.exchange.media import check_media
from mmenv.feedback.pages.config import LabelConfig, Served
from mmenv.feedback.pages.screen import MEDIA_TYPES, worth_asking
from mmenv.feedback.pages.secret_files import key_of, token_of
from mmenv.feedback.pages.server import create_app
from mmenv.feedback.pages.sessions import Sessions
from mmenv.feedback.store.folders import Folders, resolved
from mmenv.feedback.store.store import FeedbackStore, StoreError
from mmenv.serving.connections import limited
from mmenv.serving.guard import Access, is_loopback, listen


def label(console: Console, served: Served) -> int:
    """Serve until interrupted; the address is printed once it can be opened.

    Raises:
        ValueError: what was asked for cannot be served, or the store cannot be opened.
    """
    try:
        serve(console, served)
    except StoreError as error:
        raise ValueError(str(error)) from error
    return 0


def serve(console: Console, served: Served) -> None:
    """``label`` with the store's own errors."""
    listening = listen(served.host, served.port)  # first of all: a port that is taken is known before anything is made
    with listening:
        # Before a store is made for them; what a store has whole already is not read again.
        asked = [] if known_items(served) else askable(console, served.source, served.mode)
        _serve(console, served, listening, asked)


def known_items(served: Served) -> int | None:
    """How many items the store has of this very file, read for the same mode; None where it must be read."""
    if not served.source.is_file() or not ("://" in served.database or Path(served.database).is_file()):
        return None
    with FeedbackStore(served.database) as store:
        return store.remembered(source_digest(served))


def source_digest(served: Served) -> str:
    """SHA-256 of the file, where it lies and the mode that it was read for."""
    with served.source.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    database = None if "://" in served.database else resolved(served.database).parent
    place = Folders(database).kept(resolved(served.source.parent))
    return hashlib.sha256(f"{content} {served.mode} {place}".encode()).hexdigest()


def _serve(console: Console, served: Served, listening: socket.socket, asked: list[Comparison]) -> None:
    token, told = token_of(served.database)  # before anything is made: it may not do
    with FeedbackStore(served.database, media=(served.source.parent, *served.media)) as store:
        source = source_digest(served)
        if asked:
            store.remember(source, len(set(store.add(asked, served.source.parent))))
        check_folders(store)
        to_label = f"{store.remembered(source)} to label, answers go to {store.name}"
        console.print(to_label, soft_wrap=True, highlight=False, markup=False)
        if told:
            console.print(told, soft_wrap=True, highlight=False, markup=False)
        secure = served.https or served.certificate is not None
        names = (*served.names, *(() if is_loopback(served.host) else (socket.gethostname(),)))
        port = listening.getsockname()[1]
        sessions = Sessions(Access(served.host, token, secure, names), port, key_of(served.database))
        announce(console, served, sessions, port)
        files = {"ssl_certfile": served.certificate, "ssl_keyfile": served.private_key}
        server_of(store, served, sessions, **files).run(sockets=[listening])


def check_folders(store: FeedbackStore) -> None:
    """Whether media may be read wherever the items of a store have them.

    Raises:
        ValueError: not in some folders; it names them and the option.
    """
    strange = store.strange_folders()
    if strange:
        named = " ".join(f"--media {folder}" for folder in strange[:5])
        raise ValueError(f"{store.name} has items with media outside its folder: give {named} to show them")


def server_of(store: FeedbackStore, labelling: LabelConfig, sessions: Sessions, **more: Any) -> uvicorn.Server:
    """The server of a store's pages."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(store, labelling, sessions.access, sessions), log_level="warning", access_log=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=5, **limited(), **more,
        )
    )  # fmt: skip


@contextmanager
def serving(store: FeedbackStore, labelling: LabelConfig | None = None, port: int = 0) -> Iterator[str]:
    """Serve a store's pages to this machine while the block runs, from a thread; yields the address that signs in.

    Raises:
        ValueError: the port is taken, or the token's file cannot be used.
    """
    host = "127.0.0.1"
    with listen(host, port) as listening:
        port = listening.getsockname()[1]
        sessions = Sessions(Access(host, token_of(store.url)[0]), port, key_of(store.url))
        server = server_of(store, labelling or LabelConfig(), sessions)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{port}/login#{sessions.access.token}"
        finally:
            server.should_exit = True
            thread.join()


def askable(console: Console, source: Path, mode: str) -> list[Comparison]:
    """The comparisons of a file that a mode can ask about; what is left out is told.

    Raises:
        FileNotFoundError: no such file.
        ValueError: nothing in it can be labelled, or media are missing or of a kind that browsers do not know.
    """
    comparisons, faults = read_comparisons(source)
    for fault in faults:
        console.print(f"{source}, line {fault.line} left out: {fault.reason}", soft_wrap=True, markup=False)
    fit, dropped = worth_asking(comparisons, mode)
    if dropped:
        console.print(f"{dropped} of {len(comparisons)} left out: nothing to choose between", highlight=False)
    if not fit:
        raise ValueError(f"{source} holds nothing to label: give comparisons of two responses that differ")
    paths = [path for c in fit for path in media_paths(c).values()]
    strange = sorted({Path(p).suffix for p in paths} - MEDIA_TYPES.keys() - {s.upper() for s in MEDIA_TYPES})
    if strange:
        raise ValueError(f"{source}: browsers do not know {', '.join(strange)}: use {', '.join(MEDIA_TYPES)}")
    for comparison in fit:
        check_media(comparison, source.parent)
    return fit


def announce(console: Console, served: Served, sessions: Sessions, port: int) -> None:
    """Print the way in for those who label, and for whoever asks them."""
    host, access = served.host.strip("[]"), sessions.access
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, f"[{host}]" if ":" in host else host)
    # The token stands behind #, which browsers keep to themselves: it reaches no log and no other page.
    way = f"{access.scheme}://{name}:{port}/login"
    console.print(
        f"results, for you alone: {way}#{sessions.owner_token}", soft_wrap=True, highlight=False, markup=False
    )
    if not is_loopback(host) and not access.https:
        console.print(
            "http can be read on the way: use it in a network that you trust, or give --certificate and --private-key",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    console.print(f"open {way}#{access.token}", soft_wrap=True, highlight=False, markup=False)
