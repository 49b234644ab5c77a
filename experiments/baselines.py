"""Gold of policies that do not learn: what every result of these pages stands between.

    python -m experiments.baselines run                       # what is missing, then the page: about half an hour
    python -m experiments.baselines run --tasks vqa --episodes 128
    python -m experiments.baselines page                      # tables and figure from docs/baselines.json

*Random* draws tokens. *Blind* does not see the picture: it gives the answer that was right most often in the training
split for the longest beginning of the question that was common there, or one caption for all pictures. *Start* is the
shipped policy, *best of 16* takes the best of its answers by the strong preference model, *oracle* is the same network
with unlimited demonstrations, and the *answer key* is the reference.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.progress import track

import mmenv
from agents.comparing import tables
from agents.policies.chooser import Chooser
from agents.training import figures
from agents.training.loading import load_policy
from experiments.pages import DOCS, IDS, ROOT, figure, read_data, write_data, write_section
from mmenv.data.sample import Response, Sample
from mmenv.registration import default_task
from mmenv.statistics import cluster_bootstrap
from mmenv.tasks.base import Task

PAGE = DOCS / "baselines.md"
ORACLE = ROOT / "experiments" / "oracle" / "oracle.safetensors"
# Where a policy is measured -> arguments of the environment.
CONDITIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shift 0.25": {"shift": 0.25},
    "shift 0.5": {"shift": 0.5},
    "shift 1": {"shift": 1.0},
    "comp": {"split": "comp"},
    "hard": {"level": "hard"},
}
SCRIPTED = ("random", "blind", "answer key")
POLICIES = (
    "random", "blind", "start, sampled", "start, greedy", "start, best of 16", "oracle, sampled", "oracle, greedy",
    "answer key",
)  # fmt: skip
LEARNED_FROM = 20_000  # samples of the training split that the blind policy saw
SEEN = 10  # times that it saw the beginning of a question by which it answers
CAPTIONS = 200  # captions that it chooses among, and scenes that it tries them on

Reply = Callable[[Sample], str]


class Blind:
    """Answers a question by its text alone.

    Args:
        task: whose training split is learned from.
        samples: how many.
    """

    def __init__(self, task: Task, samples: int = LEARNED_FROM) -> None:
        self.counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for index in track(range(samples), description=f"blind on {task.name}"):
            sample: Sample | None = task.sample("train", index)
            while sample is not None:
                words = self._words(sample)
                for length in range(len(words) + 1):
                    self.counts[words[:length]][sample.references[0]] += 1
                sample = task.follow_up(sample, Response(sample.references[0]))

    @staticmethod
    def _words(sample: Sample) -> tuple[str, ...]:
        return tuple((sample.said or sample.prompt).split())

    def __call__(self, sample: Sample) -> str:
        """The most frequent answer to the longest beginning of the question that was seen often enough."""
        words = self._words(sample)
        enough = (n for n in range(len(words), 0, -1) if self.counts[words[:n]].total() >= SEEN)
        known = next(enough, 0)
        return self.counts[words[:known]].most_common(1)[0][0]


def best_caption(task: Task) -> Reply:
    """One caption for every picture: that of the training split with the highest mean gold on other scenes of it."""
    captions = [task.sample("train", index).references[0] for index in range(CAPTIONS)]
    scenes = [task.sample("train", index) for index in range(CAPTIONS, 2 * CAPTIONS)]
    means = [np.mean([task.gold(scene, Response(text)) for scene in scenes]) for text in captions]
    best = captions[int(np.argmax(means))]
    return lambda sample: best


def random_words(task: Task) -> Reply:
    """Tokens drawn uniformly until one of them ends the response."""
    rng, tokenizer = np.random.default_rng(0), task.tokenizer

    def reply(sample: Sample) -> str:
        tokens = rng.integers(1, tokenizer.vocab_size, task.max_response_tokens).tolist()
        ends = [i for i, token in enumerate(tokens) if token in tokenizer.eos_ids]
        return tokenizer.decode(tokens[: ends[0]] if ends else tokens)

    return reply


def scripted(name: str, task: Task) -> Reply:
    """A policy of ``SCRIPTED``."""
    if name == "answer key":
        return lambda sample: sample.references[0]
    if name == "random":
        return random_words(task)
    return best_caption(task) if task.name == "captioning" else Blind(task)


def play(task: Task, split: str, episodes: int, reply: Reply) -> dict[str, Any]:
    """Gold of scripted replies to the first episodes of a split, by family too."""
    golds, clusters, families = [], [], []
    for index in range(episodes):
        sample: Sample | None = task.sample(split, index)
        while sample is not None:
            response = Response(reply(sample))
            golds.append(float(task.gold(sample, response) or 0.0))
            clusters.append(index)
            families.append(sample.family)
            sample = task.follow_up(sample, response)
    gold = np.array(golds)
    means = {name: float(gold[np.array(families) == name].mean()) for name in sorted(set(families))}
    return entry(float(gold.mean()), cluster_bootstrap(gold, np.array(clusters), 0), means)


def entry(gold: float, interval: tuple[float, float], families: dict[str, float]) -> dict[str, Any]:
    """What docs/baselines.json holds of a policy somewhere."""
    return {
        "gold": round(gold, 4),
        "interval": [round(float(end), 4) for end in interval],
        "families": {name: round(value, 4) for name, value in families.items()},
    }


def policy(name: str, env_id: str, arguments: dict[str, Any]) -> Any:
    """``act`` of a network's policy, which draws from a generator of seed 0."""
    who, _, how = name.partition(", ")
    given = {k: v for k, v in arguments.items() if k != "split"}
    env: Any = gym.make_vec(env_id, num_envs=1, **given).unwrapped  # its reward is what best of 16 goes by
    network = load_policy("start" if who == "start" else ORACLE, env, greedy=how == "greedy")
    return Chooser(network, env, 16, torch.Generator().manual_seed(0)).act if how == "best of 16" else network.act


