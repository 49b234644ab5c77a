"""The runs, tables and figures of docs/results.md.

    python -m experiments.results runs --tasks vqa captioning dialogue --seeds 5   # PPO, strong and weak model
    python -m experiments.results sb3                                              # stable-baselines3's PPO
    python -m experiments.results references                                       # every id, every reference policy
    python -m experiments.results page                                             # docs/results.md and its figures

Runs land in runs/results and are not repeated; two at a time, one thread each. The page is written from what is there,
and says what is missing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats

import mmenv
from agents import files
from agents.policies.chooser import Chooser
from agents.training import figures
from agents.training.loading import load_policy
from benchmarks.__main__ import MEANINGS
from mmenv.registration import TABLE

ROOT = Path(__file__).parent.parent
RUNS, DOCS, DATA = ROOT / "runs" / "results", ROOT / "docs", ROOT / "docs" / "results.json"
IDS = {"vqa": "mmenv/VQA-v0", "captioning": "mmenv/Captioning-v0", "dialogue": "mmenv/SpokenDialogue-v0"}
EVALUATIONS = 20
POLICIES = (
    "random", "silence", "start", "greedy start", "best of 16 start", "start-captioning", "greedy start-captioning",
    "base", "greedy base", "PPO (seed 0)", "answer key",
)  # fmt: skip
UNTRAINED = ("start", "greedy start", "best of 16 start")  # what PPO's results stand beside
# Beta of the runs against the strong model. At the default 0.05 PPO finds, after some 300,000 tokens, long answers that
# the model of questions never saw compared (docs/learning.md). The weak models are studied at the default.
KL_COEF = {"vqa": 0.15, "captioning": 0.05, "dialogue": 0.05}
WEAK_KL_COEF = 0.05
SB3_TOKENS = {"vqa": 20_000, "captioning": 15_000, "dialogue": 10_000}
TOKENS_AN_UPDATE = {"vqa": 600, "captioning": 3300, "dialogue": 1800}


def folder(task: str, reward: str, seed: int) -> Path:
    return RUNS / f"{task}-{reward}-{seed}"


def run(task: str, reward: str, seed: int, tokens: int) -> None:
    """One run of PPO at its defaults, evaluated on the test split on the way."""
    out = folder(task, reward, seed)
    if (out / "summary.json").is_file():
        return
    every = max(1, tokens // EVALUATIONS // TOKENS_AN_UPDATE[task])
    command = [
        sys.executable, "-m", "agents", "ppo", "--env-id", IDS[task], "--reward", reward, "--seed", str(seed),
        "--total-tokens", str(tokens), "--kl-coef", str(KL_COEF[task] if reward == "preference" else WEAK_KL_COEF),
        "--eval-every", str(every), "--eval-split", "test", "--threads", "1", "--out", str(out),
    ]  # fmt: skip
    if (out / "checkpoint").is_dir():
        command = [sys.executable, "-m", "agents", "ppo", "--resume", str(out)]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    print("done", out.name, flush=True)


def play_all(tasks: list[str], seeds: int, weak_seeds: int, tokens: int, jobs: int) -> None:
    """Every run that is missing, the first seeds of every task first."""
    rewards = (("preference", seeds), ("preference-weak", weak_seeds))
    todo = [(t, r, s) for s in range(max(seeds, weak_seeds)) for r, n in rewards if s < n for t in tasks]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: run(*job, tokens), todo))


def sb3(task: str, seed: int) -> dict[str, Any]:
    """Gold on the test split before and after examples/sb3_ppo.py."""
    tokens = SB3_TOKENS[task]
    arguments = ["--env-id", IDS[task], "--seed", str(seed), "--total-tokens", str(tokens)]
    command = [sys.executable, "examples/sb3_ppo.py", *arguments]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    gold = {when: float(re.search(rf"^{when} +gold ([\d.]+)", said, re.M)[1]) for when in ("before", "after")}  # type: ignore[index]
    row = {"seed": seed, "tokens": tokens, **gold}
    print("stable-baselines3", task, row, flush=True)
    return row


class Fixed:
    """Reference policies that need no network: random tokens, silence."""

    def __init__(self, kind: str, vocab: int) -> None:
        self.kind, self.vocab, self.rng = kind, vocab, np.random.default_rng(0)

    def __call__(self, observations: Any, state: Any, starts: np.ndarray) -> np.ndarray:
        n = len(starts)
        return np.ones(n, np.int64) if self.kind == "silence" else self.rng.integers(1, self.vocab, n)


def answer_key(env_id: str, episodes: int) -> float:
    """Mean gold of the best references on the test split: what an agent that knew would get."""
    env: Any = gym.make_vec(env_id, num_envs=1, reward="gold").unwrapped
    task, golds = env.task, []
    for i in range(episodes):
        sample = task.sample("test", i)
        while sample is not None:
            response = mmenv.Response(sample.references[0])
            golds.append(task.gold(sample, response))
            sample = task.follow_up(sample, response)
    return float(np.mean(golds))


def reference_policies(env_id: str, task: str) -> dict[str, Any]:
    """Name -> ``act`` of every policy that an id is compared with; each draws from a generator of seed 0."""
    env: Any = gym.make_vec(env_id, num_envs=1).unwrapped  # its reward is what best of n goes by
    policies: dict[str, Any] = {k: Fixed(k, env.tokenizer.vocab_size) for k in ("random", "silence")}

    for label, weights in {"start": f"start-{task}", "start-captioning": "start-captioning", "base": "base"}.items():
        policies[label] = load_policy(weights, env).act
        policies[f"greedy {label}"] = load_policy(weights, env, temperature=0.02).act
    start = load_policy(f"start-{task}", env)
    policies["best of 16 start"] = Chooser(start, env, 16, torch.Generator().manual_seed(0)).act
    if (folder(task, "preference", 0) / "summary.json").is_file():
        policies["PPO (seed 0)"] = load_policy(folder(task, "preference", 0), env).act
    return policies


def references(tasks: list[str], episodes: int, wanted: list[str]) -> dict[str, Any]:
    """Id -> policy -> gold with its interval, and reward, on the test split; of every id of the tasks.

    Args:
        tasks: whose ids are played.
        episodes: of each.
        wanted: names of policies; none plays all.
    """
    table: dict[str, Any] = {}
    for env_id, (_, cls, _) in TABLE.items():
        task = {"VQA": "vqa", "Captioning": "captioning", "SpokenDialogue": "dialogue"}[cls]
        if task not in tasks:
            continue
        rows = {}
        for name, act in reference_policies(env_id, task).items():
            if wanted and name not in wanted:
                continue
            result = mmenv.evaluate(act, env_id, episodes=episodes)
            rows[name] = {"gold": result.gold, "interval": result.gold_interval, "reward": result.reward}
            print(env_id, name, result, flush=True)
        if not wanted or "answer key" in wanted:
            rows["answer key"] = {"gold": answer_key(env_id, episodes), "interval": None, "reward": None}
        table[env_id] = rows
    return table


def gold_at(task: str, reward: str, seed: int, tokens: int) -> float | None:
    """Test gold at the first evaluation at or after ``tokens`` (within a tenth of them)."""
    rows = files.read_lines(folder(task, reward, seed) / "metrics.jsonl")
    found = [r["test_gold"] for r in rows if "test_gold" in r and tokens <= r["tokens"] <= 1.1 * tokens]
    return found[0] if found else None


def collect(seeds: int) -> dict[str, Any]:
    """What the runs say, as JSON."""
    out: dict[str, Any] = {}
    for task in IDS:
        for reward in ("preference", "preference-weak"):
            rows = []
            for seed in range(seeds):
                path = folder(task, reward, seed)
                if (path / "summary.json").is_file():
                    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
                    curve = [
                        {k: r[k] for k in ("tokens", "test_gold", "test_reward", "kl")}
                        for r in files.read_lines(path / "metrics.jsonl")
                        if "test_gold" in r
                    ]
                    rows.append({"summary": summary, "at_200k": gold_at(task, reward, seed, 200_000), "curve": curve})
            out[f"{task} {reward}"] = rows
    return out


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Runs of both, the new one where a seed was run again: a checkout holds the numbers, not the runs' folders."""
    out = {}
    for name, rows in new.items():
        by_seed = {row["summary"]["seed"]: row for row in (*old.get(name, ()), *rows)}
        out[name] = [by_seed[seed] for seed in sorted(by_seed)]
    return out


