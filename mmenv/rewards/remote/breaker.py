"""A circuit breaker: threads that share a server stop sending when it fails, and one of them probes it.

tenacity and stamina repeat the calls of one thread; here up to ``concurrency`` threads send to one server, and a server
that comes back must not meet all of them at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Closed at first; open after consecutive failures; half open while one thread probes.

    Args:
        failures: consecutive failures that open it.
        cooldown: seconds that it stays open before a probe.
        clock: monotonic seconds.

    Attributes:
        consecutive_failures: since the last success.
        last_success: time of the clock, -inf before the first.
        gave_up: whether a caller's patience ended since the last success.
    """

    def __init__(self, failures: int, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures, self.cooldown, self.clock = failures, cooldown, clock
        self.lock = threading.Lock()
        self.consecutive_failures = 0
        self.opened_at = -float("inf")
        self.last_success = -float("inf")
        self.gave_up = False
        self.probing_thread: int | None = None

    @property
    def probing(self) -> bool:
        """Whether a probe is under way."""
        return self.probing_thread is not None

    def delay(self) -> float:
        """Seconds to wait before asking again; after 0.0 the caller sends, and then reports the outcome."""
        with self.lock:
            if self.consecutive_failures < self.failures:
                return 0.0
            left = self.opened_at + self.cooldown - self.clock()
            if left > 0 or self.probing:
                return max(left, 0.05)  # seconds between looks at the other thread's probe
            self.probing_thread = threading.get_ident()
            return 0.0

    def succeeded(self) -> None:
        """Report a valid answer."""
        with self.lock:
            self.consecutive_failures = 0
            self.gave_up = False
            self.probing_thread = None
            self.last_success = self.clock()

    def failed(self) -> None:
        """Report a failed attempt."""
        with self.lock:
            self.consecutive_failures += 1
            self.opened_at = self.clock()
            self._end_probe()

    def released(self) -> None:
        """Report that the attempt was interrupted and says nothing about the server."""
        with self.lock:
            self._end_probe()

    def _end_probe(self) -> None:
        """End the probe of the calling thread; the outcome of another thread's request leaves the probe alone."""
        if self.probing_thread == threading.get_ident():
            self.probing_thread = None
