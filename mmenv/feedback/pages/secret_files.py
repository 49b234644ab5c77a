"""Secrets in files beside a database: the token of the annotators, and the key that signs their sessions."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from mmenv.serving.guard import check_token, new_token

TOKEN = "MMENV_LABEL_TOKEN"


def token_of(database: str) -> tuple[str, str | None]:
    """The token of a database's pages, and a warning if an old one was replaced.

    It comes from the environment, or is made once and stored beside the database, so that it survives a restart.

    Raises:
        ValueError: it could be guessed, or its file cannot be used.
    """
    token = os.environ.get(TOKEN)
    if token is not None:
        return check_token(token, TOKEN), None
    return _secret(database, "token")


def session_key_of(database: str) -> str:
    """The key that signs sessions, stored beside the database.

    Raises:
        ValueError: it could be guessed, or its file cannot be used.
    """
    return _secret(database, "key")[0]


def _secret(database: str, kind: str) -> tuple[str, str | None]:
    """A secret from a file beside a database; a database server has no file, and gets a new secret at each start."""
    if "://" in database:
        return new_token(), None
    path = Path(f"{database}.{kind}")
    try:
        if not os.path.lexists(path):
            return _make(path, replace=False), None
        if _readable_by_others(path):
            warning = f"{path} could be read by others: it holds a new {kind}, and all annotators have to sign in again"
            return _make(path, replace=True), warning
        text = path.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be used ({error}): make its folder writable, or set {TOKEN}") from error
    try:
        return check_token(text, str(path)), None
    except ValueError as error:
        raise ValueError(f"{error}; or delete the file, and the next start makes a new one") from error


def _readable_by_others(path: Path) -> bool:
    """Whether others can read a file, or wrote it.

    Raises:
        ValueError: it is a link or not a regular file.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is no plain file: delete it, and the next start makes one")
    return os.name == "posix" and (bool(status.st_mode & 0o077) or status.st_uid != os.geteuid())


def _make(path: Path, replace: bool) -> str:
    """A new secret in a file that only its owner can read; a kill or a full disk leaves no incomplete one.

    If another process has made the file meanwhile, its secret is used.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # mode 0600
    try:
        with open(handle, "w", encoding="ascii") as file:
            file.write(new_token())
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink(missing_ok=True)
    return check_token(path.read_text("ascii").strip(), str(path))
