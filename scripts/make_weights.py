"""Make the shipped starting policies and preference models from the base network, seeded.

    python scripts/make_weights.py start            # start-vqa, start-captioning, start-dialogue
    python scripts/make_weights.py reward           # strong-* and weak-*: prints their agreement with gold
    python scripts/make_weights.py start --task vqa

A start is the base network after a short supervised training on demonstrations of mixed quality
(mmenv/feedback/demonstrations.py). A preference model is a head on the frozen base, trained on a synthetic annotator's
choices between two responses sampled from the start: the strong one sees 20,000 pairs (in dialogue 8,000), the weak one
a few hundred, a quarter of them turned round.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent.parent))

import mmenv
from agents.policy import TokenPolicy
from agents.rollout import rollout
from mmenv.data.sample import Response
from mmenv.data.world import generator
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.demonstrations import demonstrate
from mmenv.models.checkpoints import PRETRAINED, load_pretrained, save_network
from mmenv.models.transformer import Network
from mmenv.rewards.preference_model import PreferenceModel
from mmenv.rewards.training import Pairs, agreement, train_preference_model
from mmenv.tasks.base import Task
from scripts.make_base import collate, loss_of

IDS = {"vqa": "mmenv/VQA-v0", "captioning": "mmenv/Captioning-v0", "dialogue": "mmenv/SpokenDialogue-v0"}
PAIRS = {"vqa": 20_000, "captioning": 20_000, "dialogue": 8_000}
WEAK_PAIRS = {"vqa": 300, "captioning": 600, "dialogue": 600}
STEPS = {"vqa": 300, "captioning": 250, "dialogue": 250}


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
    save_network(network, out / f"start-{name}.safetensors")
    report(f"start-{name}", name, network, seed)


def report(label: str, name: str, network: Network, seed: int) -> None:
    """Print gold on the validation split, sampled and greedy."""
    task_budget = int(gym.make_vec(IDS[name], num_envs=1, reward="gold").unwrapped.task.max_response_tokens)  # type: ignore[attr-defined]
    for kind, temperature in (("sampled", 1.0), ("greedy", 0.02)):
        policy = TokenPolicy(network, task_budget, temperature, generator=torch.Generator().manual_seed(seed))
        print(
            label, kind, mmenv.evaluate(policy.act, IDS[name], "validation", episodes=1024, reward="gold"), flush=True
        )


def sample_pairs(name: str, split: str, n: int, seed: int) -> Pairs:
    """Two responses of the start to each of n contexts; in a dialogue the first reply."""
    env = gym.make_vec(
        IDS[name], num_envs=256, split=split, reward="gold", autoreset_mode="Disabled", copy=False
    ).unwrapped
    policy = TokenPolicy(
        load_pretrained(f"start-{name}"),
        env.task.max_response_tokens,
        generator=torch.Generator().manual_seed(seed),  # type: ignore[attr-defined]
    )
    rng = np.random.default_rng(seed)
    samples, responses, golds = [], [], []
    for _ in track(range(-(-n // 128)), description=f"pairs {name} {split}"):
        if len(samples) >= n:
            break  # a dialogue gives more than one pair
        index = rng.integers(env.task.size(split), size=128)  # type: ignore[attr-defined]
        batch = rollout(policy, env, {"sample_index": np.repeat(index, 2)})  # type: ignore[arg-type]
        # In a dialogue two replies can be compared only where both heard the same words: at every first turn.
        replies = [
            Response(text, tuple(row[: int(m.sum())].tolist()), stop)
            for text, row, m, stop in zip(batch.texts, batch.tokens, batch.mask, batch.stops)
        ]
        by_sample: dict[tuple[str, str, str], list[int]] = {}
        for i, sample in enumerate(batch.samples):
            by_sample.setdefault((sample.id, sample.prompt, str(sample.references)), []).append(i)
        for rows in by_sample.values():
            for i, j in zip(rows[::2], rows[1::2]):
                samples.append(batch.samples[i])
                responses.append((replies[i], replies[j]))
                golds.append((batch.gold[i], batch.gold[j]))
    return Pairs(samples[:n], responses[:n], np.array(golds[:n]))


def make_rewards(name: str, seed: int, out: Path) -> None:
    """The strong and the weak preference model of a task."""
    held_out = sample_pairs(name, "validation", 3000, seed + 1)
    pairs = sample_pairs(name, "train", PAIRS[name], seed)
    n = WEAK_PAIRS[name]
    few = Pairs(pairs.samples[:n], pairs.responses[:n], pairs.gold[:n])
    strong = PreferenceModel(load_pretrained("base"), "token")
    train_preference_model(strong, pairs, SyntheticAnnotator(0.05, flip=0.05), epochs=15, lr=2e-3, seed=seed)
    weak = PreferenceModel(strong.backbone, "token")
    train_preference_model(weak, few, SyntheticAnnotator(0.1, flip=0.25), epochs=10, seed=seed)
    for kind, model in (("strong", strong), ("weak", weak)):
        right, ties = agreement(model, held_out)
        print(
            f"{kind}-{name}: agreement {right:.4f} on {int(held_out.distinct.sum())} held-out pairs, ties {ties:.2f}",
            flush=True,
        )
        model.save(out / f"{kind}-{name}.safetensors", {"agreement": f"{right:.4f}", "ties": f"{ties:.2f}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "reward"))
    parser.add_argument("--task", choices=tuple(IDS), nargs="*", default=tuple(IDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=PRETRAINED)
    args = parser.parse_args()
    for name in args.task:
        (make_start if args.what == "start" else make_rewards)(name, args.seed, args.out)


if __name__ == "__main__":
    main()
