"""Tables in Markdown that compare algorithms: by environment, over all of them, and pair by pair."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from agents.comparing.aggregate import Cells, Estimate, mean_interval
from agents.comparing.paired_tests import FLIPS, PairedTest


def as_text(estimate: Estimate, digits: int = 3, sign: str = "") -> str:
    """``0.812 [0.780, 0.840]``; the value alone where there is no interval. ``sign="+"`` shows the sign."""
    form = f"{sign}.{digits}f"
    if np.isnan(estimate.low):
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def by_environment(scores: Mapping[str, Cells], score: str = "") -> str:
    """Mean and Student's 95% interval of every algorithm on every environment, with the number of seeds.

    An environment on which some have not run says so in its header: its column is no ranking yet.

    Args:
        scores: algorithm -> (environment, seed) -> score; an environment without scores says so.
        score: what it is, gold or kl: its interval ends where it cannot go further.
    """
    tasks = sorted({task for cells in scores.values() for task, _ in cells})
    rows = [[name, *(_seeds({s: v for (t, s), v in cells.items() if t == task}, score) for task in tasks)]
            for name, cells in scores.items()]  # fmt: skip
    lacking = [sum(all(t != task for t, _ in cells) for cells in scores.values()) for task in tasks]
    heads = [f"{task} (unfinished: {n} not run)" if n else task for task, n in zip(tasks, lacking, strict=True)]
    return table(["algorithm", *heads], rows)


def _seeds(values: Mapping[int, float], score: str) -> str:
    """One cell: mean, interval and number of seeds."""
    if not values:
        return "not run"
    return f"{as_text(mean_interval(list(values.values())).of(score))}, n = {len(values)}"


def aggregate(estimates: Mapping[str, Mapping[str, Estimate]], runs: Mapping[str, int]) -> str:
    """Aggregates over environments with their intervals, in the order of ``estimates``.

    Args:
        estimates: algorithm -> aggregate's name -> estimate.
        runs: algorithm -> number of runs that it stands on.
    """
    columns = list(next(iter(estimates.values())))
    rows = [[name, str(runs[name]), *(as_text(e[c]) for c in columns)] for name, e in estimates.items()]
    return table(["algorithm", "runs", *columns], rows)


def paired(tests: Sequence[PairedTest]) -> str:
    """Differences with their intervals, p alone and with Holm's correction, the smallest first.

    Args:
        tests: all that were corrected together; the header counts them.
    """
    rows = [
        [t.x, t.y, as_text(t.difference, sign="+"), str(t.pairs), str(t.left_out), p_text(t.p), p_text(t.p_corrected)]
        for t in sorted(tests, key=lambda t: (t.p_corrected, t.p, -abs(float(t.difference.value))))
    ]
    header = ["x", "y", "x - y", "pairs", "left out", "p", f"p, Holm over {len(tests)}"]
    return table(header, rows)


def p_text(p: float) -> str:
    """p with two digits; below what the drawn flips can resolve, its bound."""
    bound = 10 / FLIPS
    return f"< {bound:g}" if p < bound else f"{p:.2g}"


def failures(rows: Iterable[Mapping[str, Any]]) -> str:
    """Runs that failed, by name, with seed, reason and log.

    Args:
        rows: of results, those whose status is ``failed``.
    """
    header = ["algorithm", "environment", "seed", "attempts", "reason", "log"]
    lines = [
        [r["label"], r["env_id"], str(r["seed"]), str(r["attempts"]), r["error"], f"runs/{r['log']}"] for r in rows
    ]
    return table(header, lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def show(console: Console, text: str) -> None:
    """Print a report without its figures; names of rows are never broken."""
    lines = [line for line in text.splitlines() if not line.startswith("![")]
    for is_table, block in groupby(lines, lambda line: line.startswith("|")):
        part = list(block)
        console.print(_as_table(part) if is_table else Markdown("\n".join(part)))


def _as_table(lines: Sequence[str]) -> Table:
    """A Markdown table for a terminal."""
    header, _, *rows = ([Text(cell.strip().replace(r"\|", "|")) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                        for line in lines)  # fmt: skip
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for k, name in enumerate(header):
        result.add_column(name, no_wrap=k == 0, overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result
