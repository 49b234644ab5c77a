"""The leaderboard: every algorithm under equal conditions, tuned and with one setting for all.

    python -m experiments.leaderboard estimate       # short runs; how long tuning and both tables will take
    python -m experiments.leaderboard tune           # experiments/tuned, a file for each id
    python -m experiments.leaderboard run            # what docs/leaderboard.jsonl and leaderboard-fixed.jsonl lack
    python -m experiments.leaderboard page           # docs/leaderboard.md from them
    python -m experiments.leaderboard aa             # two copies of PPO: how often are they said to differ?
    python -m experiments.leaderboard release        # the checkpoint of one seed a row, as files of a release

Every command goes on where it was stopped. Runs land in runs/leaderboard; their rows go into docs/ as they end.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import tyro
from rich.console import Console

from agents import files, progress
from agents.algorithms.registry import ALGORITHMS
from agents.comparing import claims, pilot, results, tables, tuning
from agents.comparing.config import CompareConfig
from agents.comparing.grid import Cell
from agents.comparing.pilot import Pilot
from agents.comparing.study import Comparison, labelled
from agents.settings.bounds import offered
from agents.settings.tuned import write_tuned
from agents.training import launch
from agents.training.launch import config_class
from experiments import leaderboard_files, leaderboard_page
from experiments.leaderboard_page import DATA, HEADLINE, Table
from experiments.pages import IDS, RUNS

FOLDER = RUNS / "leaderboard"
PLAIN = (*IDS.values(), "mmenv/Guess-v0")
# Tokens of a run: enough for 60 updates of 64 lanes, which a short run of every row measures before anything begins.
TOKENS = {
    "mmenv/VQA-v0": 20_000,
    "mmenv/Captioning-v0": 150_000,
    "mmenv/SpokenDialogue-v0": 60_000,
    "mmenv/Guess-v0": 150_000,
}
UPDATES, TRIALS = 60, 8
SEEDS, HEADLINE_SEEDS = 5, 10
EPISODES = 512  # of each evaluation
TARGET = 16 * 3600  # seconds that the contest may take on two cores
SB3 = ("sb3-ppo", "sb3-a2c")
# TRL's trainer with GRPO's published loss and the steps that grpo has here; and as it is by default: DAPO's mean,
# no KL, one step on each batch.
TRL = {
    "trl-grpo": {"loss-type": "grpo", "epochs": "2", "minibatches": "2"},
    "trl-default": {"loss-type": "dapo", "kl-coef": "0", "epochs": "1", "minibatches": "1"},
}
ROWS = (*ALGORITHMS, *SB3, *(f"{label}=trl-grpo" for label in TRL))
ONE_TURN = ("mmenv/VQA-v0", "mmenv/Captioning-v0")  # what TRL's trainer plays
LANES, GROUP = 64, 4
# What all rows share where their algorithm offers it; the table of one setting for all fixes more.
SHARED = {"num-envs": str(LANES), "responses-per-context": str(GROUP)}
FIXED = {"learning-rate": "3e-4", "kl-coef": "0.05"}


def settings_of(name: str, table: Table, sb3_steps: int | None = None) -> tuple[str, ...]:
    """The settings of a row that are not its algorithm's defaults.

    Args:
        name: of the row, as ``compare`` takes it.
        table: ``tuned`` leaves the rest to the tuned settings, ``fixed`` has one setting for all.
        sb3_steps: steps of an update of stable-baselines3's rows, so that theirs are as large as PPO's.
    """
    label, algorithm = labelled(name)
    names = {field.replace("_", "-") for field in offered(config_class(algorithm))}
    chosen = {**SHARED, **(FIXED if table == "fixed" else {}), **TRL.get(label, {})}
    if algorithm in SB3 and sb3_steps is not None:
        chosen["n-steps"] = str(sb3_steps)
    return tuple(f"{label}/{setting}={value}" for setting, value in chosen.items() if setting in names)


def grid_of(
    env_id: str, names: Sequence[str], table: Table, jobs: int, seeds: int = SEEDS, steps: int | None = None
) -> Comparison:
    """The part of a table with some rows on one id."""
    config = CompareConfig(
        algorithms=tuple(names),
        envs=(env_id,),
        seeds=seeds,
        total_tokens=TOKENS[env_id],
        eval_episodes=EPISODES,
        settings=tuple(setting for name in names for setting in settings_of(name, table, steps)),
        also=("hard", "shifted", "comp"),
        tuned=table == "tuned",
        jobs=jobs,
        out=str(FOLDER / table),
    )
    return Comparison(config, Console())


def chosen_rows(env_id: str, algorithms: Sequence[str] = ()) -> tuple[str, ...]:
    """The rows of some labels on an id; none takes all. One that is not a row here is an algorithm of your own."""
    by_label = {labelled(name)[0]: name for name in ROWS}
    names = tuple(by_label.get(label, label) for label in algorithms) or ROWS
    return tuple(name for name in names if labelled(name)[0] not in TRL or env_id in ONE_TURN)


def measured(env_id: str, names: Sequence[str], jobs: int) -> tuple[list[Pilot], int]:
    """Short runs of rows on an id, and the steps of an update of stable-baselines3's rows.

    PPO runs first: an update of stable-baselines3 has as many tokens as its first one.
    """
    path = FOLDER / "pilots.jsonl"
    console = Console()

    def short(some: Sequence[str], steps: int | None = None) -> list[Pilot]:
        grid = grid_of(env_id, some, "fixed", jobs, steps=steps)
        return pilot.measure(grid.firsts, path, grid.config, console)

    (ppo,) = short(("ppo",))
    steps = max(1, round(ppo.first_update / LANES))
    pilots = short(names, steps)
    return pilots, steps


def estimate(
    envs: tuple[str, ...] = PLAIN, algorithms: tuple[str, ...] = (), jobs: int = 2
) -> dict[str, tuple[list[Pilot], int]]:
    """Measure a short run of each row on each id; print how long tuning and both tables will take.

    Raises:
        ValueError: a budget gives a row fewer than 60 updates; the message names the row.
    """
    console = Console()
    by_id = {env_id: measured(env_id, chosen_rows(env_id, algorithms), jobs) for env_id in envs}
    pilots = [p for of_id, _ in by_id.values() for p in of_id]
    tables.show(console, pilot.table(pilots))
    duration = sum(seconds for _, seconds in costs(pilots, jobs))
    for what, seconds in costs(pilots, jobs):
        progress.say(console, f"{what}: about {pilot.hours(seconds)} with {jobs} at a time")
    over = f"more than the {pilot.hours(TARGET)} of its target" if duration > TARGET else "within its target"
    progress.say(console, f"all together: about {pilot.hours(duration)}, {over}")
    pilot.check_updates(pilots, UPDATES)
    return by_id


def costs(pilots: Sequence[Pilot], jobs: int) -> Iterator[tuple[str, float]]:
    """Seconds of tuning and of each table, from nothing."""
    headline = [p for p in pilots if p.label in HEADLINE]
    searched = [p for p in pilots if p.updates is not None]
    more = pilot.total_seconds(headline, HEADLINE_SEEDS - SEEDS, jobs)
    table = pilot.total_seconds(pilots, SEEDS, jobs)
    yield f"tuning, {TRIALS} trials of {len(searched)} rows", pilot.total_seconds(searched, TRIALS, jobs)
    yield f"table of tuned settings, {SEEDS} seeds, {HEADLINE_SEEDS} of the headline", table + more
    yield f"table of one setting for all, {SEEDS} seeds", table


def tune(envs: tuple[str, ...] = PLAIN, algorithms: tuple[str, ...] = (), jobs: int = 2) -> None:
    """Print what tuning will take, then search and write experiments/tuned, a file for each id."""
    by_id = estimate(envs, algorithms, jobs)
    console = Console()
    for env_id, (_, steps) in by_id.items():
        cells = searched(env_id, chosen_rows(env_id, algorithms), jobs, steps)
        config = CompareConfig(tune=TRIALS, jobs=jobs)
        searches = tuning.searches(cells, config, FOLDER / "tuning.jsonl", console)
        path = write_tuned(env_id, {search.cell.label: search.record() for search in searches})
        progress.say(console, f"wrote {path}")


def searched(env_id: str, names: Sequence[str], jobs: int, steps: int) -> list[Cell]:
    """A cell of each row on an id for tuning: without what only the table of one setting for all fixes."""
    cells = grid_of(env_id, names, "fixed", jobs, steps=steps).firsts
    free = {name.replace("-", "_") for name in FIXED}
    searched_cells = []
    for cell in cells:
        fixed = {name.replace("-", "_") for name in TRL.get(cell.label, {})}
        overrides = {k: v for k, v in cell.overrides.items() if k not in free or k in fixed}
        searched_cells.append(cell._replace(overrides=overrides))
    return searched_cells


def run(
    envs: tuple[str, ...] = PLAIN,
    algorithms: tuple[str, ...] = (),
    table: Literal["tuned", "fixed", "both"] = "both",
    jobs: int = 2,
) -> None:
    """Print what is to come, then run what a table lacks, id by id; no algorithms means all.

    Raises:
        ValueError: a budget gives a row fewer than 60 updates, or a row has no tuned settings; nothing has run then.
    """
    by_id = estimate(envs, algorithms, jobs)
    wanted: tuple[Table, ...] = ("tuned", "fixed") if table == "both" else (table,)
    grids = [
        grid
        for one in wanted
        for env_id in envs
        for grid in parts(env_id, chosen_rows(env_id, algorithms), one, jobs, by_id[env_id][1])
    ]
    for grid in grids:  # all were made first: a mistake in one costs no run of another
        complete(grid)


def parts(env_id: str, names: Sequence[str], table: Table, jobs: int, steps: int) -> Iterator[Comparison]:
    """The headline's rows with their seeds, and the others."""
    first = [name for name in names if labelled(name)[0] in HEADLINE]
    rest = [name for name in names if name not in first]
    if first:
        yield grid_of(env_id, first, table, jobs, HEADLINE_SEEDS if table == "tuned" else SEEDS, steps)
    if rest:
        yield grid_of(env_id, rest, table, jobs, SEEDS, steps)


