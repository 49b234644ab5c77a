"""Preference models of the shipped weights, and the model card: stages ``reward`` and ``card`` of make_weights.

The start responds to a context several times, at two temperatures, and a synthetic annotator says which of the
different responses is best, or calls them tied; what is compared depends on the texts, never on gold. A model begins as
the start and is fine-tuned on these judgements: the strong models learn from thousands of them, the weak ones, a head
alone, from a few hundred, of which a quarter is turned round.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from rich.progress import Progress
from torch.nn.attention import SDPBackend, sdpa_kernel

import mmenv
from agents.overoptimisation.reward_models import Start
from agents.rollouts.pairs import annotate_groups
from agents.training.loading import load_policy
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.judgement import Kind
from mmenv.models.checkpoints import read_tensors
from mmenv.rewards.preference.calibration import correlation
from mmenv.rewards.preference.config import HeadKind, RewardConfig
from mmenv.rewards.preference.ensemble import fit_members, fresh_models
from mmenv.rewards.preference.evidence import flatten
from mmenv.rewards.preference.files import Backbone, read_backbone
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.reading import Reader, Reading, joined
from mmenv.rewards.preference.training import Pairs, agreement, raw_scores, set_scale

IDS = {"vqa": "mmenv/VQA-v0", "captioning": "mmenv/Captioning-v0", "dialogue": "mmenv/SpokenDialogue-v0"}
REPEATS = 4  # responses to a context at each temperature
HELD_OUT = 3000  # pairs of the validation split that agreement with gold is measured on
PART = 2048  # comparisons that are sampled at once; only what the network reads of them is kept
PLAIN = 1024  # responses at the start's own temperature, on which a model is normalised


class Recipe(NamedTuple):
    """What a preference model learns from and how.

    Attributes:
        labels: numbers of comparisons for the curve of agreement; the model of the last one is shipped.
        annotator: who compares.
        judgement: what the annotator says, the best response or a ranking of all.
        config: of the training.
    """

    labels: tuple[int, ...]
    annotator: SyntheticAnnotator
    judgement: Kind
    config: RewardConfig


# Both call responses tied whose golds hardly differ: a forced choice between two wrong answers is noise.
CAREFUL = SyntheticAnnotator(0.05, flip=0.05, tie_band=0.1)
CARELESS = SyntheticAnnotator(0.1, flip=0.25, tie_band=0.1)
KINDS: dict[str, Kind] = {"vqa": "choice", "captioning": "ranking", "dialogue": "choice"}
# New contexts teach more than further passes; a context of a caption or a dialogue costs several of a question.
STRONG = {"vqa": (1_000, 5_000, 24_000), "captioning": (500, 1_500, 4_500), "dialogue": (500, 1_500, 4_500)}
WEAK = {"vqa": (250, 1_000), "captioning": (50, 200), "dialogue": (125, 500)}
HEADS: dict[str, HeadKind] = {"vqa": "sum", "captioning": "mean", "dialogue": "sum"}
# The strong ones train the whole decoder: with the upper half alone they agreed with gold clearly less often. The weak
# ones are a head alone.
CONFIGS = {
    "strong": {task: RewardConfig(epochs=2, head=HEADS[task], backbone_lr=1e-3) for task in IDS},
    "weak": {task: RewardConfig(epochs=2, head=HEADS[task], trained="head") for task in IDS},
}
RECIPES = {
    "strong": {task: Recipe(STRONG[task], CAREFUL, KINDS[task], CONFIGS["strong"][task]) for task in IDS},
    "weak": {task: Recipe(WEAK[task], CARELESS, KINDS[task], CONFIGS["weak"][task]) for task in IDS},
}


CARD = """# Model card: the shipped weights

Written by `python -m scripts.make_weights card`. `make weights` made them, seed 0, from the embedded world alone. All
are float16 safetensors. Gold is that of 1,024 episodes of the validation split, sampled at temperature 1 and nearly
greedy.

| network | taught by | gold, sampled | greedy |
|---|---|---|---|
{networks}

