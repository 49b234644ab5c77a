"""PPO against the shipped preference models, stable-baselines3's PPO, and reference policies: docs/results.md.

    python -m experiments.results runs          # PPO, strong and weak model
    python -m experiments.results sb3           # examples/sb3_ppo.py
    python -m experiments.results references    # every id, every reference policy
    python -m experiments.results page          # tables and figure from docs/results.json

Runs land in runs/results and are not repeated. Their numbers stay in docs/results.json when the folder is gone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console

import mmenv
from agents import files
from agents.comparing import aggregate, results, tables
from agents.comparing.config import GridConfig
from agents.comparing.grid import Cell
from agents.policies.chooser import Chooser
from agents.training import figures
from agents.training.loading import load_policy
from benchmarks.__main__ import MEANINGS
from experiments.pages import DOCS, IDS, ROOT, RUNS, bootstrapped, figure, read_data, write_data, write_section
from mmenv.registration import TABLE

FOLDER, PAGE = RUNS / "results", DOCS / "results.md"
REWARDS = ("preference", "preference-weak")
SEEDS = {"preference": 5, "preference-weak": 3}
EVALUATIONS = 20  # of a run, on the test split
POLICIES = (
    "random", "silence", "start", "greedy start", "best of 16 start", "start-captioning", "greedy start-captioning",
    "base", "greedy base", "PPO (seed 0)", "answer key",
)  # fmt: skip
UNTRAINED = ("start", "greedy start", "best of 16 start")  # what PPO's results stand beside
# kl_coef of the runs against the strong model. At the default 0.05 PPO finds, after some 300,000 tokens, long answers
# that the model of questions never saw compared (docs/learning.md). The weak models are studied at the default.
KL_COEF = {"vqa": 0.15, "captioning": 0.05, "dialogue": 0.05}
WEAK_KL_COEF = 0.05
SB3_TOKENS = {"vqa": 20_000, "captioning": 15_000, "dialogue": 10_000}
TOKENS_PER_UPDATE = {"vqa": 600, "captioning": 3300, "dialogue": 1800}
WORLDS = {"VQA": "vqa", "Captioning": "captioning", "SpokenDialogue": "dialogue"}


def cell(task: str, reward: str, seed: int, tokens: int = 400_000) -> Cell:
    """One run of PPO at its defaults except kl_coef, evaluated on the test split on the way."""
    overrides = {
        "reward": reward,
        "total_tokens": tokens,
        "kl_coef": KL_COEF[task] if reward == "preference" else WEAK_KL_COEF,
        "eval_every": max(1, tokens // EVALUATIONS // TOKENS_PER_UPDATE[task]),
        "eval_split": "test",
    }
    return Cell(f"{task}-{reward}", "ppo", IDS[task], seed, overrides)


def runs(tasks: tuple[str, ...] = tuple(IDS), tokens: int = 400_000, jobs: int = 2) -> None:
    """Run what is missing, the first seeds of every task first."""
    most = max(SEEDS.values())
    cells = [
        cell(task, reward, seed, tokens)
        for seed in range(most)
        for reward in REWARDS
        for task in tasks
        if seed < SEEDS[reward]
    ]
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
        update("sb3", {task: files.read_lines(path)})


class Fixed:
    """Reference policies that need no network: random tokens, silence."""

    def __init__(self, kind: str, vocabulary: int) -> None:
        self.kind, self.vocabulary, self.rng = kind, vocabulary, np.random.default_rng(0)

    def __call__(self, observations: Any, state: Any, starts: np.ndarray) -> np.ndarray:
        n = len(starts)
        return np.ones(n, np.int64) if self.kind == "silence" else self.rng.integers(1, self.vocabulary, n)


def answer_key(env_id: str, episodes: int) -> float:
    """Mean gold of the best references on the test split: what an agent that knows everything gets."""
    env: Any = gym.make_vec(env_id, num_envs=1, reward="gold").unwrapped
    golds = []
    for index in range(episodes):
        sample = env.task.sample("test", index)
        while sample is not None:
            response = mmenv.Response(sample.references[0])
            golds.append(env.task.gold(sample, response))
            sample = env.task.follow_up(sample, response)
    return float(np.mean(golds))


def reference_policies(env_id: str, task: str) -> dict[str, Any]:
    """Name -> ``act`` of every policy that an id is compared with; each draws from a generator of seed 0."""
    env: Any = gym.make_vec(env_id, num_envs=1).unwrapped  # its reward is what best of n goes by
    policies: dict[str, Any] = {kind: Fixed(kind, env.tokenizer.vocab_size) for kind in ("random", "silence")}

    for label, weights in {"start": f"start-{task}", "start-captioning": "start-captioning", "base": "base"}.items():
        policies[label] = load_policy(weights, env).act
        policies[f"greedy {label}"] = load_policy(weights, env, temperature=0.02).act
    start = load_policy(f"start-{task}", env)
    policies["best of 16 start"] = Chooser(start, env, 16, torch.Generator().manual_seed(0)).act
    trained = FOLDER / "runs" / cell(task, "preference", 0).path
    if (trained / "summary.json").is_file():
        policies["PPO (seed 0)"] = load_policy(trained, env).act
    return policies


def references(tasks: tuple[str, ...] = tuple(IDS), episodes: int = 512, policies: tuple[str, ...] = POLICIES) -> None:
    """Play every reference policy on every id of the tasks: gold with its interval, and reward, on the test split."""
    torch.set_num_threads(1)
    for env_id, (_, cls, _) in TABLE.items():
        task = WORLDS[cls]
        if task not in tasks:
            continue
        rows = {}
        for name, act in reference_policies(env_id, task).items():
            if name in policies:
                result = mmenv.evaluate(act, env_id, episodes=episodes)
                rows[name] = {"gold": result.gold, "interval": result.gold_interval, "reward": result.reward}
                print(env_id, name, result, flush=True)
        if "answer key" in policies:
            rows["answer key"] = {"gold": answer_key(env_id, episodes), "interval": None, "reward": None}
        update("references", {env_id: {**read_data("results").get("references", {}).get(env_id, {}), **rows}})


def update(name: str, rows: dict[str, Any]) -> None:
    """Put new rows into a part of docs/results.json, and write the page."""
    data = read_data("results")
    write_data("results", {**data, name: {**data.get(name, {}), **rows}})
    page()


def collect(data: dict[str, Any]) -> None:
    """Add the runs of the folder and the figures of ``make bench`` to the stored numbers."""
    for task in IDS:
        for reward in REWARDS:
            stored = data.setdefault("runs", {}).setdefault(f"{task} {reward}", [])
            by_seed = {row["summary"]["seed"]: row for row in stored}
            for seed in range(SEEDS[reward]):
                folder = FOLDER / "runs" / cell(task, reward, seed).path
                if (folder / "summary.json").is_file():
                    by_seed[seed] = row_of(folder)
            data["runs"][f"{task} {reward}"] = [by_seed[seed] for seed in sorted(by_seed)]
    if (ROOT / "bench.json").is_file():
        bench = json.loads((ROOT / "bench.json").read_text(encoding="utf-8"))
        data["bench"] = {name: value for name, value in bench.items() if isinstance(value, int | float)}
        data["bench machine"] = f"{bench['machine']['processor']}, load {bench['machine']['load'][0]:.1f}"


def row_of(folder: Path) -> dict[str, Any]:
    """A run's summary, its evaluations on the test split, and gold at the first of them from 200,000 tokens on."""
    metrics = files.read_lines(folder / "metrics.jsonl")
    names = ("tokens", "test_gold", "test_reward", "kl")
    curve = [{name: row[name] for name in names} for row in metrics if "test_gold" in row]
    at_200k = [point["test_gold"] for point in curve if 200_000 <= point["tokens"] <= 220_000]
    summary = files.read_json(folder / "summary.json")
    return {"summary": summary, "at_200k": at_200k[0] if at_200k else None, "curve": curve}


