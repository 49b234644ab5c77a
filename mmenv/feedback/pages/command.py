"""python -m mmenv label: put comparisons of a run or a file into a store, and serve the labelling pages."""

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
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import read_comparisons
from mmenv.feedback.comparison_media import check_media, media_paths
from mmenv.feedback.pages.config import LabelConfig, LabelOptions
from mmenv.feedback.pages.presentation import MEDIA_TYPES, labellable
from mmenv.feedback.pages.secret_files import session_key_of, token_of
from mmenv.feedback.pages.server import create_label_app
from mmenv.feedback.pages.sessions import Sessions
from mmenv.feedback.store import FeedbackStore, StoreError
from mmenv.feedback.store.database import real_path
from mmenv.feedback.store.items import MediaFolders
from mmenv.serving.connections import limited
from mmenv.serving.guard import Access, is_loopback, listen

with require("labelling"):
    import uvicorn


def label(console: Console, options: LabelOptions) -> int:
    """Serve until interrupted; the address is printed once it can be opened.

    Raises:
        ValueError: the options are wrong, the comparisons cannot be labelled, or the store cannot be opened.
    """
    try:
        with listen(options.host, options.port) as listening:  # first: fails on a port in use before files are made
            # Before the store is created; a file that the store has already is not read again.
            comparisons = [] if stored_number(options) else read_labellable(console, options)
            _serve(console, options, listening, comparisons)
    except StoreError as error:
        raise ValueError(str(error)) from error
    return 0


def stored_number(options: LabelOptions) -> int | None:
    """Number of items that the store has of this very file, read for the same mode; None if it must be read."""
    if not options.source.is_file() or not ("://" in options.database or Path(options.database).is_file()):
        return None
    with FeedbackStore(options.database) as store:
        return store.source_size(source_digest(options))


def source_digest(options: LabelOptions) -> str:
    """SHA-256 of the file's content, its folder and the mode."""
    with options.source.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    root = None if "://" in options.database else real_path(options.database).parent
    folder = MediaFolders(root).stored(real_path(options.source.parent))
    return hashlib.sha256(f"{content} {options.mode} {folder}".encode()).hexdigest()


def read_labellable(console: Console, options: LabelOptions) -> list[Comparison]:
    """The comparisons of the file that can be labelled; prints which are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: nothing in it can be labelled, or media are missing or of a format that browsers do not know.
    """
    source = options.source
    comparisons, faults = read_comparisons(source)
    for fault in faults:
        console.print(f"{source}, line {fault.line} left out: {fault.reason}", soft_wrap=True, markup=False)
    useful = labellable(comparisons, options.mode)
    left_out = len(comparisons) - len(useful)
    if left_out:
        console.print(f"{left_out} of {len(comparisons)} left out: nothing to choose between", highlight=False)
    if not useful:
        raise ValueError(f"{source} holds nothing to label: give comparisons of two responses that differ")
    suffixes = {Path(path).suffix for comparison in useful for path in media_paths(comparison).values()}
    unknown = sorted(suffix for suffix in suffixes if suffix.lower() not in MEDIA_TYPES)
    if unknown:
        raise ValueError(f"{source}: browsers do not know {', '.join(unknown)}: use {', '.join(MEDIA_TYPES)}")
    for comparison in useful:
        check_media(comparison, source.parent)
    return useful


def _serve(console: Console, options: LabelOptions, listening: socket.socket, comparisons: list[Comparison]) -> None:
    token, warning = token_of(options.database)  # before the store is created: the token may be refused
    folder = options.source.parent
    with FeedbackStore(options.database, media=(folder, *options.media)) as store:
        digest = source_digest(options)
        if comparisons:
            store.record_source(digest, len(set(store.add(comparisons, folder))))
        check_folders(store)
        _print(console, f"{store.source_size(digest)} to label, answers go to {store.name}")
        if warning:
            _print(console, warning)
        https = options.https or options.certificate is not None
        names = (*options.names, *(() if is_loopback(options.host) else (socket.gethostname(),)))
        port = listening.getsockname()[1]
        sessions = Sessions(Access(options.host, token, https, names), port, session_key_of(options.database))
        _print_addresses(console, options.host, sessions, port)
        files = {"ssl_certfile": options.certificate, "ssl_keyfile": options.private_key}
        _server(store, options, sessions, **files).run(sockets=[listening])


def check_folders(store: FeedbackStore) -> None:
    """Check that media may be read in all folders of a store's items.

    Raises:
        ValueError: names the folders where they may not, and the option that allows it.
    """
    untrusted = store.untrusted_folders()
    if untrusted:
        options = " ".join(f"--media {folder}" for folder in untrusted[:5])
        raise ValueError(f"{store.name} has items with media outside its folder: give {options} to show them")


def _server(store: FeedbackStore, labelling: LabelConfig, sessions: Sessions, **options: Any) -> uvicorn.Server:
    app = create_label_app(store, labelling, sessions.access, sessions)
    options |= {"log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False}
    return uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=5, **limited(), **options))


@contextmanager
def serving(store: FeedbackStore, labelling: LabelConfig | None = None, port: int = 0) -> Iterator[str]:
    """Serve a store's pages on this machine from a thread while the block runs; yields the address that signs in.

    Raises:
        ValueError: the port is in use, or the token's file cannot be used.
    """
    host = "127.0.0.1"
    with listen(host, port) as listening:
        port = listening.getsockname()[1]
        sessions = Sessions(Access(host, token_of(store.url)[0]), port, session_key_of(store.url))
        server = _server(store, labelling or LabelConfig(), sessions)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{port}/login#{sessions.access.token}"
        finally:
            server.should_exit = True
            thread.join()


def _print_addresses(console: Console, host: str, sessions: Sessions, port: int) -> None:
    """Print the addresses for annotators and for the owner."""
    host, access = host.strip("[]"), sessions.access
    name = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        name = socket.gethostname()
    # The token stands behind #: browsers send that part to nobody, so it is in no log.
    address = f"{access.scheme}://{name}:{port}/login"
    _print(console, f"results, for you alone: {address}#{sessions.owner_token}")
    if not is_loopback(host) and not access.https:
        _print(console, "http is not encrypted: use it in a trusted network, or give --certificate and --private-key")
    _print(console, f"open {address}#{access.token}")


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