A preference model is `start`, fine-tuned with a head on comparisons of its responses. Agreement is with gold, on
held-out pairs of the start's responses (validation split) that differ in text and whose golds differ by at least 0.1;
the others are ties. Length is the correlation of score and number of words within the ties.

| preference model | comparisons | annotator | agreement | ties | length |
|---|---|---|---|---|---|
{models}

**Meant for** the ids of this package: starting policies and rewards for comparing algorithms. **Not meant for**
photographs, human speech, or judging people's words: everything was learned from the drawings, recorded words and
synthetic annotators of this package. **Known limits:** docs/learning.md. **Licence:** MIT; of the drawings and voices
that they were trained on, `mmenv/worlds/assets/LICENSES.md`.
"""


def sample_pairs(task: str, split: str, n: int, seed: int) -> Pairs:
    """Two responses of the start to each of n contexts of a split; hotter ones in the training split alone."""
    with Progress() as progress:
        bar = progress.add_task(f"pairs {task} {split}", total=n)
        return Start(IDS[task]).sample_pairs(split, n, seed, lambda done: progress.update(bar, completed=done))


class Judged(NamedTuple):
    """Judged comparisons with what a network reads of their responses, one comparison after another."""

    comparisons: list[Comparison]
    reading: Reading

    def take(self, n: int) -> Judged:
        """The first ``n`` comparisons."""
        responses = sum(len(c.responses) for c in self.comparisons[:n])
        return Judged(self.comparisons[:n], self.reading.take(torch.arange(responses)))


def sample_comparisons(parent: Backbone, task: str, recipe: Recipe, seed: int) -> Judged:
    """As many judged comparisons as the recipe's last number of labels says."""
    start, reader, rng = Start(IDS[task]), Reader(parent.network, parent.tokenizer, task), np.random.default_rng(seed)
    n, comparisons, readings = recipe.labels[-1], list[Comparison](), []
    with Progress() as progress:
        bar = progress.add_task(f"comparisons {task}", total=n)
        while len(comparisons) < n:
            groups = start.sample_groups(min(PART, n - len(comparisons)), REPEATS, int(rng.integers(2**31)))
            comparisons += annotate_groups(groups, recipe.annotator, rng, recipe.judgement)
            flat = [response for group in groups for response in group]
            readings.append(reader.read_many([r.sample for r in flat], [r.response for r in flat]))
            progress.update(bar, completed=len(comparisons))
    return Judged(comparisons, joined(readings, parent.network.config.pad_id))


def fitted(parent: Backbone, judged: Judged, config: RewardConfig) -> PreferenceModel:
    """A model that learned from all judged comparisons."""
    n = len(judged.comparisons)
    _, _, evidence = flatten(judged.comparisons, [None] * n, config)  # type: ignore[list-item]
    models = fresh_models(parent, config)
    with Progress() as progress:
        bar = progress.add_task(f"{n:,} comparisons", total=config.epochs)

        def show(_: int, passes: float, loss: float) -> None:
            progress.update(bar, completed=passes, description=f"{n:,} comparisons, loss {loss:.3f}")

        # Twice as fast on processors with products in bfloat16; a cache would keep weights of steps before.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), sdpa_kernel(SDPBackend.MATH):
            fit_members(models, judged.reading, evidence, config, show)
    return models[0]


