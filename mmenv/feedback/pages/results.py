"""Results of labelling: computed in the background, at most one at a time, and kept until judgements have changed."""

from __future__ import annotations

import asyncio
import logging
import math
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmenv.feedback.agreement import (
    Agreement,
    agreement,
    first_shown,
    self_agreements,
    swapped_agreement,
    win_rates,
)
from mmenv.feedback.comparison import TIE
from mmenv.feedback.pages.screen import sendable
from mmenv.feedback.store.store import FeedbackStore, StoreError
from mmenv.feedback.store.verdicts import Verdict
from mmenv.statistics import Share

SHARE = 0.05  # of the time that may be spent on results
RECENT = 50  # judgements that the pace is taken from
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """What can be said of all judgements.

    Attributes:
        changes: of the store when it was computed; see ``Counts``.
        when: seconds since the epoch.
        judgements: how many.
        ties: among the choices.
        agreement: between annotators.
        first, swapped: of the place on the screen.
        rates: share and number of pairs by policy, the best first.
        own: share of repeats that said the same, and their number, by annotator.
        pace: median seconds of the latest judgements, by annotator.
    """

    changes: int
    when: float
    judgements: int
    ties: int
    agreement: Agreement
    first: Share
    swapped: Share
    rates: Sequence[tuple[str, tuple[float, int]]]
    own: Mapping[str | None, tuple[float, int]]
    pace: Mapping[str | None, float]


def compute(verdicts: Sequence[Verdict], changes: int) -> Results:
    """All of them at once."""
    return Results(
        changes=changes,
        when=time.time(),
        judgements=len(verdicts),
        ties=sum(verdict.choice == TIE for verdict in verdicts),
        agreement=agreement(verdicts),
        first=first_shown(verdicts),
        swapped=swapped_agreement(verdicts),
        rates=sorted(win_rates(verdicts).items(), key=lambda entry: -entry[1][0]),
        own=self_agreements(verdicts),
        pace=_paces(verdicts),
    )


def _paces(verdicts: Sequence[Verdict]) -> dict[str | None, float]:
    seconds: dict[str | None, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
    for verdict in verdicts:
        if verdict.seconds is not None:
            seconds[verdict.annotator].append(verdict.seconds)
    return {name: statistics.median(latest) for name, latest in seconds.items()}


class Background:
    """The latest results of a store.

    A thread computes them when somebody asks and judgements have changed, and takes no more than a twentieth of the
    time for it: with many judgements they are therefore somewhat old, and say when they were computed.

    Args:
        store: whose judgements.
    """

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.latest: Results | None = None
        self._lock = threading.Lock()
        self._running = False
        self._due = 0.0

    def refresh(self) -> bool:
        """Have fresh results computed, unless they are there; whether they are.

        Raises:
            StoreError: the database failed.
        """
        if self.latest is not None and self.latest.changes == self.store.changes():
            return True
        with self._lock:
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="results", daemon=True).start()
        return False

    async def fresh(self, wait: float) -> Results | None:
        """Results, fresh where that takes at most ``wait`` seconds; None while the first are computed.

        Raises:
            StoreError: the database failed.
        """
        until = time.monotonic() + wait
        while not await asyncio.to_thread(self.refresh) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return self.latest

    def _work(self) -> None:
        try:
            time.sleep(max(0.0, self._due - time.monotonic()))
            began = time.monotonic()
            changes = self.store.changes()  # before: a judgement in between makes them old, and never young
            self.latest = compute(self.store.verdicts(), changes)
            self._due = time.monotonic() + (time.monotonic() - began) / SHARE
        except StoreError as error:
            logger.warning("no results: %s", error)
        finally:
            self._running = False


def known(number: float) -> float | None:
    """None for nan, which JSON cannot say."""
    return None if math.isnan(number) else number


def standing(latest: Results | None, annotator: str) -> dict[str, Any]:
    """How an annotator is doing, as of the latest results.

    Returns:
        ``pace``: median seconds; ``own``: share of repeated items of which the same was said again, and ``repeats``
        how many; ``alpha`` and ``same`` of all annotators. None where nothing can be said yet.
    """
    if latest is None:
        return {"pace": None, "own": None, "repeats": 0, "alpha": None, "same": None}
    own, repeats = latest.own.get(annotator, (math.nan, 0))
    return {
        "pace": latest.pace.get(annotator),
        "own": known(own),
        "repeats": repeats,
        "alpha": known(latest.agreement.alpha),
        "same": latest.agreement.same.to_dict()["value"],
    }


def page_values(latest: Results, rows: Sequence[tuple[str, int, int]]) -> dict[str, Any]:
    """What the results page shows, with a row (name, judged, skipped) for each annotator."""
    found = latest.agreement
    return {
        "results": latest,
        "when": time.strftime("%H:%M:%S", time.localtime(latest.when)),
        "alpha": known(found.alpha),
        "same": found.same.value,
        "kind": {"choice": "choices", "ranking": "pairs in rankings", "scores": "points"}[found.kind],
        "rates": [{"name": sendable(name), "share": share, "pairs": pairs} for name, (share, pairs) in latest.rates],
        "rows": [
            {"name": name, "judged": judged, "skipped": skipped, **standing(latest, name)}
            for name, judged, skipped in rows
        ],
    }
