"""The gap between start and oracle: the share that a run closes, and how soon it closes one half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agents.comparing import tables
from agents.comparing.aggregate import Cells, mean_interval
from agents.comparing.results import Row
from mmenv.models.ceilings import Marks, marks_of

WINDOW = 5  # updates whose gold is averaged: one batch alone is noisy


class Half(NamedTuple):
    """Where a run had closed half of the gap: tokens and seconds of training."""

    tokens: float
    seconds: float


def shares(rows: Sequence[Row], marks: Mapping[str, Marks]) -> dict[str, Cells]:
    """Label -> (id, seed) -> share of the gap that greedy gold closes: 0 at the start's, 1 at the oracle's.

    Args:
        rows: of results; those that failed are left out, and ids without marks.
        marks: by id.
    """
    by_label: dict[str, dict[tuple[str, int], float]] = {}
    for row in rows:
        if row["status"] == "done" and row["env_id"] in marks:
            share = marks[row["env_id"]].way(row["greedy"]["gold"]["after"])
            by_label.setdefault(row["label"], {})[row["env_id"], row["seed"]] = share
    return dict(by_label)


def known_marks(rows: Sequence[Row]) -> dict[str, Marks]:
    """The marks of the ids of rows, of those that have any."""
    ids = dict.fromkeys(row["env_id"] for row in rows)
    return {env_id: marks for env_id in ids if (marks := marks_of(env_id)) is not None}


def half(curve: Mapping[str, Sequence[Any]], start: float, goal: float, window: int = WINDOW) -> Half | None:
    """Where the gold of sampled training responses first reaches the middle between two scores; None if it never does.

    Args:
        curve: of a run: tokens, seconds and gold of its updates.
        start: sampled gold before training.
        goal: gold of the oracle.
        window: number of updates whose gold is averaged.
    """
    points = [
        (tokens, seconds, gold)
        for tokens, seconds, gold in zip(curve["tokens"], curve["seconds"], curve["gold"], strict=True)
        if gold is not None
    ]
    if len(points) < window:
        return None
    array = np.array(points, dtype=float)
    means = np.convolve(array[:, 2], np.ones(window) / window, "valid")
    reached = np.flatnonzero(means >= (start + goal) / 2)
    if not len(reached):
        return None
    tokens, seconds, _ = array[reached[0] + window - 1]
    return Half(float(tokens), float(seconds))


def halves_table(rows: Sequence[Row], marks: Mapping[str, Marks]) -> str:
    """Tokens and seconds to half of the gap by row and id, mean and interval over the runs that came so far.

    Args:
        rows: of results that are done.
        marks: by id; ids without marks are left out.
    """
    ids = [env_id for env_id in dict.fromkeys(row["env_id"] for row in rows) if env_id in marks]
    lines = []
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = []
        for env_id in ids:
            of_cell = [row for row in rows if (row["label"], row["env_id"]) == (label, env_id)]
            cells.append(_cell(of_cell, marks[env_id]))
        lines.append([label, *cells])
    return tables.table(["row", *ids], lines)


def _cell(rows: Sequence[Row], marks: Marks) -> str:
    if not rows:
        return "not run"
    found = [half(row["curve"], row["gold"]["before"], marks.oracle) for row in rows]
    reached = [point for point in found if point is not None]
    if not reached:
        return f"0 of {len(rows)} runs"
    tokens = tables.as_text(mean_interval([point.tokens for point in reached]), 0)
    seconds = tables.as_text(mean_interval([point.seconds for point in reached]), 0)
    return f"{tokens} tokens, {seconds} s, {len(reached)} of {len(rows)} runs"