def normalise_on_start(model: PreferenceModel, task: str, seed: int) -> None:
    """Give the start's plain responses, at its own temperature, scores of mean 0 and deviation 1."""
    responses = Start(IDS[task]).sample_responses(PLAIN // 2, 2, seed)
    reading = model.reader.read_many([r.sample for r in responses], [r.response for r in responses])
    set_scale(model, raw_scores(model, reading))


def by_family(model: PreferenceModel, pairs: Pairs) -> dict[str, tuple[float, int]]:
    """Agreement on the pairs of each family that has distinct ones, and their number."""
    families = np.array([sample.family for sample in pairs.samples])
    found = {}
    for name in sorted({sample.family for sample in pairs.samples}):
        part = pairs.take(np.flatnonzero((families == name) & pairs.distinct))
        if len(part.gold):
            found[name] = round(agreement(model, part)[0], 2), len(part.gold)
    return found


def length_at_equal_gold(model: PreferenceModel, pairs: Pairs) -> float:
    """Correlation of score and number of words within the pairs whose golds hardly differ; 0 where nothing varies."""
    samples, responses = pairs.take(np.flatnonzero(~pairs.distinct)).flat()
    scores = model(samples, responses).reshape(-1, 2)
    words = np.array([len(response.text.split()) for response in responses]).reshape(-1, 2)
    return correlation(scores[:, 1] - scores[:, 0], words[:, 1] - words[:, 0]) or 0.0


def make_reward(kind: str, task: str, seed: int, out: Path) -> None:
    """The strong or the weak preference model of a task; prints agreement over labels, and by family.

    Args:
        kind: ``"strong"`` or ``"weak"``.
        task: of ``IDS``.
        seed: of everything random.
        out: folder of the weights.
    """
    recipe = RECIPES[kind][task]
    recipe = recipe._replace(config=dataclasses.replace(recipe.config, seed=seed))
    parent, held_out = read_backbone("start"), sample_pairs(task, "validation", HELD_OUT, seed + 1)
    judged = sample_comparisons(parent, task, recipe, seed)
    curve: dict[int, float] = {}
    for labels in recipe.labels:
        model = fitted(parent, judged.take(labels), recipe.config)
        curve[labels], ties = agreement(model, held_out)
        print(f"{kind}-{task}: {labels:,} comparisons, agreement {curve[labels]:.4f}", flush=True)
    print(f"{kind}-{task} by family", by_family(model, held_out), flush=True)
    length = length_at_equal_gold(model, held_out)
    print(f"{kind}-{task}: correlation with length at equal gold {length:.3f}", flush=True)
    normalise_on_start(model, task, seed + 2)
    judge = recipe.annotator
    card = {
        "agreement": f"{curve[recipe.labels[-1]]:.4f}", "ties": f"{ties:.2f}", "pairs": f"{recipe.labels[-1]:,}",
        "annotator": f"temperature {judge.temperature}, {judge.flip:.0%} turned round", "curve": json.dumps(curve),
        "length": f"{length:.2f}",
    }  # fmt: skip
    model.save(out / f"{kind}-{task}.safetensors", card)


def gold_of(name: str, weights: str | Path, seed: int) -> dict[str, str]:
    """Gold on 1,024 validation episodes, sampled at temperature 1 and nearly greedy."""
    env: Any = gym.make_vec(IDS[name], num_envs=1, reward="gold").unwrapped
    found = {}
    for kind, temperature in (("sampled", 1.0), ("greedy", 0.02)):
        policy = load_policy(weights, env, seed, temperature)
        result = mmenv.evaluate(policy.act, IDS[name], "validation", episodes=1024, reward="gold")
        print(name, kind, result, flush=True)
        found[kind] = f"{result.gold:.3f}"
    return found


def metadata_of(name: str, folder: Path) -> dict[str, str]:
    """What a weights file says of itself."""
    return read_tensors(folder / f"{name}.safetensors")[1]


def write_card(seed: int, folder: Path) -> None:
    """README.md beside the weights."""
    networks, models = [], []
    for task in IDS:
        gold = gold_of(task, folder / "start.safetensors", seed)
        networks.append(f"| `start` on {task} | few right demonstrations | {gold['sampled']} | {gold['greedy']} |")
    for kind in ("strong", "weak"):
        for task in IDS:
            about = metadata_of(f"{kind}-{task}", folder)
            facts = (about[fact] for fact in ("pairs", "annotator", "agreement", "ties", "length"))
            models.append(f"| `{kind}-{task}` | {' | '.join(facts)} |")
    text = CARD.format(networks="\n".join(networks), models="\n".join(models))
    (folder / "README.md").write_text(text, encoding="utf-8")
