"""The runs, tables and figures of docs/rlhf.md and docs/alarm.md.

    python -m scripts.make_feedback loop      # rounds of RLHF against one round with the same PPO tokens
    python -m scripts.make_feedback ensemble  # one weak model against a variance-penalised ensemble on the same labels
    python -m scripts.make_feedback alarm     # the hacking alarm on strong, weak and biased models
    python -m scripts.make_feedback page      # docs/rlhf.md, docs/alarm.md and their figures

Runs land in runs/feedback and are not repeated; two at a time, one thread each. ``--seeds 0 5`` is the range of seeds:
those of the alarm from 100 on tuned it and are not reported. The pages are written from what is there and say what is
missing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.rewards.ensemble import fit_ensemble
from mmenv.rewards.preference_model import shared_backbone
from mmenv.rewards.training import Pairs, RewardConfig, agreement
from scripts.make_weights import IDS, PAIRS, TRAINING, sample_pairs

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "feedback"
TASKS = ("vqa", "captioning")
LABELS, FLIP = 2000, 0.1
LOOP_ROUNDS = 4
LOOP_TOKENS = {"vqa": 25_000, "captioning": 50_000}  # a round
# Ensembles and the alarm are studied where over-optimisation is quick: a small beta and steps that do not shrink.
GREEDY = ("--kl-coef", "0.01", "--learning-rate", "0.001", "--final-learning-rate", "0.001")
GREEDY_TOKENS = {"vqa": 20_000, "captioning": 40_000}
KINDS = ("strong", "weak", "biased")
# Judges and biased models: who compares, and how many pairs.
JUDGE = (SyntheticAnnotator(0.1, flip=FLIP), LABELS)
BIASED = (SyntheticAnnotator(0.1, flip=FLIP, length_bias=0.08), LABELS)
Command = tuple[Path, list[str]]


def comparisons(pairs: Pairs, annotator: SyntheticAnnotator, seed: int) -> list[Comparison]:
    """Pairs as an annotator judged them."""
    choices = annotator.prefer(list(pairs.responses), pairs.gold, np.random.default_rng(seed))
    return [
        Comparison(s.id, s.prompt, (a.text, b.text), int(c), stops=(a.stop, b.stop), annotator="synthetic")
        for s, (a, b), c in zip(pairs.samples, pairs.responses, choices, strict=True)
    ]


def make_reward(path: Path, task: str, annotator: SyntheticAnnotator, n: int, seed: int, epochs: int, members: int = 1,
                combine: str = "mean") -> None:  # fmt: skip
    """An ensemble on ``n`` comparisons of the start's responses, unless it is there."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = sample_pairs(task, "train", n, 1000 + seed)
    config = RewardConfig(epochs=epochs, seed=seed)
    judged = comparisons(pairs, annotator, seed)
    model = fit_ensemble(shared_backbone("base"), judged, pairs.samples, config, members, combine)
    right, _ = agreement(model, sample_pairs(task, "validation", 1000, 1))
    print(f"{path.name}: {n} comparisons, {members} members, agreement {right:.3f}", flush=True)
    model.save(path, {"agreement": f"{right:.3f}"})


def judge_of(task: str) -> Path:
    """The judge of a task, which no reward's labels went into."""
    path = RUNS / "models" / f"judge-{task}.safetensors"
    make_reward(path, task, *JUDGE, seed=900, epochs=10, members=5, combine="variance")
    return path


def ppo(task: str, reward: str | Path, seed: int, out: Path, *more: str) -> Command:
    """One greedy run of PPO."""
    return out, [
        "ppo", "--env-id", IDS[task], "--reward", str(reward), "--seed", str(seed), "--total-tokens",
        str(GREEDY_TOKENS[task]), *GREEDY, "--eval-episodes", "0", "--threads", "1", "--out", str(out), *more,
    ]  # fmt: skip


def loop_jobs(tasks: list[str], seeds: range) -> list[Command]:
    """The loop, and one round with the same PPO tokens and as many labels as a round has."""
    jobs = []
    for seed in seeds:
        for task in tasks:
            for rounds in (LOOP_ROUNDS, 1):
                out = RUNS / f"loop-{task}-{rounds}-{seed}"
                tokens = LOOP_TOKENS[task] * LOOP_ROUNDS // rounds
                jobs.append((out, [
                    "rlhf", "--env-id", IDS[task], "--rounds", str(rounds), "--labels", str(LABELS), "--flip",
                    str(FLIP), "--seed", str(seed), "--ppo.total-tokens", str(tokens), "--ppo.threads", "1",
                    "--out", str(out),
                ]))  # fmt: skip
    return jobs


def ensemble_jobs(tasks: list[str], seeds: range) -> list[Command]:
    """A single model and an ensemble of five on the same weak data."""
    jobs, (annotator, epochs) = [], TRAINING["weak"]
    for seed in seeds:
        for task in tasks:
            for members, combine in ((1, "mean"), (5, "variance")):
                reward = RUNS / "models" / f"weak-{task}-{members}-{seed}.safetensors"
                make_reward(reward, task, annotator, PAIRS["weak"][task], seed, epochs, members, combine)
                jobs.append(ppo(task, reward, seed, RUNS / f"ensemble-{task}-{members}-{seed}"))
    return jobs


def alarm_jobs(tasks: list[str], seeds: range, kinds: list[str]) -> list[Command]:
    """Runs with a judge, against models of three kinds."""
    jobs = []
    for seed in seeds:
        for task in tasks:
            for kind in kinds:
                out = RUNS / f"alarm-{kind}-{task}-{seed}"
                reward = _reward_of(kind, task, seed)
                jobs.append(ppo(task, reward, seed, out, "--judge", str(judge_of(task))))
    return jobs


def _reward_of(kind: str, task: str, seed: int) -> str | Path:
    if kind == "strong":
        return "preference"
    path = RUNS / "models" / f"{kind}-{task}-1-{seed}.safetensors"
    (annotator, n), epochs = (BIASED, 10) if kind == "biased" else ((TRAINING["weak"][0], PAIRS["weak"][task]), 10)
    make_reward(path, task, annotator, n, seed, epochs)
    return path


def play(job: Command) -> None:
    """Run a command unless its folder is whole; go on with one that was cut off."""
    out, arguments = job
    if (out / "summary.json").is_file():
        return
    if arguments[0] == "ppo" and (out / "checkpoint").is_dir():
        arguments = ["ppo", "--resume", str(out)]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run([sys.executable, "-m", "agents", *arguments], cwd=ROOT, stdout=log, stderr=log, check=True)
    print("done", out.name, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loop", "ensemble", "alarm", "page"))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help="of the alarm's models")
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 5), metavar=("FROM", "TO"))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "page":
        from scripts import feedback_page

        feedback_page.write(RUNS)
        return
    seeds = range(*args.seeds)
    makers: dict[str, Callable[[], list[Command]]] = {
        "loop": lambda: loop_jobs(args.tasks, seeds),
        "ensemble": lambda: ensemble_jobs(args.tasks, seeds),
        "alarm": lambda: alarm_jobs(args.tasks, seeds, args.kinds),
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(play, makers[args.what]()))


if __name__ == "__main__":
    main()
