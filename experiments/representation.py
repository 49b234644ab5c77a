"""Encoders pretrained in several ways, as the frozen stand of preference models: docs/representation.md.

    python -m experiments.representation run                  # everything that is missing, then the page
    python -m experiments.representation run --only separate-concat-infonce random-separate-concat --seeds 1 --no-ppo
    python -m experiments.representation run --device cuda --jobs 8  # pretraining on a card, the rest on the CPU
    python -m experiments.representation names                # the names of the rows
    python -m experiments.representation page                 # table and figure from docs/representation.json

A row is a strategy, a fusion and a loss ("both" is InfoNCE with reconstruction), or an encoder left as it was drawn
("random"). Each is pretrained, probed, and used frozen under a Bradley-Terry head that learns from a synthetic
annotator's choices; then PPO trains the start of the captioning task against that head. Runs land in
runs/representation, each part of a run in a file of its own, and are not repeated. One thread a process.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from rich.console import Console
from torch import Tensor

from agents import files
from agents.algorithms.ppo import PPOConfig
from agents.comparing import tables
from agents.training.trainer import Trainer
from experiments.pages import DOCS, IDS, RUNS, read_data, save, write_data, write_section
from experiments.runs import in_processes
from mmenv.data.sample import Response, Sample, distinct_contexts
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.models.representation import command
from mmenv.models.representation.config import AlignConfig
from mmenv.models.representation.fusion import Tokens
from mmenv.models.representation.network import Representation, load_representation, save_representation
from mmenv.models.representation.probes import linear_probe, retrieval
from mmenv.models.representation.set_head import SetHead
from mmenv.rewards.preference.losses import bradley_terry
from mmenv.rewards.preference.training import Pairs
from mmenv.tasks.captioning import Captioning
from scripts.preference_weights import sample_pairs

FOLDER, DATA = RUNS / "representation", "representation"
LABELS, HELD_OUT = (500, 2000), 1000
ANNOTATOR = SyntheticAnnotator(0.05, flip=0.05)
GOLD, PPO_TOKENS, EPISODES = 0.8, 60_000, 256
LOSSES = ("infonce", "sigmoid", "reconstruction", "both")
COLOURS = dict(zip((*LOSSES, "random"), ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#777777"), strict=True))


def rows() -> dict[str, dict[str, Any]]:
    """Name of each row -> what it changes in ``AlignConfig``."""
    named: dict[str, dict[str, Any]] = {}
    for strategy, fusion in itertools.product(("separate", "shared"), ("concat", "gated", "cross")):
        for loss in LOSSES:
            chosen = {"loss": "infonce", "reconstruction_weight": 0.3} if loss == "both" else {"loss": loss}
            named[f"{strategy}-{fusion}-{loss}"] = {"strategy": strategy, "fusion": fusion, **chosen}
        named[f"random-{strategy}-{fusion}"] = {"strategy": strategy, "fusion": fusion}
    return named


def config_of(name: str, seed: int, steps: int) -> AlignConfig:
    return AlignConfig(**rows()[name], steps=steps, seed=seed)


def encoder(name: str, seed: int, steps: int, folder: Path, console: Console, device: str) -> Representation:
    """The row's representation, pretrained if it is not there, with ``metrics.json`` beside it."""
    config = config_of(name, seed, steps)
    if not (folder / "metrics.json").is_file():
        if name.startswith("random"):
            model = Representation(config).eval()
            save_representation(model, folder)
            found = retrieval(model) | {f"probe/{k}": v for k, v in linear_probe(model).items()}
            files.write_json(folder / "metrics.json", {"config": dataclasses.asdict(config), "found": found})
        else:
            command.run(config, folder, console, device)
    model = load_representation(folder)
    if model.config != config:
        raise ValueError(f"{folder} was made with {model.config}, not {config}: remove it to make it again")
    return model


def pairs_of(split: str, n: int, seed: int) -> Pairs:
    """Two responses of ``start`` to each of ``n`` scenes, kept in runs/representation."""
    path, task = FOLDER / f"pairs-{split}-{n}-{seed}.json", Captioning()
    if not path.is_file():
        drawn = sample_pairs("captioning", split, n, seed)
        kept = [
            {"index": s.index, "texts": [r.text for r in two], "stops": [r.stop for r in two], "gold": g.tolist()}
            for s, two, g in zip(drawn.samples, drawn.responses, drawn.gold)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"pairs": kept})
    kept = json.loads(path.read_text(encoding="utf-8"))["pairs"]
    responses = [tuple(Response(t, (), stop) for t, stop in zip(k["texts"], k["stops"])) for k in kept]
    samples = [task.sample(split, k["index"]) for k in kept]
    return Pairs(samples, responses, np.array([k["gold"] for k in kept]))  # type: ignore[arg-type]


