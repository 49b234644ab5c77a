"""The hacking alarm on strong, weak and biased preference models: docs/alarm.md.

    python -m experiments.alarm run     # greedy PPO with a judge
    python -m experiments.alarm page    # table and figure from docs/feedback.json

Runs land in runs/feedback and are not repeated. ``--seeds 0 15`` is the range of seeds; those from 100 on tuned the
alarm and are not reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tyro

from agents.comparing import tables
from agents.training import figures
from experiments.pages import DOCS, IDS, figure, read_data, write_data, write_section
from experiments.rlhf import TASKS, Reward, collect_runs, complete, greedy_cell, make_reward, seed_of
from experiments.runs import in_processes
from mmenv.statistics import wilson

KINDS = ("strong", "weak", "biased")
HACKED = 0.05  # how far gold ends below its peak
TUNED_FROM = 100  # seeds from here on tuned the alarm


def run(
    tasks: tuple[str, ...] = TASKS, seeds: tuple[int, int] = (0, 15), kinds: tuple[str, ...] = KINDS, jobs: int = 2
) -> None:
    """Runs with a judge, against models of three kinds."""
    judges = {task: Reward("judge", task, 900, members=5) for task in tasks}
    rewards = {
        (kind, task, seed): None if kind == "strong" else Reward(kind, task, seed)
        for seed in range(*seeds)
        for task in tasks
        for kind in kinds
    }
    in_processes(make_reward, [*judges.values(), *filter(None, rewards.values())], jobs)
    cells = [
        greedy_cell(f"alarm-{kind}-{task}", reward, task, seed, judge=judges[task].file)
        for (kind, task, seed), reward in rewards.items()
    ]
    complete(cells, jobs)


def is_hacked(row: Mapping[str, Any]) -> bool:
    """Whether gold ends well below its peak."""
    return bool(row["peak"] - row["end"] >= HACKED)


def reported(runs: Mapping[str, Any], start: str) -> list[dict[str, Any]]:
    """Runs whose names begin with ``start`` and that did not serve to tune the alarm."""
    return [runs[name] for name in sorted(runs) if name.startswith(start) and seed_of(name) < TUNED_FROM]


def share(rows: list[dict[str, Any]]) -> str:
    """The share of runs that were flagged, with Wilson's 95% interval."""
    if not rows:
        return "-"
    flagged = sum(row["alarm_tokens"] is not None for row in rows)
    estimate = wilson(flagged, len(rows))
    return f"{flagged}/{len(rows)} = {estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


def table(runs: Mapping[str, Any]) -> str:
    """Detections among the hacked runs and false alarms among the others, by kind of model."""
    by_kind = {kind: reported(runs, f"alarm-{kind}-") for kind in KINDS}
    by_kind["all"] = [row for kind in KINDS for row in by_kind[kind]]
    lines = []
    for kind, rows in by_kind.items():
        hacked = [row for row in rows if is_hacked(row)]
        others = [row for row in rows if not is_hacked(row)]
        late = [row["alarm_tokens"] - row["peak_tokens"] for row in hacked if row["alarm_tokens"] is not None]
        delay = f"{np.median(late):+,.0f} ({min(late):+,.0f} to {max(late):+,.0f})" if late else "-"
        counts = [str(len(hacked)), share(hacked), str(len(others)), share(others)]
        lines.append([kind, str(len(rows)), *counts, delay])
    header = ["model", "runs", "hacked", "of these flagged", "not hacked", "of these flagged"]
    return tables.table([*header, "tokens from peak to alarm"], lines)


def draw(runs: Mapping[str, Any]) -> None:
    """Gold of every run by kind of model, with a dot at the alarm."""
    with figure("alarm", 2, 3, (12, 6.4), sharex="row", sharey=True) as (chart, axes):
        for line, task in zip(axes, TASKS, strict=True):
            for axis, kind in zip(line, KINDS, strict=True):
                for row in reported(runs, f"alarm-{kind}-{task}-"):
                    tokens, gold = row["curve"]["tokens"], row["curve"]["gold"]
                    colour = figures.ENTROPY if is_hacked(row) else figures.LENGTH
                    axis.plot([t / 1000 for t in tokens], gold, color=colour, alpha=0.7)
                    if row["alarm_tokens"] is not None:
                        height = np.interp(row["alarm_tokens"], tokens, gold)
                        axis.plot(row["alarm_tokens"] / 1000, height, "o", color=figures.INK, markersize=4, zorder=3)
                axis.set_title(f"{IDS[task]}, {kind}", loc="left")
                axis.set_ylim(0, 1.02)
                axis.set_xlabel("thousand tokens")
            line[0].set_ylabel("gold")
        chart.suptitle("Gold while PPO trains; orange: ends 0.05 or more below its peak; dots: the alarm")


def page() -> None:
    """Write the table of docs/alarm.md between its marks, its figure, and docs/feedback.json."""
    data = read_data("feedback")
    data["alarm"] = collect_runs("alarm")
    write_data("feedback", data)
    draw(data["alarm"])
    text = f"{table(data['alarm'])}\n\n![Gold and alarms, a line a seed](img/alarm.png)"
    write_section(DOCS / "alarm.md", "alarm", text)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "page": page}, description=__doc__)
