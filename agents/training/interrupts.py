"""Interrupts of a run: the first one ends it after the update in progress, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from agents.distributed import processes


class Interrupts:
    """Handlers of signals while a run trains.

    Args:
        say: prints a line.

    Attributes:
        requested: whether somebody has asked the run to end.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.requested = say, False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals meanwhile; outside the main thread, which alone may, whoever trains ends the run himself."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {signal.SIGINT: signal.signal(signal.SIGINT, self._interrupt)}
        if processes.size() > 1:
            previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        """The first interrupt ends the run after the update in progress, the second at once."""
        self.requested = True
        if processes.size() > 1:
            return  # a launcher forwards an interrupt that the terminal has sent already: it is no second one
        self.say("finishing this update; once more ends the run at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        """A launcher ends the remaining processes when one has died."""
        raise processes.RankLost("the launcher sent SIGTERM")
