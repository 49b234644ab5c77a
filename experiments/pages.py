"""What the studies share: ids of tasks, data in docs/, tables between the marks of a page, and figures."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from agents.comparing import aggregate
from agents.comparing.aggregate import Estimate
from agents.training import figures

ROOT = Path(__file__).parent.parent
RUNS, DOCS = ROOT / "runs", ROOT / "docs"
IDS = {"vqa": "mmenv/VQA-v0", "captioning": "mmenv/Captioning-v0", "dialogue": "mmenv/SpokenDialogue-v0"}
RESAMPLES = 5000


def read_data(name: str) -> dict[str, Any]:
    """What ``docs/NAME.json`` holds; nothing where there is no file."""
    path = DOCS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_data(name: str, data: dict[str, Any]) -> None:
    """Write ``docs/NAME.json`` where it holds something else."""
    if data != read_data(name):
        (DOCS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def write_section(page: Path, name: str, text: str) -> None:
    """Write text between the marks ``<!-- NAME -->`` and ``<!-- end of NAME -->`` of a page.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, end_mark, after = rest.partition(end)
    if not end_mark:
        raise ValueError(f"{page} has no {begin} ... {end}: put the marks where the text goes")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


@contextlib.contextmanager
def figure(name: str, rows: int, columns: int, size: tuple[float, float], **shared: Any) -> Iterator[Any]:
    """A figure of (rows, columns) panels in the style of all figures; written to ``docs/img/NAME.png`` at the end.

    Args:
        name: of the file.
        rows, columns: numbers of panels.
        size: width and height in inches.
        **shared: ``sharex`` and ``sharey`` of ``plt.subplots``.

    Yields:
        the figure, and its axes as an array (rows, columns).
    """
    with plt.rc_context(figures.STYLE):
        chart, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **shared)
        yield chart, axes
        save(chart, name)


def save(chart: Figure, name: str, **options: Any) -> None:
    """Write a figure to ``docs/img/NAME.png``, and free its memory."""
    chart.savefig(DOCS / "img" / f"{name}.png", **options)
    plt.close(chart)


def bootstrapped(values: list[float]) -> Estimate:
    """Mean over seeds with its 95% bootstrap interval; without one where all are equal."""
    if np.ptp(values) == 0:
        return Estimate(np.float64(np.mean(values)), np.float64(np.nan), np.float64(np.nan))
    return aggregate.stratified_bootstrap(np.array(values)[:, None], aggregate.mean, RESAMPLES)
