"""PPO against the shipped preference models, and stable-baselines3's PPO: docs/results.md.

    python -m experiments.results runs          # five seeds against the strong and the weak models: days of one core
    python -m experiments.results runs --tasks vqa --seeds 2 --rewards preference
    python -m experiments.results sb3           # examples/sb3_ppo.py
    python -m experiments.results page          # tables and figure from docs/results.json

Runs land in runs/results and are not repeated. Their numbers stay in docs/results.json when the folder is gone. On the
way a run is evaluated on the validation split, before and after it on the test split.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from agents import files
from agents.comparing import results, tables
from agents.comparing.config import GridConfig
from agents.comparing.grid import Cell
from agents.training import figures
from benchmarks.__main__ import MEANINGS
from experiments.pages import DOCS, IDS, ROOT, RUNS, bootstrapped, figure, read_data, write_data, write_section
from mmenv.models.ceilings import marks_of

FOLDER, PAGE = RUNS / "results", DOCS / "results.md"
REWARDS = ("preference", "preference-weak")
EVALUATIONS = 20  # of a run, on the validation split
TOKENS_PER_UPDATE = {"vqa": 540, "captioning": 7_000, "dialogue": 1_600}  # about, of 256 lanes
PICTURE = "![Gold, sampled and greedy, and reward over tokens: strong models above, weak ones below](img/results.png)"
SB3_TOKENS = {"vqa": 20_000, "captioning": 15_000, "dialogue": 10_000}


def cell(task: str, reward: str, seed: int, tokens: int = 300_000) -> Cell:
    """One run of PPO at its defaults."""
    overrides = {
        "reward": reward,
        "total_tokens": tokens,
        "eval_every": max(1, tokens // EVALUATIONS // TOKENS_PER_UPDATE[task]),
    }
    return Cell(f"{task}-{reward}", "ppo", IDS[task], seed, overrides)


def runs(
    tasks: tuple[str, ...] = tuple(IDS),
    rewards: tuple[str, ...] = REWARDS,
    seeds: int = 5,
    tokens: int = 300_000,
    jobs: int = 2,
) -> None:
    """Run what is missing, the first seeds of every task first, then write the page."""
    cells = [cell(task, reward, seed, tokens) for seed in range(seeds) for reward in rewards for task in tasks]
    settings = GridConfig(jobs=jobs, mark_versions=True)
    results.complete(cells, FOLDER / "results.jsonl", settings, Console())
    page()


def sb3(tasks: tuple[str, ...] = tuple(IDS), seeds: int = 1) -> None:
    """Measure gold on the test split before and after examples/sb3_ppo.py."""
    path = FOLDER / "sb3.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        path.unlink(missing_ok=True)
        for seed in range(seeds):
            words = ["--env-id", IDS[task], "--seed", str(seed), "--total-tokens", str(SB3_TOKENS[task])]
            command = [sys.executable, "examples/sb3_ppo.py", *words, "--results", str(path)]
            subprocess.run(command, cwd=ROOT, check=True)
        data = read_data("results")
        data.setdefault("sb3", {})[task] = files.read_lines(path)
        write_data("results", data)
    page()


def collect(data: dict[str, Any]) -> None:
    """Add the runs of the folder and the figures of ``make bench`` to the stored numbers."""
    for task in IDS:
        for reward in REWARDS:
            stored = data.setdefault("runs", {}).setdefault(f"{task} {reward}", [])
            by_seed = {row["summary"]["seed"]: row for row in stored}
            for folder in sorted((FOLDER / "runs" / cell(task, reward, 0).path.parent).glob("*")):
                if (folder / "summary.json").is_file():
                    row = row_of(folder)
                    by_seed[row["summary"]["seed"]] = row
            data["runs"][f"{task} {reward}"] = [by_seed[seed] for seed in sorted(by_seed)]
    if (ROOT / "bench.json").is_file():
        bench = json.loads((ROOT / "bench.json").read_text(encoding="utf-8"))
        data["bench"] = {name: value for name, value in bench.items() if isinstance(value, int | float)}
        data["bench machine"] = f"{bench['machine']['processor']}, load {bench['machine']['load'][0]:.1f}"


def row_of(folder: Any) -> dict[str, Any]:
    """A run's summary and its evaluations on the validation split."""
    names = ("tokens", "validation_gold", "validation_greedy_gold", "validation_reward", "kl")
    metrics = files.read_lines(folder / "metrics.jsonl")
    curve = [{name: row[name] for name in names} for row in metrics if "validation_gold" in row]
    return {"summary": files.read_json(folder / "summary.json"), "curve": curve}


def page() -> None:
    """Write the tables between their marks, and the figure."""
    data = read_data("results")
    collect(data)
    write_data("results", data)
    draw(data["runs"])
    write_section(PAGE, "runs", f"{PICTURE}\n\n{run_table(data['runs'])}")
    write_section(PAGE, "sb3", sb3_table(data.get("sb3", {})))
    write_section(PAGE, "speed", speed_table(data.get("bench", {}), data.get("bench machine", "")))