def page() -> None:
    """Write the tables between their marks, and the figure."""
    data = read_data("results")
    collect(data)
    write_data("results", data)
    draw(data["runs"])
    write_section(PAGE, "runs", run_table(data))
    write_section(PAGE, "sb3", sb3_table(data.get("sb3", {})))
    write_section(PAGE, "references", reference_table(data.get("references", {})))
    write_section(PAGE, "speed", speed_table(data.get("bench", {}), data.get("bench machine", "")))


def run_table(data: dict[str, Any]) -> str:
    """Gold of PPO beside that of its start, by task and preference model."""
    lines = []
    for name, rows in data["runs"].items():
        task, reward = name.split()
        if not rows:
            lines.append([task, reward, *[""] * 4, "not run", "", "", "0", "", "", ""])
            continue
        references = data["references"][IDS[task]]
        summaries = [row["summary"] for row in rows]
        after = [summary["gold"]["after"] for summary in summaries]
        half = [row["at_200k"] for row in rows if row["at_200k"] is not None]
        mean = bootstrapped(after)
        lines.append([
            task,
            reward,
            f"{np.mean([summary['gold']['before'] for summary in summaries]):.3f}",
            f"{references['greedy start']['gold']:.3f}",
            f"{references['best of 16 start']['gold']:.3f}" if reward == "preference" else "-",
            f"{np.mean(half):.3f}" if half else "-",
            f"{mean.value:.3f}",
            f"{aggregate.interquartile_mean(np.array(after)[:, None]):.3f}",
            f"[{mean.low:.3f}, {mean.high:.3f}]" if len(rows) > 1 else "one seed",
            str(len(rows)),
            f"{summaries[0]['tokens']:,}",
            f"{np.mean([summary['reward']['after'] for summary in summaries]):+.2f}",
            f"{np.mean([summary['kl'] for summary in summaries]):.2f}",
        ])  # fmt: skip
    header = ["task", "model", "start, sampled", "start, greedy", "start, best of 16", "PPO at 200k", "PPO at the end"]
    return tables.table([*header, "IQM", "95% interval", "seeds", "tokens", "reward", "KL"], lines)


