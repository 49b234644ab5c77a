"""One channel for faults of data: checks raise ``DatasetError``, and ``Faults`` collects what they raise.

So one run names everything that is wrong with a file, and each check is a plain function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mmenv.data.media import DatasetError

# What a malformed entry can raise; RecursionError is a RuntimeError.
_MALFORMED = (OSError, ValueError, RuntimeError, OverflowError)
T = TypeVar("T")


class EntryError(DatasetError):
    """Several faults of one entry.

    Args:
        faults: a sentence each.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Faults:
    """The faults of a file, a table or an entry.

    Attributes:
        sentences: one a fault, with file, line and remedy.
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def add(self, sentence: str) -> None:
        """Note a fault."""
        self.sentences.append(sentence)

    def check(self, read: Callable[..., T], *arguments: Any) -> T | None:
        """What ``read`` returns; None where it raises ``DatasetError``, whose faults are noted."""
        try:
            return read(*arguments)
        except EntryError as error:
            self.sentences += error.faults
        except DatasetError as error:
            self.add(str(error))
        return None

    def check_entry(self, where: str, read: Callable[..., T], *arguments: Any) -> T | None:
        """``check``; other errors of a malformed entry are noted too, so that the other entries are still read."""
        try:
            return self.check(read, *arguments)
        except _MALFORMED as error:
            self.add(f"{where}: {type(error).__name__} ({str(error)[:200]}): correct the entry, or remove it")
            return None

    def raise_any(self) -> None:
        """Raise ``EntryError`` where there are faults."""
        if self.sentences:
            raise EntryError(self.sentences)