def complete(grid: Comparison) -> None:
    """Run what a part of a table lacks; rows that docs/ has are not run again."""
    table: Table = "tuned" if grid.config.tuned else "fixed"
    path = grid.folder / "results.jsonl"
    grid.folder.mkdir(parents=True, exist_ok=True)
    if DATA[table].is_file() and not path.is_file():
        shutil.copy(DATA[table], path)
    results.complete(grid.cells(), path, grid.config, grid.console)
    files.write_lines(DATA[table], results.read(path))


def aa(label: str = "ppo", table: Table = "tuned", grids: int = 200) -> float:
    """Two copies of one row, with different seeds of its runs: print how often they are said to differ.

    Raises:
        ValueError: the table has no such row.
    """
    rows = [row for row in results.read(DATA[table]) if row["label"] == label]
    if not rows:
        raise ValueError(f"{DATA[table]} has no row {label}: python -m experiments.leaderboard run makes it")
    scores = results.scores(rows, "greedy gold")[label]
    runs = Counter(env_id for env_id, _ in scores)
    seeds = min(runs.values()) // 2
    share = claims.false_claims(scores, grids, seeds)
    text = f"two copies of {label} with {seeds} seeds each are said to differ in {share:.1%} of {grids} grids"
    progress.say(Console(), f"{text}; at most 5% may be")
    return share


def release(table: Table = "tuned", seed: int = 0) -> None:
    """Copy the policy of one seed of every row to runs/release, with a list of files and their SHA-256."""
    path = leaderboard_files.collect(results.read(DATA[table]), FOLDER / table / "runs", RUNS / "release" / table, seed)
    progress.say(Console(), f"wrote {path}")


def main() -> bool:
    """Run a command; True when it is done."""
    commands: dict[str, Any] = {
        "estimate": estimate, "tune": tune, "run": run, "page": leaderboard_page.write, "aa": aa, "release": release,
    }  # fmt: skip
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
    return True


if __name__ == "__main__":
    sys.exit(launch.exit_code(main))