def measure(name: str, env_id: str, condition: str, episodes: int, blind: Reply) -> dict[str, Any]:
    """The entry of a policy on an id under a condition."""
    arguments = dict(CONDITIONS[condition])
    if name in SCRIPTED:
        split = arguments.pop("split", "test")
        task: Task = type(default_task(env_id))(**arguments)
        return play(task, split, episodes, blind if name == "blind" else scripted(name, task))
    rewarded = {} if name.endswith("best of 16") else {"reward": "gold"}
    result = mmenv.evaluate(policy(name, env_id, arguments), env_id, episodes=episodes, **rewarded, **arguments)
    return entry(result.gold, result.gold_interval, result.families)


def run(
    tasks: tuple[str, ...] = tuple(IDS),
    conditions: tuple[str, ...] = tuple(CONDITIONS),
    policies: tuple[str, ...] = POLICIES,
    episodes: int = 512,
    again: bool = False,
) -> None:
    """Measure what docs/baselines.json lacks, and write the page.

    Args:
        tasks: of ``IDS``.
        conditions: of ``CONDITIONS``.
        policies: of ``POLICIES``; best of 16 is measured on the plain ids alone.
        episodes: of each measurement.
        again: measure what is there, too.
    """
    torch.set_num_threads(1)
    for task in tasks:
        blind = scripted("blind", default_task(IDS[task])) if "blind" in policies else None
        for condition in conditions:
            for name in policies:
                data = read_data("baselines")
                rows = data.setdefault(task, {}).setdefault(condition, {})
                only_plain = name.endswith("best of 16") and condition != "plain"
                if only_plain or (name in rows and not again):
                    continue
                rows[name] = measure(name, IDS[task], condition, episodes, blind or (lambda sample: ""))
                print(task, condition, name, rows[name]["gold"], rows[name]["interval"], flush=True)
                write_data("baselines", data)
    page()


def page() -> None:
    """Write tables and figure from docs/baselines.json."""
    data = read_data("baselines")
    write_section(PAGE, "policies", policy_table(data))
    picture = "![Gold of oracle, start and blind policy over the shift, a panel for each task](img/baselines.png)"
    write_section(PAGE, "conditions", f"{condition_table(data)}\n\n{picture}")
    write_section(PAGE, "families", family_table(data))
    draw(data)


def policy_table(data: dict[str, Any]) -> str:
    """Gold with its interval of every policy on the plain ids."""
    lines = [
        [name, *(_cell(data.get(task, {}).get("plain", {}).get(name)) for task in IDS)]
        for name in POLICIES
        if any(name in data.get(task, {}).get("plain", {}) for task in IDS)
    ]
    return tables.table(["policy", *(f"`{env_id}`" for env_id in IDS.values())], lines)


def condition_table(data: dict[str, Any]) -> str:
    """Greedy gold of start and oracle, and gold of the blind policy, under every condition."""
    header = [f"{task}: {who}" for task in IDS for who in ("blind", "start", "oracle")]
    names = ("blind", "start, greedy", "oracle, greedy")
    lines = []
    for condition in CONDITIONS:
        rows = [data.get(task, {}).get(condition, {}) for task in IDS]
        lines.append([condition, *(f"{r[n]['gold']:.3f}" if n in r else "-" for r in rows for n in names)])
    return tables.table(["", *header], lines)


def family_table(data: dict[str, Any]) -> str:
    """Gold by family of questions on the plain ids of questions and dialogues."""
    names = ("blind", "start, greedy", "oracle, greedy")
    tasks = ("vqa", "dialogue")
    rows = [data.get(task, {}).get("plain", {}).get(name, {}).get("families", {}) for task in tasks for name in names]
    every = sorted({family for row in rows for family in row})
    lines = [[family, *(f"{row[family]:.2f}" if family in row else "-" for row in rows)] for family in every]
    return tables.table(["family", *(f"{task}: {name}" for task in tasks for name in names)], lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    low, high = row["interval"]
    return f"{row['gold']:.3f} [{low:.3f}, {high:.3f}]"


def draw(data: dict[str, Any]) -> None:
    """Greedy gold of start and oracle over the shift, a panel a task."""
    shifts = {"plain": 0.0, "shift 0.25": 0.25, "shift 0.5": 0.5, "shift 1": 1.0}
    colours = {"oracle, greedy": figures.GOLD, "start, greedy": figures.REWARD, "blind": figures.GREY}
    with figure("baselines", 1, 3, (11, 3.4), sharey=True) as (chart, axes):
        for axis, task in zip(axes[0], IDS, strict=True):
            for name, colour in colours.items():
                rows = {x: data.get(task, {}).get(c, {}).get(name) for c, x in shifts.items()}
                known = {x: row for x, row in rows.items() if row is not None}
                axis.plot(list(known), [row["gold"] for row in known.values()], color=colour, marker="o", label=name)
                low, high = ([row["interval"][end] for row in known.values()] for end in (0, 1))
                axis.fill_between(list(known), low, high, color=colour, alpha=0.15, linewidth=0)
            axis.set_title(IDS[task].removeprefix("mmenv/"), loc="left")
            axis.set_xlabel("shift")
            axis.set_ylim(0, 1.02)
        axes[0, 0].set_ylabel("gold")
        axes[0, 0].legend(frameon=False, fontsize=8)
        chart.suptitle("How gold falls with the shift of the test split")


if __name__ == "__main__":
    commands: dict[str, Callable[..., Any]] = {"run": run, "page": page}
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