def together(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What was found before and now, key by key: a trained policy that is not here keeps its numbers."""
    both = {k: {**v, **new.get(k, {})} if isinstance(v, dict) else new.get(k, v) for k, v in old.items()}
    return {**new, **both}


def interval(values: list[float]) -> tuple[float, float, float, float]:
    """Mean, interquartile mean, and the 95% bootstrap interval of the mean."""
    array = np.array(values)
    if len(array) < 2 or np.ptp(array) == 0:
        return float(array.mean()), float(array.mean()), float(array.min()), float(array.max())
    found = stats.bootstrap((array,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0))
    return (
        float(array.mean()), float(stats.trim_mean(array, 0.25)),
        float(found.confidence_interval.low), float(found.confidence_interval.high),
    )  # fmt: skip


def curve_of(item: dict[str, Any]) -> tuple[list[float], list[float], list[float]]:
    """Thousands of tokens, gold and reward of a run, the start first."""
    before, points = item["summary"], item["curve"]
    x = [0.0, *(p["tokens"] / 1000 for p in points)]
    gold = [before["gold"]["before"], *(p["test_gold"] for p in points)]
    return x, gold, [before["reward"]["before"], *(p["test_reward"] for p in points)]


def figure(data: dict[str, Any], path: Path) -> None:
    """Gold and reward over tokens: the strong model above, the weak one below."""
    most = max((max(curve_of(item)[2]) for items in data.values() for item in items), default=1.0)
    with plt.rc_context(figures.STYLE):
        chart, axes = plt.subplots(2, 3, figsize=(12, 6.4), sharex=True, layout="constrained")
        for column, task in enumerate(IDS):
            for row, reward in enumerate(("preference", "preference-weak")):
                axis = axes[row, column]
                right = axis.twinx()
                right.spines["right"].set_visible(True)
                right.grid(False)
                for item in data[f"{task} {reward}"]:
                    x, gold, paid = curve_of(item)
                    axis.plot(x, gold, color=figures.GOLD, linewidth=1.6)
                    right.plot(x, paid, color=figures.REWARD, linewidth=1, linestyle="--")
                right.set_ylim(-0.1, 1.1 * most)
                if not data[f"{task} {reward}"]:
                    axis.remove()
                    right.remove()
                    axes[0, column].tick_params(labelbottom=True)
                    axes[0, column].set_xlabel("thousand tokens")
                    continue
                axis.set_ylim(0, 1.02)
                name, model = IDS[task].removeprefix("mmenv/"), "strong" if row == 0 else "weak"
                axis.set_title(f"{name}, {model} model", loc="left")
                axis.set_ylabel("gold" if column == 0 else "", color=figures.GOLD)
                last = column == 2 or not data[f"{list(IDS)[column + 1]} {reward}"]
                right.set_ylabel("reward" if last else "", color=figures.REWARD)
                if row == 1:
                    axis.set_xlabel("thousand tokens")
        chart.suptitle("Test gold (full) and reward (dashed) while PPO trains, a line a seed")
        chart.savefig(path)
        plt.close(chart)


STARTS = (
    "What a gain is worth: the shipped starts are the pretrained `base`, which was taught right answers, after some "
    "200 steps of imitating hurried people. So the knowledge is there, and a large part of what PPO does is to undo "
    "the damage and to lower the entropy. The start decoded greedily, and the best of 16 of its responses, need no "
    "training and stand in the table beside PPO. On questions and dialogues even `start-captioning`, which was "
    "taught captions alone in those steps, answers better than the start of the task. The preference models stand "
    "on `base` too and score by its log-probabilities: that few labels are enough for them says nothing about "
    "models that must learn what is right. Beta 0.15 of questions was chosen after a look at test gold "
    "([learning.md](learning.md)), so that row is no clean estimate."
)
SAMPLING = (
    "One start has several numbers on these pages (0.60, 0.62 and others on questions): each evaluation draws 512 "
    "responses from a seed of its own, and the interval of 512 episodes is some 0.08 wide."
)


def page(stored: dict[str, Any]) -> str:
    """docs/results.md from results.json."""
    lines = [
        "# Results", "",
        "Written by `python -m experiments.results page` from `docs/results.json`; the runs are those of "
        "`python -m experiments.results runs`, PPO at its defaults but for beta in question "
        f"answering, {KL_COEF['vqa']} against the strong model. No early stop; 512 episodes of the test split, sampled "
        "at temperature 1. " + stored.get("machine", ""), "",
        STARTS, "",
        "## PPO against the shipped preference models", "",
        "IQM is the interquartile mean, the interval a bootstrap of the mean over seeds; KL is in nats a response, of "
        "these runs that of the last batch before its last update. Best of 16 goes by the strong model. "
        + SAMPLING, "",
        "![gold and reward over tokens](img/results.png)", "",
        "| task | model | start, sampled | start, greedy | start, best of 16 | PPO at 200k | PPO at the end | IQM "
        "| 95% interval | seeds | tokens | reward | KL |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, rows in stored["runs"].items():
        task, reward = name.split()
        if not rows:
            lines.append(f"| {task} | {reward} | | | | | not run | | | 0 | | | |")
            continue
        found = stored["references"][IDS[task]]
        greedy, best = (f"{found[k]['gold']:.3f}" for k in ("greedy start", "best of 16 start"))
        end = [r["summary"]["gold"]["after"] for r in rows]
        half = [r["at_200k"] for r in rows if r["at_200k"] is not None]
        mean, iqm, low, high = interval(end)
        sure = f"[{low:.3f}, {high:.3f}]" if len(end) > 1 else "one seed"
        before, tokens = np.mean([r["summary"]["gold"]["before"] for r in rows]), rows[0]["summary"]["tokens"]
        paid, kl = (np.mean(v) for v in zip(*[(r["summary"]["reward"]["after"], r["summary"]["kl"]) for r in rows]))
        at = f"{np.mean(half):.3f}" if half else "-"
        best = best if reward == "preference" else "-"
        lines.append(
            f"| {task} | {reward} | {before:.3f} | {greedy} | {best} | {at} | {mean:.3f} | "
            f"{iqm:.3f} | {sure} | {len(rows)} | {tokens:,} | {paid:+.2f} | {kl:.2f} |"
        )
    if stored.get("sb3"):
        lines += [
            "", "## stable-baselines3's PPO from the same starts", "",
            "`python -m experiments.results sb3`, that is `examples/sb3_ppo.py`; 512 episodes of the test split.", "",
            "| task | seed | tokens | gold before | after | gain |", "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for task, rows in stored["sb3"].items():
            for r in rows:
                gain = r["after"] - r["before"]
                numbers = f"{r['tokens']:,} | {r['before']:.3f} | {r['after']:.3f} | {gain:+.3f}"
                lines.append(f"| {task} | {r['seed']} | {numbers} |")
    lines += [
        "",
        "## Reference policies on every id",
        "",
        "Gold on the test split (`python -m experiments.results references`).",
        "",
    ]
    if stored.get("references"):
        names = [n for n in POLICIES if any(n in rows for rows in stored["references"].values())]
        lines += ["| id | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for env_id, rows in stored["references"].items():
            cells = [f"{rows[n]['gold']:.3f}" if n in rows else "-" for n in names]
            lines.append(f"| `{env_id}` | " + " | ".join(cells) + " |")
    if stored.get("bench"):
        lines += [
            "", "## Speed", "", f"`make bench`, one torch thread; {stored['bench machine']}.", "",
            "| figure | value | what it is |", "|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| `{k}` | {f'{v:,.0f}' if v >= 100 else f'{v:.3f}'} | {MEANINGS[k]} |"
            for k, v in stored["bench"].items()
            if k in MEANINGS
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("runs", "sb3", "references", "page"))
    parser.add_argument("--tasks", nargs="*", default=list(IDS), choices=list(IDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--weak-seeds", type=int, default=3)
    parser.add_argument("--sb3-seeds", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--policies", nargs="*", default=[], choices=POLICIES, help="of references; none plays all")
    args = parser.parse_args()
    if args.what == "runs":
        play_all(args.tasks, args.seeds, args.weak_seeds, args.tokens, args.jobs)
        return
    found: dict[str, Any] = {}
    if args.what == "sb3":
        found = {task: [sb3(task, seed) for seed in range(args.sb3_seeds)] for task in args.tasks}
    if args.what == "references":
        torch.set_num_threads(1)
        found = references(args.tasks, args.episodes, args.policies)
    # Read late: another of these commands may have written meanwhile.
    stored = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {"runs": {}}
    if found:
        stored[args.what] = together(stored.get(args.what, {}), found)
    stored["runs"] = merged(stored["runs"], collect(args.seeds))
    if (ROOT / "bench.json").is_file():
        bench = json.loads((ROOT / "bench.json").read_text(encoding="utf-8"))
        stored["bench"] = {k: v for k, v in bench.items() if isinstance(v, int | float)}
        stored["bench machine"] = f"{bench['machine']['processor']}, load {bench['machine']['load'][0]:.1f}"
    DATA.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    (DOCS / "img").mkdir(exist_ok=True)
    figure(stored["runs"], DOCS / "img" / "results.png")
    (DOCS / "results.md").write_text(page(stored), encoding="utf-8")


if __name__ == "__main__":
    main()