class Judge:
    """A frozen representation and a head on it; callable as a reward function.

    Args:
        model: stays as it is.
        seed: of the head's first weights.
    """

    name = "preference"

    def __init__(self, model: Representation, seed: int) -> None:
        self.model = model.eval().requires_grad_(False)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = SetHead(model.config.width + 1)
        self.offset, self.spread = 0.0, 1.0

    @torch.no_grad()
    def features(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Tokens:
        """Of image and response, each image read once: (n, S, width + 1)."""
        firsts, contexts = distinct_contexts(samples)
        images = torch.from_numpy(np.stack([np.asarray(samples[i].image) for i in firsts]))
        states, mask = self.model.encode("image", images)
        of = torch.from_numpy(contexts)
        text = self.model.encode("text", [r.text for r in responses])
        return self.model.features({"image": Tokens(states[of], mask[of]), "text": text})

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        chunks = [slice(i, i + 256) for i in range(0, len(samples), 256)]
        scores = torch.cat([self.head(self.features(samples[c], responses[c])) for c in chunks])
        return ((scores - self.offset) / self.spread).numpy()


def all_features(judge: Judge, pairs: Pairs, chunk: int = 256) -> Tokens:
    """Features of 2n responses, padded to the longest."""
    samples, responses = pairs.flat()
    parts = [judge.features(samples[i : i + chunk], responses[i : i + chunk]) for i in range(0, len(samples), chunk)]
    longest = max(p.mask.shape[1] for p in parts)

    def widened(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), longest - x.shape[1], *x.shape[2:])], 1)

    return Tokens(torch.cat([widened(p.states) for p in parts]), torch.cat([widened(p.mask) for p in parts]))


