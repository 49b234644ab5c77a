"""Results of labelling: computed in the background, one at a time, and cached until the judgements change."""

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
    self_agreement,
    swapped_agreement,
    win_rates,
)
from mmenv.feedback.comparison import TIE
from mmenv.feedback.judgement import JudgementRecord
from mmenv.feedback.pages.presentation import valid_unicode
from mmenv.feedback.store import FeedbackStore, StoreError
from mmenv.statistics import Share

TIME_SHARE = 0.05  # most of the time that is spent on results
RECENT = 50  # judgements that the pace is computed from
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """Statistics of all judgements.

    Attributes:
        changes: of the store when it was computed; see ``Counts``.
        when: seconds since the epoch.
        judgements: how many.
        ties: how many of the choices.
        agreement: between annotators.
        first_shown, swapped_agreement: position bias; see the functions of these names.
        win_rates: share and number of pairs by policy, the best first.
        self_agreement: share of repeats judged as before, and their number, by annotator.
        pace: median seconds of the latest judgements, by annotator.
    """

    changes: int
    when: float
    judgements: int
    ties: int
    agreement: Agreement
    first_shown: Share
    swapped_agreement: Share
    win_rates: Sequence[tuple[str, tuple[float, int]]]
    self_agreement: Mapping[str | None, tuple[float, int]]
    pace: Mapping[str | None, float]


def compute(records: Sequence[JudgementRecord], changes: int) -> Results:
    """The results of all judgements."""
    return Results(
        changes=changes,
        when=time.time(),
        judgements=len(records),
        ties=sum(record.choice == TIE for record in records),
        agreement=agreement(records),
        first_shown=first_shown(records),
        swapped_agreement=swapped_agreement(records),
        win_rates=sorted(win_rates(records).items(), key=lambda entry: -entry[1][0]),
        self_agreement=self_agreement(records),
        pace=_paces(records),
    )


def _paces(records: Sequence[JudgementRecord]) -> dict[str | None, float]:
    seconds: dict[str | None, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
    for record in records:
        if record.seconds is not None:
            seconds[record.annotator].append(record.seconds)
    return {name: statistics.median(latest) for name, latest in seconds.items()}


class ResultsCache:
    """The latest results of a store.

    A thread computes them when they are requested and judgements have changed, in at most a twentieth of the time. With
    many judgements they are therefore somewhat old, and ``Results.when`` says how old.

    Args:
        store: whose judgements.
    """

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.latest: Results | None = None
        self._lock = threading.Lock()
        self._running = False
        self._due = 0.0

    def start_if_old(self) -> bool:
        """Start to compute results if the latest are old; whether they are current.

        Raises:
            StoreError: the database failed.
        """
        with self._lock:
            if self._running:  # the latest results are looked at afterwards: they come before this ends
                return False
            if self.latest is not None and self.latest.changes == self.store.changes():
                return True
            self._running = True
            threading.Thread(target=self._work, name="results", daemon=True).start()
        return False

    async def current(self, wait: float) -> Results | None:
        """Results, current ones if that takes at most ``wait`` seconds; None while the first are computed.

        Raises:
            StoreError: the database failed.
        """
        until = time.monotonic() + wait
        while not await asyncio.to_thread(self.start_if_old) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return self.latest

    def _work(self) -> None:
        try:
            time.sleep(max(0.0, self._due - time.monotonic()))
            began = time.monotonic()
            changes = self.store.changes()  # read first: a judgement in between then makes the results old
            self.latest = compute(self.store.judgement_records(), changes)
            self._due = time.monotonic() + (time.monotonic() - began) / TIME_SHARE
        except StoreError as error:
            logger.warning("no results: %s", error)
        finally:
            self._running = False


def nan_to_none(number: float) -> float | None:
    """None for nan, which JSON cannot hold."""
    return None if math.isnan(number) else number


def standing(latest: Results | None, annotator: str) -> dict[str, Any]:
    """An annotator's part of the latest results.

    Returns:
        ``pace``: median seconds; ``self_agreement``: share of ``repeats`` repeated items that were judged as before;
        ``alpha`` and ``same``: agreement of all annotators. None for what is unknown yet.
    """
    if latest is None:
        return {"pace": None, "self_agreement": None, "repeats": 0, "alpha": None, "same": None}
    share, repeats = latest.self_agreement.get(annotator, (None, 0))
    return {
        "pace": latest.pace.get(annotator),
        "self_agreement": share,
        "repeats": repeats,
        "alpha": nan_to_none(latest.agreement.alpha),
        "same": latest.agreement.same.to_dict()["value"],
    }


def page_values(latest: Results, rows: Sequence[tuple[str, int, int]]) -> dict[str, Any]:
    """Values of the results page, with a row for each annotator, from (name, judged, skipped)."""
    return {
        "results": latest,
        "when": time.strftime("%H:%M:%S", time.localtime(latest.when)),
        "alpha": nan_to_none(latest.agreement.alpha),
        "same": latest.agreement.same.value,
        "kind": {"choice": "choices", "ranking": "pairs in rankings", "scores": "points"}[latest.agreement.kind],
        "rates": [
            {"name": valid_unicode(name), "share": share, "pairs": pairs} for name, (share, pairs) in latest.win_rates
        ],
        "rows": [
            {"name": name, "judged": judged, "skipped": skipped, **standing(latest, name)}
            for name, judged, skipped in rows
        ],
    }
