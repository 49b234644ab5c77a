"""The tables and the figure of docs/models.md: SmolLM2 with eyes, and rollouts beside ``generate``.

    python -m experiments.language_models run --tasks VQA --seeds 0 1 2    # examples/smollm2.py, into runs/smollm2
    python -m experiments.language_models speed                            # benchmarks.language_models
    python -m experiments.language_models page

Runs that are there are not repeated; their numbers are kept in docs/language_models.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from agents import files
from agents.comparing.aggregate import mean_interval
from agents.training import figures
from benchmarks.__main__ import machine
from experiments.feedback_page import replace

ROOT = Path(__file__).parent.parent
RUNS, DATA = ROOT / "runs" / "smollm2", ROOT / "docs" / "language_models.json"
PAGE, FIGURE = ROOT / "docs" / "models.md", ROOT / "docs" / "img" / "smollm2.png"
TASKS = ("VQA", "Captioning")


def run(tasks: list[str], seeds: list[int]) -> None:
    """What is missing, one run after the other."""
    for task in tasks:
        for seed in seeds:
            if not (RUNS / f"{task}-ppo-{seed}" / "summary.json").is_file():
                command = [sys.executable, "examples/smollm2.py", "--env-id", f"mmenv/{task}-v0", "--seeds", str(seed)]
                path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
                subprocess.run(
                    [*command, "--out", str(RUNS)], cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": path}
                )


def speed() -> None:
    """Rollouts beside ``generate``, for the page."""
    path = RUNS.parent / "language_models.json"
    subprocess.run([sys.executable, "-m", "benchmarks.language_models", "--out", str(path)], cwd=ROOT, check=True)
    found = {**kept(), "speed": files.read_json(path)["found"], "machine": machine()}
    files.write_json(DATA, found)


def kept() -> dict[str, Any]:
    """Numbers of runs whose folders may be elsewhere."""
    return json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}


def collect() -> dict[str, Any]:
    """What is kept, and what is new in the runs' folders."""
    found = kept()
    for folder in sorted(RUNS.glob("*-ppo-*")):
        if (folder / "summary.json").is_file():
            summary, rows = (
                files.read_json(folder / "summary.json"),
                files.read_lines(folder / "metrics.jsonl"),
            )
            told = ("seed", "tokens", "seconds", "kl", "gold", "reward", "episodes", "versions", "commit")
            curve = {name: [row[name] for row in rows] for name in ("tokens", "gold", "reward")}
            found[folder.name] = {**{name: summary[name] for name in told}, "curve": curve}
    files.write_json(DATA, found)
    return found


def page() -> None:
    """Write the tables between their marks, and the figure."""
    found = collect()
    by_task = {task: [found[name] for name in sorted(found) if name.startswith(f"{task}-ppo-")] for task in TASKS}
    lines = ["| task | seeds | tokens of PPO | minutes | test gold, start | after PPO | gain [95% interval] |"]
    lines.append("|---|---|---|---|---|---|---|")
    for task, rows in by_task.items():
        if not rows:
            lines.append(f"| {task} | not run | | | | | |")
            continue
        gain = mean_interval([row["gold"]["after"] - row["gold"]["before"] for row in rows])
        mean = {name: sum(row["gold"][name] for row in rows) / len(rows) for name in ("before", "after")}
        interval = f" [{gain.low:+.3f}, {gain.high:+.3f}]" if len(rows) > 1 else ", one seed"
        tokens = sum(row["tokens"] for row in rows) / len(rows)
        minutes = sum(row["seconds"] for row in rows) / len(rows) / 60
        lines.append(
            f"| {task} | {len(rows)} | {tokens:,.0f} | {minutes:.0f} | {mean['before']:.3f} | {mean['after']:.3f} | "
            f"{gain.value:+.3f}{interval} |"
        )
    commits = sorted({row["commit"] or "none" for rows in by_task.values() for row in rows})
    lines += ["", f"`python -m experiments.language_models run`, then `page`; commits {', '.join(commits) or 'none'}."]
    if any(by_task.values()):
        figure({task: rows for task, rows in by_task.items() if rows})
        lines += ["", "![Gold and reward while PPO trains SmolLM2, a line a seed](img/smollm2.png)"]
    replace(PAGE, "smollm2", lines)
    table = [
        "| model | parameters | rollout, tokens/s | `generate`, tokens/s | ratio | PPO, tokens/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in found.get("speed", []):
        numbers = (f"{row['parameters']:,}", f"{row['rollout']:,.0f}", f"{row['generate']:,.0f}", f"{row['ratio']:.2f}")
        table.append(f"| {row['model']} | {' | '.join(numbers)} | {row['ppo']:,.0f} |")
    if "machine" in found:
        on = found["machine"]
        table += ["", f"{on['processor']}, {on['cores']} cores, load {on['load'][0]:.1f}; medians of five rounds."]
    replace(PAGE, "speed", table if "speed" in found else ["Not measured yet."])


def figure(by_task: dict[str, list[dict[str, Any]]]) -> None:
    """Gold and reward of the training batches over tokens, a line a seed."""
    with plt.rc_context(figures.STYLE):
        shown, axes = plt.subplots(
            1, len(by_task), figsize=(5.5 * len(by_task), 3.6), layout="constrained", squeeze=False
        )
        for axis, (task, rows) in zip(axes[0], by_task.items(), strict=True):
            other = axis.twinx()
            for k, row in enumerate(rows):
                x = [t / 1000 for t in row["curve"]["tokens"]]
                axis.plot(x, row["curve"]["gold"], color=figures.GOLD, linewidth=1.4, label="gold" if k == 0 else None)
                other.plot(
                    x, row["curve"]["reward"], color=figures.REWARD, linewidth=1, label="reward" if k == 0 else None
                )
            axis.set_title(task, loc="left")
            axis.set_ylim(0, 1.02)
            axis.set_xlabel("thousand tokens of PPO")
            axis.set_ylabel("gold", color=figures.GOLD)
            other.set_ylabel("reward", color=figures.REWARD)
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        shown.savefig(FIGURE)
        plt.close(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "speed", "page"))
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    given = parser.parse_args()
    if given.what == "run":
        run(given.tasks, given.seeds)
    elif given.what == "speed":
        speed()
    else:
        page()


if __name__ == "__main__":
    main()
