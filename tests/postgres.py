"""A PostgreSQL server of the tests' own, on a free port, with as many databases as they want."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

HINT = "PostgreSQL was not found: apt-get install postgresql"


def program(name: str, debian: Path = Path("/usr/lib/postgresql")) -> Path | None:
    """A program of the server: of Debian's newest version, else the one on the path."""
    installed = [p for p in debian.glob(f"*/bin/{name}") if p.parent.parent.name.isdecimal()]
    newest = max(installed, key=lambda path: int(path.parent.parent.name), default=None)
    on_path = shutil.which(name)
    return newest or (Path(on_path) if on_path else None)


def skip_or_fail(reason: str) -> None:
    """A missing program skips a test, and fails it where nothing may be skipped."""
    if os.environ.get("MMENV_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class Server:
    """A running server; ``close`` stops it and removes its files."""

    def __init__(self) -> None:
        initdb, self._control = program("initdb"), program("pg_ctl")
        if initdb is None or self._control is None:
            skip_or_fail(HINT)
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the path of a Unix socket may have 107 bytes
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # the server refuses to be root
            self._as_user = ["setpriv", "--reuid=nobody", f"--regid={_group_of('nobody')}", "--clear-groups"]
            shutil.chown(self.folder, "nobody")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run(str(initdb), "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c shared_buffers=16MB"
        log = str(self.folder / "log")
        self._run(str(self._control), "-D", self._data, "-w", "-t", "60", "-l", log, "-o", options, "start")

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, *words: str) -> None:
        # Not captured by pipes: the server would keep them open.
        with (self.folder / "commands").open("ab") as output:
            done = subprocess.run([*self._as_user, *words], stdout=output, stderr=output, cwd="/", timeout=120)
        if done.returncode:
            said = (self.folder / "commands").read_text(errors="replace")
            raise RuntimeError(f"{' '.join(words)} failed: {said[-2000:]}")

    def database(self) -> str:
        """URL of a new and empty schema: a database of its own would cost 7 MB of files each."""
        import psycopg

        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres?options=-csearch_path%3D{name}"

    def close(self) -> None:
        self._run(str(self._control), "-D", self._data, "-m", "immediate", "stop")
        shutil.rmtree(self.folder)


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid
