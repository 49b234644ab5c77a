"""SmolLM2 with an image encoder, and rollouts beside ``generate``: docs/models.md.

    python -m experiments.language_models run --tasks VQA --seeds 0 1 2    # examples/smollm2.py, into runs/smollm2
    python -m experiments.language_models speed                            # benchmarks.language_models
    python -m experiments.language_models page                             # tables from docs/language_models.json

Runs that are there are not repeated; their numbers stay in docs/language_models.json when the folder is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import tyro

from agents import files
from agents.comparing import tables
from agents.comparing.aggregate import mean_interval
from agents.training import figures
from benchmarks.__main__ import machine
from experiments.pages import DOCS, ROOT, RUNS, figure, read_data, write_data, write_section

FOLDER, DATA, PAGE = RUNS / "smollm2", "language_models", DOCS / "models.md"
TASKS = ("VQA", "Captioning")
STORED = ("seed", "tokens", "seconds", "kl", "gold", "reward", "episodes", "versions", "commit")  # of a summary


def run(tasks: tuple[str, ...] = TASKS, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Run what is missing, one run after the other: each takes all cores."""
    python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    for task in tasks:
        for seed in seeds:
            if not (FOLDER / f"{task}-ppo-{seed}" / "summary.json").is_file():
                words = ["--env-id", f"mmenv/{task}-v0", "--seeds", str(seed), "--out", str(FOLDER)]
                command = [sys.executable, "examples/smollm2.py", *words]
                subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": python_path})
    page()


def speed() -> None:
    """Measure rollouts beside ``generate``."""
    path = RUNS / "language_models.json"
    subprocess.run([sys.executable, "-m", "benchmarks.language_models", "--out", str(path)], cwd=ROOT, check=True)
    write_data(DATA, {**read_data(DATA), "speed": files.read_json(path)["found"], "machine": machine()})
    page()


def collect() -> dict[str, Any]:
    """Stored numbers, and those of the runs' folders."""
    data = read_data(DATA)
    for path in sorted(FOLDER.glob("*-ppo-*/summary.json")):
        summary, rows = files.read_json(path), files.read_lines(path.parent / "metrics.jsonl")
        curve = {name: [row[name] for row in rows] for name in ("tokens", "gold", "reward")}
        data[path.parent.name] = {**{name: summary[name] for name in STORED}, "curve": curve}
    write_data(DATA, data)
    return data


def page() -> None:
    """Write the tables between their marks, and the figure."""
    data = collect()
    by_task = {task: [data[name] for name in sorted(data) if name.startswith(f"{task}-ppo-")] for task in TASKS}
    commits = sorted({row["commit"] or "none" for rows in by_task.values() for row in rows})
    made = f"`python -m experiments.language_models run`; commits {', '.join(commits) or 'none'}."
    parts = [gain_table(by_task), made]
    if any(by_task.values()):
        draw({task: rows for task, rows in by_task.items() if rows})
        parts.append("![Gold and reward while PPO trains SmolLM2, a line a seed](img/smollm2.png)")
    write_section(PAGE, "smollm2", "\n\n".join(parts))
    write_section(PAGE, "speed", speed_table(data) if "speed" in data else "Not measured yet.")


def gain_table(by_task: dict[str, list[dict[str, Any]]]) -> str:
    """Test gold before and after PPO."""
    lines = []
    for task, rows in by_task.items():
        if not rows:
            lines.append([task, "not run", *[""] * 5])
            continue
        gain = mean_interval([row["gold"]["after"] - row["gold"]["before"] for row in rows])
        before, after = (sum(row["gold"][name] for row in rows) / len(rows) for name in ("before", "after"))
        tokens = sum(row["tokens"] for row in rows) / len(rows)
        minutes = sum(row["seconds"] for row in rows) / len(rows) / 60
        gain_text = tables.as_text(gain, sign="+") + (", one seed" if len(rows) == 1 else "")
        lines.append(
            [task, str(len(rows)), f"{tokens:,.0f}", f"{minutes:.0f}", f"{before:.3f}", f"{after:.3f}", gain_text]
        )
    header = ["task", "seeds", "tokens of PPO", "minutes", "test gold, start", "after PPO", "gain [95% interval]"]
    return tables.table(header, lines)


def speed_table(data: dict[str, Any]) -> str:
    """Tokens a second of rollouts, of ``generate`` and of PPO."""
    lines = [
        [row["model"], f"{row['parameters']:,}", f"{row['rollout']:,.0f}", f"{row['generate']:,.0f}",
         f"{row['ratio']:.2f}", f"{row['ppo']:,.0f}"]
        for row in data["speed"]
    ]  # fmt: skip
    header = ["model", "parameters", "rollout, tokens/s", "`generate`, tokens/s", "ratio", "PPO, tokens/s"]
    on = data["machine"]
    text = f"{on['processor']}, {on['cores']} cores, load {on['load'][0]:.1f}; medians of five rounds."
    return tables.table(header, lines) + "\n\n" + text


def draw(by_task: dict[str, list[dict[str, Any]]]) -> None:
    """Gold and reward of the training batches over tokens, a line a seed."""
    with figure("smollm2", 1, len(by_task), (5.5 * len(by_task), 3.6)) as (_, axes):
        for axis, (task, rows) in zip(axes[0], by_task.items(), strict=True):
            right = axis.twinx()
            for row in rows:
                tokens = [t / 1000 for t in row["curve"]["tokens"]]
                axis.plot(tokens, row["curve"]["gold"], color=figures.GOLD, linewidth=1.4)
                right.plot(tokens, row["curve"]["reward"], color=figures.REWARD, linewidth=1)
            axis.set_title(task, loc="left")
            axis.set_ylim(0, 1.02)
            axis.set_xlabel("thousand tokens of PPO")
            axis.set_ylabel("gold", color=figures.GOLD)
            right.set_ylabel("reward", color=figures.REWARD)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "speed": speed, "page": page}, description=__doc__)
