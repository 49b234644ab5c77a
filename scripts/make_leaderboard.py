"""The leaderboard: all algorithms on the plain ids and some on the Hard ids, and docs/leaderboard.md with its figures.

    python -m scripts.make_leaderboard run                               # what docs/leaderboard.jsonl lacks
    python -m scripts.make_leaderboard run --envs mmenv/VQA-v0 --jobs 1
    python -m scripts.make_leaderboard page                              # the page from docs/leaderboard.jsonl

Runs land in runs/leaderboard; their rows go into docs/leaderboard.jsonl as they end, and are not repeated.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rich.console import Console

from agents import comparison_tables as tables
from agents import results, runs
from agents.compare import Comparison, report
from agents.config import CompareConfig
from agents.statistics import mean_interval
from scripts.feedback_page import replace

ROOT = Path(__file__).parent.parent
FOLDER, DATA = ROOT / "runs" / "leaderboard", ROOT / "docs" / "leaderboard.jsonl"
TRL = ROOT / "docs" / "leaderboard-trl.jsonl"
TRL_TEXT = """TRL does not take observations, so it is no row above: `examples/trl_grpo.py` trains the same network from
the same start, on the same reward, with as many tokens, in batches of as many responses, with the beta and the learning
rate that GRPO has here. With `--results` it writes a line for `docs/leaderboard-trl.jsonl`."""
PAGE, FIGURES = ROOT / "docs" / "leaderboard.md", ROOT / "docs" / "img" / "leaderboard"
TOKENS, SEEDS = 10_000, 5
PLAIN = ("mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogue-v0")
HARD = ("mmenv/VQAHard-v0", "mmenv/CaptioningHard-v0", "mmenv/SpokenDialogueHard-v0")
ALL = (
    "sft", "ppo", "rloo", "reinforce", "a2c", "grpo", "dapo=grpo", "nlpo", "online-dpo", "offline-dpo",
    "expert-iteration", "distillation", "best-of-n", "sb3-ppo", "sb3-a2c", "sb3-maskable-ppo", "sb3-recurrent-ppo",
)  # fmt: skip
LABELS = [name.partition("=")[0] for name in ALL]
SOME = ("ppo", "rloo", "grpo", "online-dpo")
SETTINGS = ("dapo/normalisation=dapo", "dapo/scale=none", "dapo/clip-high=0.28")


def grid_of(env_id: str, algorithms: tuple[str, ...], jobs: int) -> Comparison:
    """The part of the leaderboard on one id."""
    labels = {name.partition("=")[0] for name in algorithms}
    settings = tuple(s for s in SETTINGS if s.partition("/")[0] in labels)
    plain = env_id in PLAIN
    return Comparison(
        CompareConfig(
            algorithms=algorithms, envs=(env_id,), seeds=SEEDS, total_tokens=TOKENS, settings=settings, shifted=plain,
            jobs=jobs, out=str(FOLDER), mark_versions=True,
        )
    )  # fmt: skip


def run(envs: list[str], algorithms: list[str], jobs: int) -> None:
    """Run what is missing, id by id and algorithm by algorithm; rows of all are in one file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if DATA.is_file():
        shutil.copy(DATA, FOLDER / "results.jsonl")
    for env_id in envs:
        for name in ALL if env_id in PLAIN else SOME:
            if algorithms and name.partition("=")[0] not in algorithms:
                continue
            comparison = grid_of(env_id, (name,), jobs)
            results.complete(comparison.cells(), FOLDER / "results.jsonl", comparison.config, Console())
            runs.write_lines(DATA, results.read(FOLDER / "results.jsonl"))


def page() -> None:
    """Write docs/leaderboard.md between its marks, and its figures, from docs/leaderboard.jsonl."""
    rows = [row for row in results.read(DATA) if not row["label"].endswith(".trial")]
    rows.sort(key=lambda row: LABELS.index(row["label"]) if row["label"] in LABELS else len(LABELS))
    plain = [row for row in rows if row["env_id"] in PLAIN]
    hard = [row for row in rows if row["env_id"] in HARD]
    done = {(row["label"], row["env_id"]) for row in plain if row["status"] == "done"}
    # What is compared over environments: those on which all have run.
    ids = [env_id for env_id in PLAIN if all((label, env_id) in done for label, _ in done)]
    text = report(plain, FIGURES, "sft", ids, "img/leaderboard/")
    parts = [text, "## Above the floor", floor(plain)]
    if TRL.is_file():
        parts += ["## TRL's GRPO", TRL_TEXT, trl(plain)]
    if hard:
        parts += ["## Hard ids", tables.by_environment(results.scores(hard, "gold"))]
    replace(PAGE, "leaderboard", "\n\n".join(parts).splitlines())


def trl(rows: list[results.Row]) -> str:
    """Gold of examples/trl_grpo.py beside that of the algorithms here that it is compared with."""
    found = {label: cells for label, cells in results.scores(rows, "gold").items() if label in ("ppo", "grpo", "dapo")}
    lines = runs.read_lines(TRL)
    ids = {row["env_id"] for row in lines}
    shown = {label: {cell: v for cell, v in cells.items() if cell[0] in ids} for label, cells in found.items()}
    shown["TRL's GRPO"] = {(row["env_id"], row["seed"]): row["gold"][1] for row in lines}
    return tables.by_environment(shown)


def floor(rows: list[results.Row]) -> str:
    """By id, which algorithms end with an interval that lies above that of supervised fine-tuning."""
    found, lines = results.scores(rows, "gold"), []
    for env_id in PLAIN:
        seeds = {label: [score for (e, _), score in cells.items() if e == env_id] for label, cells in found.items()}
        ends = {label: mean_interval(scores) for label, scores in seeds.items() if len(scores) > 1}
        if "sft" not in ends:
            lines.append(f"- `{env_id}`: the floor has not run.")
            continue
        if len(ends) == 1:  # of none there is nothing to count
            lines.append(f"- `{env_id}`: only the floor has run.")
            continue
        others = {label: end.low > ends["sft"].high for label, end in ends.items() if label != "sft"}
        below = [label for label, above in others.items() if not above]
        lines.append(
            f"- `{env_id}`: {sum(others.values())} of {len(others)} algorithms end with an interval above that of "
            f"supervised fine-tuning" + (f"; not so {', '.join(below)}." if below else ".")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--envs", nargs="*", default=[*PLAIN, *HARD], help="ids to run")
    parser.add_argument("--algorithms", nargs="*", default=[], help="labels to run; none runs all")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    if args.what == "run":
        run(args.envs, args.algorithms, args.jobs)
    else:
        page()


if __name__ == "__main__":
    main()
