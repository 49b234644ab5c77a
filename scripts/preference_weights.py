"""Preference models of the shipped weights, and the model card: stages ``reward`` and ``card`` of make_weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.progress import Progress

import mmenv
from agents.rollouts import pairs
from agents.training.loading import load_policy
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.models.checkpoints import load_pretrained, read_tensors
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.training import Pairs, agreement
from scripts.pair_training import train_on_pairs

IDS = {"vqa": "mmenv/VQA-v0", "captioning": "mmenv/Captioning-v0", "dialogue": "mmenv/SpokenDialogue-v0"}
PAIRS = {
    "strong": {"vqa": 25_000, "captioning": 70_000, "dialogue": 16_000},
    "weak": {"vqa": 85, "captioning": 600, "dialogue": 50},
}
# Who compares, and how often a model sees it.
TRAINING = {
    "strong": (SyntheticAnnotator(0.05, flip=0.05), 5),
    "weak": (SyntheticAnnotator(0.1, flip=0.25), 10),
}
CARD = """# Model card: the shipped weights

Written by `python -m scripts.make_weights card`. `make weights` made them, seed 0, from the embedded world alone. All
are float16 safetensors. Gold is that of 1,024 episodes of the validation split, sampled at temperature 1 and nearly
greedy.

| network | taught by | gold, sampled | greedy |
|---|---|---|---|
{networks}

A preference model is a head on `base`. Agreement is with gold, on held-out pairs of the start's responses (validation
split) whose golds differ by at least 0.05; the others are ties.

| preference model | comparisons | annotator | agreement | ties |
|---|---|---|---|---|
{models}

**Meant for** the ids of this package: starting policies and rewards for comparing algorithms. **Not meant for**
photographs, human speech, or judging people's words: everything was learned from 308 drawings, 141 recorded words and
synthetic annotators. **Known limits:** docs/learning.md. **Licence:** MIT; of the drawings and voices that they were
trained on, `mmenv/worlds/assets/LICENSES.md`.
"""


def gold_of(name: str, weights: Path, seed: int) -> dict[str, str]:
    """Gold on 1,024 validation episodes, sampled at temperature 1 and nearly greedy."""
    env: Any = gym.make_vec(IDS[name], num_envs=1, reward="gold").unwrapped
    found = {}
    for kind, temperature in (("sampled", 1.0), ("greedy", 0.02)):
        policy = load_policy(weights, env, seed, temperature)
        result = mmenv.evaluate(policy.act, IDS[name], "validation", episodes=1024, reward="gold")
        print(name, kind, result, flush=True)
        found[kind] = f"{result.gold:.3f}"
    return found


def sample_pairs(name: str, split: str, n: int, seed: int) -> Pairs:
    """Two responses of the start to each of n contexts; in a dialogue the first reply."""
    env = gym.make_vec(
        IDS[name], num_envs=256, split=split, reward="gold", autoreset_mode="Disabled", copy=False
    ).unwrapped
    policy = load_policy(f"start-{name}", env, seed)
    with Progress() as progress:
        bar = progress.add_task(f"pairs {name} {split}", total=n)
        return pairs.sample_pairs(
            policy,
            env,
            split,
            n,
            np.random.default_rng(seed),
            lambda done: progress.update(bar, completed=done),  # type: ignore[arg-type]
        )


def make_reward(kind: str, name: str, seed: int, out: Path) -> None:
    """The strong or the weak preference model of a task."""
    held_out = sample_pairs(name, "validation", 3000, seed + 1)
    judge, epochs = TRAINING[kind]
    compared = sample_pairs(name, "train", PAIRS[kind][name], seed)
    model = PreferenceModel(load_pretrained("base"), "token")
    train_on_pairs(model, compared, judge, epochs, seed=seed)
    right, ties = agreement(model, held_out)
    distinct = int(held_out.distinct.sum())
    print(f"{kind}-{name}: agreement {right:.4f} on {distinct} held-out pairs, ties {ties:.2f}", flush=True)
    card = {
        "agreement": f"{right:.4f}", "ties": f"{ties:.2f}", "pairs": f"{len(compared.samples):,}",
        "annotator": f"temperature {judge.temperature}, {judge.flip:.0%} turned round",
    }  # fmt: skip
    model.save(out / f"{kind}-{name}.safetensors", card)


def metadata_of(name: str, folder: Path) -> dict[str, str]:
    """What a weights file says of itself."""
    return read_tensors(folder / f"{name}.safetensors")[1]


def write_card(seed: int, folder: Path) -> None:
    """README.md beside the weights."""
    base = load_pretrained(folder / "base.safetensors")
    networks, models = [], []
    for task in IDS:
        gold = gold_of(task, base, seed)
        networks.append(f"| `base` on {task} | right answers, all tasks | {gold['sampled']} | {gold['greedy']} |")
    for task in IDS:
        gold = metadata_of(f"start-{task}", folder)
        networks.append(f"| `start-{task}` | hurried demonstrations | {gold['sampled']} | {gold['greedy']} |")
    for kind in ("strong", "weak"):
        for task in IDS:
            m = metadata_of(f"{kind}-{task}", folder)
            models.append(f"| `{kind}-{task}` | {m['pairs']} | {m['annotator']} | {m['agreement']} | {m['ties']} |")
    text = CARD.format(networks="\n".join(networks), models="\n".join(models))
    (folder / "README.md").write_text(text, encoding="utf-8")
