"""Over-optimisation in full: the runs, and docs/overoptimisation.md with its figures.

    python -m experiments.overoptimisation run              # what is lacking, two runs at a time
    python -m experiments.overoptimisation run --seeds 3    # fewer seeds to begin with
    python -m experiments.overoptimisation page             # the page from docs/overoptimisation.jsonl

Runs land in runs/overoptimise; their rows go into docs/overoptimisation.jsonl, and are not repeated when the folder is
gone.
"""

from __future__ import annotations

import tyro

from agents import files
from agents.comparing import results
from agents.comparing.results import Row
from agents.overoptimisation.config import OveroptimiseConfig
from agents.overoptimisation.report import report
from agents.overoptimisation.reward_models import BEST
from agents.overoptimisation.study import Overoptimisation
from experiments.pages import DOCS, RUNS, write_section

FOLDER, DATA = RUNS / "overoptimise", DOCS / "overoptimisation.jsonl"
PAGE, FIGURES = DOCS / "overoptimisation.md", DOCS / "img"
FILES = ("best_of_n.jsonl", "results.jsonl")
STORED = ("total_tokens", "num_envs", "kl_coef", "learning_rate")  # of a run's config; overrides have the rest


def run(seeds: int = 5, jobs: int = 2) -> None:
    """Make what is missing; stored rows are put back first."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    stored = results.read(DATA)
    best = [row for row in stored if row["algorithm"] == BEST]
    trained = [row for row in stored if row["algorithm"] != BEST]
    for name, rows in zip(FILES, (best, trained), strict=True):
        by_key = {results.key(row): row for row in (*rows, *results.read(FOLDER / name))}
        files.write_lines(FOLDER / name, sorted(by_key.values(), key=results.key))
    Overoptimisation(OveroptimiseConfig(seeds=seeds, jobs=jobs, mark_versions=True, out=str(FOLDER))).run()
    page()


def page() -> None:
    """Write docs/overoptimisation.md between its marks, and its figures."""
    write_section(PAGE, "overoptimisation", report(collect(), FIGURES, "img/").rstrip("\n"))


def collect() -> list[Row]:
    """All rows, those of the folder in place of older ones; written to docs/overoptimisation.jsonl."""
    fresh = [row for name in FILES for row in results.read(FOLDER / name)]
    by_key = {(row["algorithm"] == BEST, *results.key(row)): row for row in (*results.read(DATA), *map(slim, fresh))}
    rows = [by_key[key] for key in sorted(by_key)]
    if fresh:
        files.write_lines(DATA, rows)
    return rows


def slim(row: Row) -> Row:
    """A row without what is of no use beyond its folder, paths above all."""
    if "config" not in row:
        return row
    return {**row, "config": {name: row["config"][name] for name in STORED if name in row["config"]}}


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "page": page}, description=__doc__)
