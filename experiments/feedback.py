"""The runs, tables and figures of docs/rlhf.md and docs/alarm.md.

    python -m experiments.feedback loop      # rounds of RLHF against one round with the same PPO tokens
    python -m experiments.feedback defaults  # the loop with its defaults, an ensemble of five and a beta of 0.05
    python -m experiments.feedback labels    # that one round with ensembles of five on the same labels
    python -m experiments.feedback ensemble  # the same for the few labels of the shipped weak models, and greedy PPO
    python -m experiments.feedback alarm     # the hacking alarm on strong, weak and biased models
    python -m experiments.feedback page      # docs/rlhf.md, docs/alarm.md and their figures

Runs land in runs/feedback and are not repeated; two at a time, one thread each. ``--seeds 0 5`` is the range of seeds:
those of the alarm from 100 on tuned it and are not reported. The pages are written from what is there and say what is
missing.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from agents.rollouts.pairs import annotate
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.rewards.preference.ensemble import fit_ensemble
from mmenv.rewards.preference.model import shared_backbone
from mmenv.rewards.preference.training import Pairs, RewardConfig, agreement
from scripts.make_weights import IDS, PAIRS, TRAINING, sample_pairs

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "feedback"
TASKS = ("vqa", "captioning")
LABELS, FLIP = 2000, 0.1
LOOP_ROUNDS = 4
LOOP_TOKENS = {"vqa": 15_000, "captioning": 50_000}  # a round
# The loop is studied where a round's reward is weak: one preference model, and a beta that lets PPO go where it likes.
ONE, FIVE = ("--members", "1", "--combine", "mean"), ("--members", "5", "--combine", "variance", "--weight")
WEIGHTS = (1, 3)  # of the variance; 3 was chosen on seeds from 100 on
# Greedy PPO, for the weak model's labels and the alarm: over-optimisation is quick where steps do not shrink.
GREEDY = ("--kl-coef", "0.01", "--learning-rate", "0.001", "--final-learning-rate", "0.001")
GREEDY_TOKENS = {"vqa": 16_000, "captioning": 36_000}
KINDS = ("strong", "weak", "biased")
POOL = 6000
HONEST = SyntheticAnnotator(0.1, flip=FLIP)
BIASED = SyntheticAnnotator(0.1, flip=FLIP, length_bias=0.08)
Command = tuple[Path, list[str]]


@functools.cache
def pool(task: str, split: str, n: int, seed: int) -> Pairs:
    """Pairs of the start's responses, sampled once a process."""
    return sample_pairs(task, split, n, seed)


def drawn(task: str, n: int, seed: int) -> Pairs:
    """``n`` pairs of a pool that rewards share; another draw for every seed, and none of them the judge's."""
    pairs = pool(task, "train", POOL, 1000)
    return pairs.take(np.random.default_rng(seed).permutation(POOL)[:n])


def make_reward(
    path: Path,
    task: str,
    pairs: Pairs,
    annotator: SyntheticAnnotator,
    seed: int,
    members: int = 1,
    combine: str = "mean",
    weight: float = 1.0,
) -> None:
    """An ensemble on comparisons of the start's responses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = annotate(pairs, annotator, np.random.default_rng(seed))
    learn = RewardConfig(seed=seed)
    model = fit_ensemble(shared_backbone("base"), said, pairs.samples, learn, members, combine, weight)
    right, _ = agreement(model, pool(task, "validation", 1000, 1))
    print(f"{path.name}: {len(said)} comparisons, {members} members, agreement {right:.3f}", flush=True)
    model.save(path, {"agreement": f"{right:.3f}"})


def judge_of(task: str) -> Path:
    """The judge of a task, which no reward's labels went into."""
    path = RUNS / "models" / f"judge-{task}.safetensors"
    if not path.is_file():
        make_reward(path, task, pool(task, "train", LABELS, 1900), HONEST, 900, 5, "variance")
    return path


def arm(members: int, weight: int) -> str:
    """What tells ensembles apart in names of folders: ``5``, or ``5x3`` where three times the variance is paid."""
    return str(members) if weight == 1 else f"{members}x{weight}"


def reward_of(kind: str, task: str, seed: int, members: int = 1, weight: int = 1) -> str | Path:
    """A name, or weights that are made where they are missing."""
    if kind == "strong":
        return "preference"
    path = RUNS / "models" / f"{kind}-{task}-{arm(members, weight)}-{seed}.safetensors"
    if not path.is_file():
        weak = kind == "weak"
        n, annotator = (PAIRS["weak"][task], TRAINING["weak"][0]) if weak else (LABELS, BIASED)
        combine = "mean" if members == 1 else "variance"
        make_reward(path, task, drawn(task, n, seed), annotator, seed, members, combine, weight)
    return path