def fit(judge: Judge, features: Tokens, choice: Tensor, seed: int, steps: int = 600, batch: int = 128) -> None:
    """Bradley-Terry on the annotator's choices; then scores of mean 0 and deviation 1.

    Args:
        judge: whose head learns.
        features: (2n, S, size), pair i at 2i and 2i + 1.
        choice: int64 (n,), which of the two is preferred.
        seed: of the order of the pairs.
        steps: the same for any number of labels.
        batch: pairs of a step.
    """
    rng = np.random.default_rng(seed)
    judge.head.standardise(features)
    optimiser = torch.optim.AdamW(judge.head.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        some = torch.from_numpy(rng.integers(len(choice), size=min(batch, len(choice))))
        both = torch.stack([2 * some, 2 * some + 1], 1).flatten()
        scores = judge.head(Tokens(features.states[both], features.mask[both])).view(-1, 2)
        loss = bradley_terry(scores.gather(1, choice[some, None]) - scores.gather(1, 1 - choice[some, None])).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        scores = judge.head(features)
    judge.offset, judge.spread = scores.mean().item(), max(scores.std().item(), 1e-6)


def agreement(judge: Judge, features: Tokens, pairs: Pairs) -> float:
    """Share of the pairs that gold tells apart which the head orders as gold does."""
    with torch.no_grad():
        scores = judge.head(features).view(-1, 2).numpy()
    same = (scores[:, 1] > scores[:, 0]) == (pairs.gold[:, 1] > pairs.gold[:, 0])
    return float(same[pairs.distinct].mean())


def judged(model: Representation, seed: int) -> tuple[Judge, dict[str, float]]:
    """The head on the most labels, and the agreement for each number of them."""
    train, held_out = pairs_of("train", max(LABELS), 100 + seed), pairs_of("validation", HELD_OUT, 999)
    choice = torch.from_numpy(ANNOTATOR.prefer(list(train.responses), train.gold, np.random.default_rng(seed)))
    judge = Judge(model, seed)
    known, new = all_features(judge, train), all_features(judge, held_out)
    found = {}
    for n in LABELS:
        judge = Judge(model, seed)
        fit(judge, Tokens(known.states[: 2 * n], known.mask[: 2 * n]), choice[:n], seed)
        found[str(n)] = agreement(judge, new, held_out)
    return judge, found


def tokens_to_gold(judge: Judge, seed: int, folder: Path, console: Console) -> dict[str, Any]:
    """PPO from the start against the head; where gold on the validation split first reaches ``GOLD``, if it does."""
    config = PPOConfig(
        env_id=IDS["captioning"], seed=seed, total_tokens=PPO_TOKENS, eval_every=2, eval_episodes=EPISODES,
        eval_split="validation", threads=1, overwrite=True,
    )  # fmt: skip
    summary = Trainer("ppo", config, folder, console=console, reward=judge).train()
    if summary is None:
        raise KeyboardInterrupt
    told = files.read_lines(folder / "metrics.jsonl")
    curve = [(row["tokens"], row["validation_gold"]) for row in told if "validation_gold" in row]
    reached = next((tokens for tokens, gold in curve if gold >= GOLD), None)
    return {"reached": reached, "curve": curve, "gold": summary["gold"]}


def judge_row(name: str, steps: int, device: str, seed: int) -> None:
    """One row and seed: the encoder and the agreement of heads on it, whatever of them is missing."""
    torch.set_num_threads(1)
    folder = folder_of(name, steps, seed)
    model = encoder(name, seed, steps, folder, Console(quiet=True), device)
    if not (folder / "agreement.json").is_file():
        files.write_json(folder / "agreement.json", judged(model, seed)[1])


def train_row(name: str, steps: int, device: str, seed: int) -> None:
    """One row and seed: PPO against a head on its encoder, if it is missing."""
    torch.set_num_threads(1)
    folder = folder_of(name, steps, seed)
    if not (folder / "ppo.json").is_file():
        model = encoder(name, seed, steps, folder, Console(quiet=True), device)
        judge = judged(model, seed)[0]
        files.write_json(folder / "ppo.json", tokens_to_gold(judge, seed, folder / "ppo", Console(quiet=True)))


def folder_of(name: str, steps: int, seed: int) -> Path:
    """Where the parts of a row and seed lie."""
    return FOLDER / f"{name}-{steps}-{seed}"


def run(
    only: tuple[str, ...] = tuple(rows()),
    seeds: int = 3,
    steps: int = AlignConfig.steps,
    device: str = "cpu",
    jobs: int = 1,
    ppo: bool = True,
) -> None:
    """Run what is missing of every row and seed, then write the page.

    Args:
        only: names of rows.
        seeds: of each row.
        steps: of each pretraining.
        device: where encoders are pretrained: cpu, cuda.
        jobs: runs at a time.
        ppo: whether PPO is trained against the heads.
    """
    for seed in range(seeds):  # drawn once, not by each process
        pairs_of("train", max(LABELS), 100 + seed)
    pairs_of("validation", HELD_OUT, 999)
    wanted = [(name, seed) for seed in range(seeds) for name in only]
    for part in (judge_row, train_row) if ppo else (judge_row,):
        in_processes(functools.partial(_starred, part, steps, device), wanted, jobs)
    page(steps)


def _starred(part: Any, steps: int, device: str, row: tuple[str, int]) -> None:
    part(row[0], steps, device, row[1])


def names() -> None:
    """Print the names of the rows."""
    print("\n".join(rows()))


def collected(steps: int) -> dict[str, dict[str, Any]]:
    """All finished parts by row and seed: stored ones, and those of folders."""
    data = read_data(DATA)
    for name in rows():
        for folder in FOLDER.glob(f"{name}-{steps}-*"):
            paths = {part: folder / f"{part}.json" for part in ("metrics", "agreement", "ppo")}
            parts = {part: files.read_json(path) for part, path in paths.items() if path.is_file()}
            if "metrics" in parts:
                metrics = parts.pop("metrics")
                one = {"found": metrics["found"], "seconds": metrics.get("seconds", 0.0)}
                one["device"] = metrics.get("device", "cpu")
                data.setdefault(name, {})[folder.name.rpartition("-")[2]] = {**one, **parts}
    return data


def spread(values: Sequence[float]) -> str:
    """Mean, and the deviation over seeds where there are several."""
    if not values:
        return ""
    told = f"{np.mean(values):.2f}"
    return told + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def tokens_text(runs: Sequence[dict[str, Any]]) -> str:
    """Tokens to gold, or how far gold came."""
    if not runs:
        return ""
    reached = [row["reached"] for row in runs if row["reached"] is not None]
    if len(reached) == len(runs):
        return f"{np.mean(reached):,.0f} ({len(reached)} of {len(runs)} runs)"
    best = np.mean([max(gold for _, gold in row["curve"]) for row in runs])
    return f"reached by {len(reached)} of {len(runs)}; best gold {best:.2f}"


def table(data: dict[str, dict[str, Any]]) -> str:
    """The rows that have been run, and the names of the others."""
    header = ["encoder", "seeds", "text to image R@1", "R@5", "image to text R@1", "R@5", "cells", "concepts"]
    header += [f"agreement, {n} labels" for n in LABELS] + [f"tokens to gold {GOLD}"]
    keys = [f"captions/{way}@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5)]
    keys += ["probe/cells", "probe/concepts"]
    lines = []
    for name in (name for name in rows() if name in data):
        seeds = list(data[name].values())
        probes = [[s["found"][key] for s in seeds if key in s["found"]] for key in keys]
        agreements = [[s["agreement"][str(n)] for s in seeds if "agreement" in s] for n in LABELS]
        cells = [spread(values) for values in (*probes, *agreements)]
        cells.append(tokens_text([s["ppo"] for s in seeds if "ppo" in s]))
        lines.append([name.replace("-", " "), str(len(seeds)), *cells])
    text = tables.table(header, lines)
    if missing := [name.replace("-", " ") for name in rows() if name not in data]:
        text += f"\n\nNot run here, and left to the command: {', '.join(missing)}."
    return text


def loss_of(name: str) -> str:
    """The loss of a row, ``random`` where nothing was learned."""
    return "random" if name.startswith("random") else name.rpartition("-")[2]


def draw(data: dict[str, dict[str, Any]]) -> None:
    """Agreement by encoder at each number of labels, and gold over tokens where PPO ran; a colour for each loss."""
    judged = [name for name in rows() if name in data and any("agreement" in s for s in data[name].values())]
    names = sorted(judged, key=lambda name: list(COLOURS).index(loss_of(name)), reverse=True)
    chart, at = plt.subplot_mosaic(
        [["left", "right"], ["left", "."]], figsize=(11.5, max(4.5, 0.27 * len(names) + 1.2)), width_ratios=(1, 1.15),
        height_ratios=(3, 1), layout="constrained",
    )  # fmt: skip
    left, right = at["left"], at["right"]
    for y, name in enumerate(names):
        colour, seeds = COLOURS[loss_of(name)], data[name].values()
        for n, shift, face in ((LABELS[0], -0.17, "none"), (LABELS[1], 0.17, colour)):
            values = [s["agreement"][str(n)] for s in seeds if "agreement" in s]
            left.plot(values, [y + shift] * len(values), "o", color=colour, mfc=face, ms=4)
            left.plot(np.mean(values), y + shift, "|", color=colour, ms=9, mew=2)
        for curve in (s["ppo"]["curve"] for s in seeds if "ppo" in s):
            right.plot([t / 1000 for t, _ in curve], [g for _, g in curve], color=colour, lw=1, alpha=0.8)
    for n, face in zip(LABELS, ("none", "black"), strict=True):
        left.plot([], [], "o", color="black", mfc=face, ms=4, label=f"{n:,} labels")
    left.set(yticks=range(len(names)), xlabel="agreement with gold on held-out pairs", xlim=(0.45, 1))
    left.set_ylim(-0.6, len(names) - 0.4)  # room for a row's dots and marks, above and below
    left.set_yticklabels([name.replace("-", ", ") for name in names], fontsize=8)
    left.legend(frameon=False, loc="lower right")
    for loss, colour in COLOURS.items():
        right.plot([], [], color=colour, label="left as it was drawn" if loss == "random" else loss)
    right.axhline(GOLD, color="black", lw=0.7, ls=":")
    right.set(xlabel="thousand tokens of PPO", ylabel="gold (validation)", ylim=(0, 1))
    right.legend(frameon=False, fontsize=8, loc="lower left")
    save(chart, "representation", dpi=130)


def page(steps: int = AlignConfig.steps) -> None:
    """Write the table of docs/representation.md between its marks, its figure, and docs/representation.json."""
    data = collected(steps)
    write_data(DATA, data)
    draw(data)
    picture = "![Agreement by encoder, and gold over tokens](img/representation.png)"
    write_section(DOCS / "representation.md", "representation", f"\n{table(data)}\n\n{picture}\n")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "names": names, "page": page}, description=__doc__)
