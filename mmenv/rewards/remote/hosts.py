"""The servers that are sent a key: hosts that the user configured, never a host that only a file names.

A run's config.json, a results file or an environment's spec may hold the address of a server, and such a file can come
from somebody else. So a server gets a key only if its host stands in ``MMENV_REWARD_HOSTS``, is that of
``OPENAI_BASE_URL``, or was typed on the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

HOSTS = "MMENV_REWARD_HOSTS"
OPENAI = "https://api.openai.com"  # where OPENAI_API_KEY belongs unless OPENAI_BASE_URL says otherwise
# The environment variable of a key -> the kind of server that it is for, as addresses name it.
KINDS = {"MMENV_REWARD_TOKEN": "mmenv", "VLLM_API_KEY": "vllm", "OPENAI_API_KEY": "openai"}
SCHEMES = ("http://", "https://")
PORTS = {"http": 80, "https": 443}


class Host(NamedTuple):
    """A host that may be sent keys; None means any kind of server, any scheme, any port."""

    kind: str | None
    scheme: str | None
    name: str
    port: int | None

    def covers(self, other: Host) -> bool:
        """Whether an address (a host without None) belongs to this host."""
        return self.name == other.name and all(a in (None, b) for a, b in zip(self, other, strict=True))


def parse(entry: str) -> Host:
    """A host from ``[mmenv+|vllm+|openai+][http[s]://]HOST[:PORT]``; a path and a query are ignored.

    Raises:
        ValueError: the entry has no host.
    """
    kind, plus, rest = entry.partition("+")
    if not plus or kind not in KINDS.values():
        kind, rest = "", entry
    parts = urlsplit(rest if rest.startswith(SCHEMES) else f"//{rest}")
    try:
        port = parts.port
    except ValueError:
        port, parts = None, urlsplit("")
    if not parts.hostname:
        raise ValueError(f"{HOSTS} names {entry!r}, which is not a host: give HOST, HOST:PORT or http://HOST:PORT")
    return Host(kind or None, parts.scheme or None, parts.hostname.lower(), port or PORTS.get(parts.scheme))


def configured() -> list[Host]:
    """The hosts in the environment variables of the user.

    Raises:
        ValueError: an entry of ``MMENV_REWARD_HOSTS`` is not a host.
    """
    entries = os.environ.get(HOSTS, "").replace(",", " ").split()
    return [parse(entry) for entry in (*entries, f"openai+{os.environ.get('OPENAI_BASE_URL') or OPENAI}")]


def key_for(variable: str, scheme: str, name: str, port: int) -> str | None:
    """The key in an environment variable if a server may be sent it, else None.

    Args:
        variable: name of the environment variable.
        scheme, name, port: of the server's address.
    """
    key = os.environ.get(variable)
    address = Host(KINDS.get(variable), scheme, name.lower(), port)
    return key if key and any(host.covers(address) for host in configured()) else None


def allow_addresses(words: Iterable[str]) -> None:
    """Add every server's address on a command line to ``MMENV_REWARD_HOSTS``, for this process and its children.

    Call it only with words that the user typed, never with a command line that was made from a file.
    """
    values = [part for word in words for part in (word, word.partition("=")[2])]
    hosts = os.environ.get(HOSTS, "").replace(",", " ").split()
    for value in values:
        kind, plus, rest = value.partition("+")
        if not plus or kind not in KINDS.values():
            kind, rest = "mmenv", value
        if rest.startswith(SCHEMES):
            origin = "{}+{}://{}".format(kind, *urlsplit(rest)[:2])
            hosts += [] if origin in hosts else [origin]
    if hosts:
        os.environ[HOSTS] = ",".join(hosts)