def sb3_table(by_task: dict[str, Any]) -> str:
    """Gold before and after stable-baselines3's PPO."""
    lines = [
        [task, str(row["seed"]), f"{row['tokens']:,}", f"{row['before']:.3f}", f"{row['after']:.3f}",
         f"{row['after'] - row['before']:+.3f}"]
        for task, rows in by_task.items()
        for row in rows
    ]  # fmt: skip
    return tables.table(["task", "seed", "tokens", "gold before", "after", "gain"], lines)


def reference_table(by_id: dict[str, Any]) -> str:
    """Gold of every reference policy on every id."""
    names = [name for name in POLICIES if any(name in rows for rows in by_id.values())]
    lines = [
        [f"`{env_id}`", *(f"{rows[name]['gold']:.3f}" if name in rows else "-" for name in names)]
        for env_id, rows in by_id.items()
    ]
    return tables.table(["id", *names], lines)


def speed_table(bench: dict[str, float], machine: str) -> str:
    """The figures of ``make bench``."""
    lines = [
        [f"`{name}`", f"{value:,.0f}" if value >= 100 else f"{value:.3f}", MEANINGS[name]]
        for name, value in bench.items()
        if name in MEANINGS
    ]
    return f"`make bench`, one torch thread; {machine}.\n\n" + tables.table(["figure", "value", "what it is"], lines)


def curve_of(row: dict[str, Any]) -> tuple[list[float], list[float], list[float]]:
    """Thousands of tokens, gold and reward of a run, the start first."""
    start, points = row["summary"], row["curve"]
    tokens = [0.0, *(point["tokens"] / 1000 for point in points)]
    gold = [start["gold"]["before"], *(point["test_gold"] for point in points)]
    return tokens, gold, [start["reward"]["before"], *(point["test_reward"] for point in points)]


def draw(by_name: dict[str, Any]) -> None:
    """Gold and reward over tokens: the strong model above, the weak one below."""
    most = max((max(curve_of(row)[2]) for rows in by_name.values() for row in rows), default=1.0)
    with figure("results", 2, 3, (12, 6.4), sharex=True) as (chart, axes):
        for column, task in enumerate(IDS):
            for line, reward in enumerate(REWARDS):
                axis, rows = axes[line, column], by_name[f"{task} {reward}"]
                if not rows:
                    axis.remove()
                    axes[0, column].tick_params(labelbottom=True)
                    axes[0, column].set_xlabel("thousand tokens")
                    continue
                right = draw_panel(axis, rows, 1.1 * most)
                name, model = IDS[task].removeprefix("mmenv/"), "strong" if line == 0 else "weak"
                axis.set_title(f"{name}, {model} model", loc="left")
                axis.set_ylabel("gold" if column == 0 else "", color=figures.GOLD)
                is_last = column == 2 or not by_name[f"{list(IDS)[column + 1]} {reward}"]
                right.set_ylabel("reward" if is_last else "", color=figures.REWARD)
                if line == 1:
                    axis.set_xlabel("thousand tokens")
        chart.suptitle("Test gold (full) and reward (dashed) while PPO trains, a line a seed")


def draw_panel(axis: Any, rows: list[dict[str, Any]], most: float) -> Any:
    """Gold and reward of the runs of one task and model; the axis of reward."""
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    for row in rows:
        tokens, gold, reward = curve_of(row)
        axis.plot(tokens, gold, color=figures.GOLD, linewidth=1.6)
        right.plot(tokens, reward, color=figures.REWARD, linewidth=1, linestyle="--")
    right.set_ylim(-0.1, most)
    axis.set_ylim(0, 1.02)
    return right


if __name__ == "__main__":
    commands: dict[str, Callable[..., Any]] = {"runs": runs, "sb3": sb3, "references": references, "page": page}
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
