"""Over-optimisation in full: the runs, and docs/overoptimisation.md with its figures.

    python -m experiments.overoptimisation run              # what is lacking, two runs at a time
    python -m experiments.overoptimisation run --seeds 3    # fewer seeds to begin with
    python -m experiments.overoptimisation page             # the page from docs/overoptimisation.jsonl

Runs land in runs/overoptimise; their rows go into docs/overoptimisation.jsonl, and are not repeated when the folder is
gone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agents import files
from agents.comparing import results
from agents.comparing.results import Row
from agents.overoptimisation.config import OveroptimiseConfig
from agents.overoptimisation.report import report
from agents.overoptimisation.reward_models import BEST
from agents.overoptimisation.study import Overoptimisation
from experiments.feedback_page import replace

ROOT = Path(__file__).parent.parent
FOLDER, DATA = ROOT / "runs" / "overoptimise", ROOT / "docs" / "overoptimisation.jsonl"
PAGE, FIGURES = ROOT / "docs" / "overoptimisation.md", ROOT / "docs" / "img"
FILES = ("best_of_n.jsonl", "results.jsonl")
SEEDS = 5
KEPT = ("total_tokens", "num_envs", "kl_coef", "learning_rate")  # of a run's settings; the rest is in its words


def run(seeds: int, jobs: int) -> None:
    """Make what is missing; rows that were kept are put back first."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = results.read(DATA)
    for name, rows in zip(FILES, (_best(kept), [row for row in kept if row["algorithm"] != BEST]), strict=True):
        known = {results.key(row): row for row in (*rows, *results.read(FOLDER / name))}
        files.write_lines(FOLDER / name, sorted(known.values(), key=results.key))
    config = OveroptimiseConfig(seeds=seeds, jobs=jobs, mark_versions=True, out=str(FOLDER))
    Overoptimisation(config).train()
    collect()


def collect() -> list[Row]:
    """All rows, those of the folder in place of older ones; written to docs/overoptimisation.jsonl."""
    fresh = [row for name in FILES for row in results.read(FOLDER / name)]
    known = {(row["algorithm"] == BEST, *results.key(row)): row for row in (*results.read(DATA), *map(slim, fresh))}
    rows = [known[key] for key in sorted(known)]
    if fresh:
        files.write_lines(DATA, rows)
    return rows


def slim(row: Row) -> Row:
    """A row without what is of no use beyond its folder, paths above all."""
    if "config" not in row:
        return row
    return {**row, "config": {name: row["config"][name] for name in KEPT if name in row["config"]}}


def _best(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["algorithm"] == BEST]


def page() -> None:
    """Write docs/overoptimisation.md between its marks, and its figures."""
    replace(PAGE, "overoptimisation", report(collect(), FIGURES, "img/").splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    if args.what == "run":
        run(args.seeds, args.jobs)
    else:
        page()


if __name__ == "__main__":
    main()
