"""Make the shipped starting policies and preference models from the base network, seeded.

    python -m scripts.make_weights start            # start-vqa, start-captioning, start-dialogue
    python -m scripts.make_weights reward           # strong-* and weak-*: prints their agreement with gold
    python -m scripts.make_weights start --task vqa
    python -m scripts.make_weights card             # the model card, from what the files say of themselves

A start is the base network after a short supervised training on demonstrations of mixed quality
(mmenv/tasks/demonstrations.py). A preference model is a head on the frozen base, trained on a synthetic annotator's
choices between two responses sampled from the start: the strong one sees thousands of pairs (``PAIRS``), the weak one
a few hundred, a quarter of them turned round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from mmenv.tasks.demonstrations import demonstrate
from rich.progress import Progress, track

import mmenv
from agents.rollouts import pairs
from agents.training.loading import load_policy
from mmenv.data.sample import Response
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.models.checkpoints import PRETRAINED, load_pretrained, read_tensors, save_network
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.training import Pairs, agreement
from mmenv.tasks.base import Task
from mmenv.worlds.grid import generator
from scripts.make_base import collate, loss_of
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
STEPS = {"vqa": 220, "captioning": 200, "dialogue": 180}


def demonstrations(task: Task, rng: np.random.Generator, n: int):  # type: ignore[no-untyped-def]
    """Rows of (image, audio, prompt, response) with a hurried answer each."""
    rows = []
    while len(rows) < n:
        sample = task.sample("train", int(rng.integers(task.size("train"))))
        while sample is not None and len(rows) < n:
            text = demonstrate(sample, rng)
            rows.append(
                (sample.image, sample.audio, task.tokenizer.encode(sample.prompt), [*task.tokenizer.encode(text), 1])
            )
            sample = task.follow_up(sample, Response(text))  # type: ignore[assignment]
    return rows


def make_start(name: str, seed: int, out: Path) -> None:
    """Supervised training on demonstrations, the encoders frozen."""
    task = gym.make_vec(IDS[name], num_envs=1, reward="gold").unwrapped.task  # type: ignore[attr-defined]
    network, rng = load_pretrained("base"), generator(21, seed, task.key)
    torch.manual_seed(seed)
    frozen = set(map(id, network.encoder_parameters()))
    parameters = [p for p in network.parameters() if id(p) not in frozen]
    optimiser = torch.optim.AdamW(parameters, lr=4e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-4, total_steps=STEPS[name], pct_start=0.1)
    for _ in track(range(STEPS[name]), description=f"start-{name}"):
        loss, _ = loss_of(network, collate(demonstrations(task, rng, 256)))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    network.value_head.weight.data.zero_()
    path = out / f"start-{name}.safetensors"
    save_network(network, path)
    save_network(network, path, gold_of(name, path, seed))


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


def main(
    what: tyro.conf.Positional[Literal["start", "reward", "card"]],
    task: tuple[str, ...] = tuple(IDS),
    kind: tuple[str, ...] = tuple(PAIRS),
    seed: int = 0,
    out: Path = PRETRAINED,
) -> None:
    """Make the shipped weights from the base network.

    Args:
        what: starting policies, preference models, or the model card.
        task: tasks.
        kind: kinds of preference models.
        seed: of everything random.
        out: folder of the weights.
    """
    if what == "card":
        write_card(seed, out)
        return
    for name in task:
        if what == "start":
            make_start(name, seed, out)
        for one in kind if what == "reward" else ():
            make_reward(one, name, seed, out)


if __name__ == "__main__":
    tyro.cli(main)