def ppo(task: str, reward: str | Path, seed: int, out: Path, *more: str) -> Command:
    """One greedy run of PPO."""
    return out, [
        "ppo", "--env-id", IDS[task], "--reward", str(reward), "--seed", str(seed), "--total-tokens",
        str(GREEDY_TOKENS[task]), *GREEDY, "--eval-episodes", "0", "--threads", "1", "--out", str(out), *more,
    ]  # fmt: skip


def rlhf(task: str, rounds: int, seed: int, out: Path, *more: str, labels: int = LABELS) -> Command:
    """The loop as it comes, with so many labels a round."""
    return out, [
        "rlhf", "--env-id", IDS[task], "--rounds", str(rounds), "--labels", str(labels), "--flip", str(FLIP), "--seed",
        str(seed), "--ppo.threads", "1", "--out", str(out), *more,
    ]  # fmt: skip


def weak(task: str, rounds: int) -> tuple[str, ...]:
    """A beta that lets PPO go where it likes, and rounds that have ``LOOP_ROUNDS`` rounds' tokens of PPO together."""
    return "--ppo.kl-coef", "0.01", "--ppo.total-tokens", str(LOOP_TOKENS[task] * LOOP_ROUNDS // rounds)


def loop_jobs(tasks: list[str], seeds: range) -> list[Command]:
    """The loop, and one round with the same PPO tokens: with as many labels as a round has, and as all have."""
    return [
        rlhf(task, n, seed, RUNS / f"loop-{task}-{name}-{seed}", *ONE, *weak(task, n), labels=labels)
        for seed in seeds
        for task in tasks
        for name, n, labels in (("4", LOOP_ROUNDS, LABELS), ("1", 1, LABELS), ("1x4", 1, LOOP_ROUNDS * LABELS))
    ]


def labels_jobs(tasks: list[str], seeds: range, weights: list[int]) -> list[Command]:
    """The one round again, on the same labels, with an ensemble of five that pays its mean less so much variance."""
    return [
        rlhf(task, 1, seed, RUNS / f"labels-{task}-{arm(5, weight)}-{seed}", *FIVE, str(weight), *weak(task, 1))
        for weight in weights
        for seed in seeds
        for task in tasks
    ]


def defaults_jobs(tasks: list[str], seeds: range) -> list[Command]:
    """The loop as it comes."""
    return [rlhf(task, LOOP_ROUNDS, seed, RUNS / f"defaults-{task}-{seed}") for task in tasks for seed in seeds]


def ensemble_jobs(tasks: list[str], seeds: range, weights: list[int]) -> list[Command]:
    """A single model and ensembles of five on the same weak data."""
    return [
        ppo(task, reward_of("weak", task, seed, *which), seed, RUNS / f"ensemble-{task}-{arm(*which)}-{seed}")
        for seed in seeds
        for task in tasks
        for which in ((1, 1), *((5, weight) for weight in weights))
    ]


def alarm_jobs(tasks: list[str], seeds: range, kinds: list[str]) -> list[Command]:
    """Runs with a judge, against models of three kinds."""
    return [
        ppo(
            task, reward_of(kind, task, seed), seed, RUNS / f"alarm-{kind}-{task}-{seed}", "--judge",
            str(judge_of(task)),
        )
        for seed in seeds
        for task in tasks
        for kind in kinds
    ]  # fmt: skip


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
    parser.add_argument("what", choices=("loop", "defaults", "labels", "ensemble", "alarm", "page"))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--weights", nargs="*", type=int, default=list(WEIGHTS), help="of the variance")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help="of the alarm's models")
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 5), metavar=("FROM", "TO"))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "page":
        from experiments import feedback_page

        feedback_page.write(RUNS)
        return
    seeds = range(*args.seeds)
    makers: dict[str, Callable[[], list[Command]]] = {
        "loop": lambda: loop_jobs(args.tasks, seeds),
        "defaults": lambda: defaults_jobs(args.tasks, seeds),
        "labels": lambda: labels_jobs(args.tasks, seeds, args.weights),
        "ensemble": lambda: ensemble_jobs(args.tasks, seeds, args.weights),
        "alarm": lambda: alarm_jobs(args.tasks, seeds, args.kinds),
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(play, makers[args.what]()))


if __name__ == "__main__":
    main()
