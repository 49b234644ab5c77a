"""Limits on connections: half requests, idle clients and clients that read nothing are dropped, others are served."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from contextlib import contextmanager

import pytest

if os.environ.get("MMENV_REQUIRE_ALL") != "1":
    pytest.importorskip("uvicorn", reason='servers: pip install -c constraints.txt -e ".[serve]"')
import uvicorn

from mmenv.serving.connections import connection_limit, limited
from mmenv.serving.guard import listen

WHOLE = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def answers(scope, receive, send):
    """Late at /late, with forty megabytes at /large, else at once, when the body is there."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(0.5 if scope["path"] == "/late" else 0)
    body = b"x" * (40_000_000 if scope["path"] == "/large" else 2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(seconds=0.25, most=64):
    """The port of a server in a thread, and its connections."""
    arguments = limited(seconds)
    arguments["http"].most = most
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(answers, lifespan="off", log_level="critical", **arguments))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1], server.server_state.connections
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def connect(port, data=b""):
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(data)
    return client


def read(client, answers=1):
    """The bodies of so many answers, or what came until the server closed the connection."""
    data = b""
    while data.count(b"\r\n\r\nxx") < answers:
        try:
            part = client.recv(1 << 16)
        except ConnectionResetError:
            part = b""
        if not part:
            break
        data += part
    return data.count(b"\r\n\r\nxx")


@pytest.mark.parametrize(
    ("half", "drip"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nhost: x", b"x"),
     (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n", b"1")],
)  # fmt: skip
def test_a_request_that_does_not_become_complete_is_dropped_however_often_a_byte_comes(half, drip):
    with serving() as (port, _), connect(port, half) as client, connect(port, WHOLE) as other:
        assert read(other) == 1
        client.settimeout(0.02)
        begun, dropped = time.monotonic(), False
        while not dropped and time.monotonic() - begun < 60:
            try:
                client.sendall(drip)
                dropped = client.recv(1) == b""
            except TimeoutError:
                pass
            except OSError:
                dropped = True
        assert dropped


def test_a_late_answer_and_requests_behind_each_other_are_not_dropped():
    late = WHOLE.replace(b"/ ", b"/late ")
    with serving() as (port, _), connect(port, late + late + WHOLE) as client:
        assert read(client, 3) == 3


def test_a_client_that_reads_nothing_of_its_answer_is_dropped():
    with serving() as (port, connections), connect(port, WHOLE.replace(b"/ ", b"/large ")):
        until = time.monotonic() + 60
        while not connections:
            time.sleep(0.01)
        while connections:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_where_there_are_too_many_connections_the_one_that_waited_longest_makes_room():
    with serving(seconds=20, most=3) as (port, connections):
        waiting = []
        for count in (1, 2, 3, 3, 3):
            waiting.append(connect(port, b"GET"))
            while len(connections) != count or waiting[-1].getsockname() not in {c.client for c in connections}:
                time.sleep(0.01)
        with connect(port, WHOLE) as client:
            assert read(client) == 1
        assert [read(c) for c in waiting[:2]] == [0, 0]
        ports = {c.client for c in connections}
        assert waiting[-1].getsockname() in ports
        assert waiting[0].getsockname() not in ports
        for client in waiting:
            client.close()


def test_the_limit_leaves_file_handles_for_the_rest(monkeypatch):
    resource = pytest.importorskip("resource")
    for files, most in ((256, 128), (64, 8), (100_000, 512), (resource.RLIM_INFINITY, 512)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert connection_limit() == most