def run_table(by_name: dict[str, Any]) -> str:
    """Gold before and after PPO by task and preference model, sampled and greedy."""
    lines = []
    for name, rows in by_name.items():
        task, reward = name.split()
        if not rows:
            lines.append([task, reward, "not run", *[""] * 9])
            continue
        summaries = [row["summary"] for row in rows]
        marks = marks_of(IDS[task])
        greedy = [summary["greedy"]["gold"]["after"] for summary in summaries]
        way = [marks.way(gold) for gold in greedy] if marks is not None else []
        lines.append([
            task,
            reward,
            _mean([summary["gold"]["before"] for summary in summaries]),
            _with_interval([summary["gold"]["after"] for summary in summaries]),
            _mean([summary["greedy"]["gold"]["before"] for summary in summaries]),
            _with_interval(greedy),
            f"{np.mean(way):.0%}" if way else "-",
            f"{np.mean([drop(row['curve']) for row in rows]):.3f}",
            f"{np.mean([summary['reward']['after'] for summary in summaries]):+.2f}",
            f"{np.mean([summary['kl'] for summary in summaries]):.2f}",
            str(len(rows)),
            f"{summaries[0]['tokens']:,}",
        ])  # fmt: skip
    header = ["task", "model", "sampled before", "sampled after", "greedy before", "greedy after", "way to the oracle"]
    return tables.table([*header, "below its best", "reward", "KL", "seeds", "tokens"], lines)


def drop(curve: list[dict[str, Any]]) -> float:
    """How far greedy gold on the validation split ends below its best."""
    gold = [point["validation_greedy_gold"] for point in curve]
    return float(max(gold) - gold[-1]) if gold else float("nan")


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.3f}"


def _with_interval(values: list[float]) -> str:
    """The mean over seeds with its interval, where there are several."""
    estimate = bootstrapped(values)
    several = len(values) > 1 and np.isfinite(estimate.low)
    return _mean(values) + (f" [{estimate.low:.3f}, {estimate.high:.3f}]" if several else "")


def sb3_table(by_task: dict[str, Any]) -> str:
    """Gold before and after stable-baselines3's PPO."""
    lines = [
        [task, str(row["seed"]), f"{row['tokens']:,}", f"{row['before']:.3f}", f"{row['after']:.3f}",
         f"{row['after'] - row['before']:+.3f}"]
        for task, rows in by_task.items()
        for row in rows
    ]  # fmt: skip
    return tables.table(["task", "seed", "tokens", "gold before", "after", "gain"], lines)


def speed_table(bench: dict[str, float], machine: str) -> str:
    """The figures of ``make bench``."""
    lines = [
        [f"`{name}`", f"{value:,.0f}" if value >= 100 else f"{value:.3f}", MEANINGS[name]]
        for name, value in bench.items()
        if name in MEANINGS
    ]
    return f"`make bench`, one torch thread; {machine}.\n\n" + tables.table(["figure", "value", "what it is"], lines)


def draw(by_name: dict[str, Any]) -> None:
    """Gold, sampled and greedy, and reward over tokens: the strong model above, the weak one below."""
    with figure("results", 2, 3, (12, 6.4), sharex=True, sharey=True) as (chart, axes):
        for column, task in enumerate(IDS):
            for line, reward in enumerate(REWARDS):
                axis = axes[line, column]
                draw_panel(axis, by_name.get(f"{task} {reward}", []), IDS[task])
                name, model = IDS[task].removeprefix("mmenv/"), "strong" if line == 0 else "weak"
                axis.set_title(f"{name}, {model} model", loc="left")
                if column == 0:
                    axis.set_ylabel("gold on the validation split", color=figures.GOLD)
                if line == 1:
                    axis.set_xlabel("thousand tokens")
        chart.suptitle("While PPO trains: gold sampled (full) and greedy (dotted), reward (dashed), a line a seed")


def draw_panel(axis: Any, rows: list[dict[str, Any]], env_id: str) -> None:
    """The runs of one task and model, and the gold of the oracle."""
    axis.set_ylim(0, 1.02)
    marks = marks_of(env_id)
    if marks is not None:
        axis.axhline(marks.oracle, color=figures.GREY, linewidth=1, linestyle="--")
        axis.text(0.01, marks.oracle + 0.01, "oracle, greedy", color=figures.GREY, fontsize=8,
                  transform=axis.get_yaxis_transform())  # fmt: skip
    if not rows:
        axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color=figures.GREY)
        return
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    for row in rows:
        tokens = [point["tokens"] / 1000 for point in row["curve"]]
        axis.plot(tokens, [point["validation_gold"] for point in row["curve"]], color=figures.GOLD, linewidth=1.6)
        greedy = [point["validation_greedy_gold"] for point in row["curve"]]
        axis.plot(tokens, greedy, color=figures.GOLD, linewidth=1.2, linestyle=":")
        reward = [point["validation_reward"] for point in row["curve"]]
        right.plot(tokens, reward, color=figures.REWARD, linewidth=1, linestyle="--")


if __name__ == "__main__":
    commands: dict[str, Callable[..., Any]] = {"runs": runs, "sb3": sb3, "page": page}
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
