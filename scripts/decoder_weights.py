"""Starts and the oracle: decoders on the shipped encoders, taught right demonstrations.

One start and one oracle serve questions, captions and dialogues; a second start goes on from the first with games.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmenv.models import ceilings
from mmenv.models.checkpoints import load_pretrained, save_network
from mmenv.models.transformer import Network
from mmenv.registration import TABLE, default_task
from scripts.gold_tables import facts_told_rightly, gold_by_family
from scripts.resumable import Schedule
from scripts.teaching import TASKS, Demonstrations, Facts, Lessons, teach

ORACLE = Path("experiments/oracle")  # outside of the package: a ceiling to report, no policy to begin with
FACTS_BATCH = 24  # pictures a step: more learn less in equal time
SINGLE = (
    "place",
    "plate",
    "mark",
    "size",
    "category",
    "what is where",
    "what is on a plate",
    "what has a mark",
    "count",
)
PAIRS = ("same color", "different color", "same size", "different size", "more or fewer")


class Stage(NamedTuple):
    """Facts that a decoder is told for some time.

    Attributes:
        odds: of the kinds of facts, see ``write_facts``.
        distinct: pictures have no concept twice, so that each thing has relations that can be told.
        schedule: of the training.
    """

    odds: dict[str, int]
    distinct: bool
    schedule: Schedule


# Facts of single things first. Relations are learned by themselves, since among all kinds they never were, and then all
# kinds, with more of those that are learned last.
FACTS = (
    Stage(dict.fromkeys(PAIRS, 0), False, Schedule(5000, 3e-3)),
    Stage(dict.fromkeys((*SINGLE, *PAIRS), 0), True, Schedule(2500, 2e-3)),
    Stage(
        {"relation": 6, "nearest": 6, "more or fewer": 2, "mark": 3, "same color": 2, "different color": 2},
        False,
        Schedule(4500, 2e-3),
    ),
)
ODDS = {"vqa": 0.42, "captioning": 0.25, "dialogue": 0.33}
# Captions need the most steps to come as far as answers.
START_ODDS = {"vqa": 0.3, "captioning": 0.42, "dialogue": 0.28}
START = Lessons({"vqa": 3500, "captioning": 3500, "dialogue": 1000}, START_ODDS, spoken_from=150)
START_SCHEDULE = Schedule(700, 1.5e-3)
GUESS_START = Lessons({"guess": 3000}, {"guess": 1.0})
GUESS_SCHEDULE = Schedule(600, 1e-3)
# The second part has more captions, which are learned last.
ORACLE_PARTS = (
    (Lessons(dict.fromkeys(TASKS, 0), ODDS, spoken_from=300), Schedule(3000, 2e-3)),
    (Lessons(dict.fromkeys(TASKS, 0), {"vqa": 0.36, "captioning": 0.36, "dialogue": 0.28}), Schedule(5000, 1.5e-3)),
)


def make_base(seed: int, out: Path, states: Path) -> None:
    """Write ``base.safetensors``: a decoder on the encoders that tells facts and was never asked anything."""
    parent = out / "encoders.safetensors"
    network = load_pretrained(parent)
    for number, stage in enumerate(FACTS):
        lessons = Facts(seed + number, FACTS_BATCH, stage.odds, stage.distinct)
        teach(network, lessons, stage.schedule, states / f"base-{number}.pt", f"base-{number}")
    pictures = FACTS_BATCH * sum(stage.schedule.steps for stage in FACTS)
    told = facts_told_rightly(network.eval())
    print("told rightly", {kind: round(share, 3) for kind, share in told.items()})
    about = {"pictures": str(pictures)} | {f"told/{kind}": f"{share:.4f}" for kind, share in told.items()}
    save_network(network, out / "base.safetensors", about, parent)


def make_start(seed: int, out: Path, states: Path) -> None:
    """Write ``start.safetensors``: what differs from ``base.safetensors``."""
    network = load_pretrained(out / "base.safetensors")
    teach(network, Demonstrations(START, seed), START_SCHEDULE, states / "start.pt", "start")
    counts = {f"demonstrations/{name}": str(count) for name, count in START.counts.items()}
    parent = out / "base.safetensors"
    save_network(network, out / "start.safetensors", counts | gold_of_tasks(network), parent)


def make_guess_start(seed: int, out: Path, states: Path) -> None:
    """Write ``start-guess.safetensors``: what differs from ``start.safetensors``."""
    network = load_pretrained(out / "start.safetensors")
    teach(network, Demonstrations(GUESS_START, seed), GUESS_SCHEDULE, states / "start-guess.pt", "start-guess")
    counts = {"demonstrations/guess": str(GUESS_START.counts["guess"])}
    save_network(
        network, out / "start-guess.safetensors", counts | gold_of_tasks(network, ("guess",)), out / "start.safetensors"
    )


def make_oracle(seed: int, states: Path, base: str | Path = "base") -> None:
    """Write the oracle's weights to ``experiments/oracle``, and its gold and the start's beside the shipped weights."""
    network = load_pretrained(base)
    for number, (lessons, schedule) in enumerate(ORACLE_PARTS):
        demonstrations = Demonstrations(lessons, seed + 1 + number)
        teach(network, demonstrations, schedule, states / f"oracle-{number}.pt", f"oracle-{number}")
    ORACLE.mkdir(parents=True, exist_ok=True)
    save_network(network, ORACLE / "oracle.safetensors", gold_of_tasks(network), base)
    write_ceilings(load_pretrained("start"), network)


def write_ceilings(start: Network, oracle: Network, n: int = 1000) -> None:
    """Write greedy gold of both on the first ``n`` test samples of every id, which ``mmenv.models.ceilings`` reads."""
    table: dict[str, dict[str, float]] = {}
    for env_id in TABLE:
        task = default_task(env_id)
        if task.name in ODDS:
            table[env_id] = {
                name: round(gold_by_family(network.eval(), task, "test", n)["all"], 4)
                for name, network in (("start", start), ("oracle", oracle))
            }
            print(env_id, table[env_id], flush=True)
    ceilings.FILE.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def gold_of_tasks(network: Network, names: Iterable[str] = ODDS, n: int = 1000) -> dict[str, str]:
    """Gold on the validation split by task and level, greedy and sampled: prints it by family, returns the means."""
    means = {}
    network.eval()
    for name in names:
        kind = TASKS[name]
        for level in ("plain", "hard"):
            task = kind(level=level)  # type: ignore[call-arg]
            for mode in ("greedy", "sampled"):
                gold = gold_by_family(network, task, n=n, greedy=mode == "greedy")
                print(name, level, mode, {family: round(score, 3) for family, score in gold.items()}, flush=True)
                means[f"gold/{name}/{level}/{mode}"] = f"{gold['all']:.4f}"
    return means
