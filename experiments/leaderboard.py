"""The leaderboard: all algorithms on the plain ids and some on the Hard ids, and docs/leaderboard.md.

    python -m experiments.leaderboard run                               # what docs/leaderboard.jsonl lacks
    python -m experiments.leaderboard run --envs mmenv/VQA-v0 --jobs 1
    python -m experiments.leaderboard page                              # the page from docs/leaderboard.jsonl

Runs land in runs/leaderboard; their rows go into docs/leaderboard.jsonl as they end, and are not repeated.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import tyro
from rich.console import Console

from agents import files
from agents.comparing import results, tables
from agents.comparing.config import CompareConfig
from agents.comparing.study import Comparison, header
from experiments.pages import DOCS, IDS, RUNS, read_data, write_section

FOLDER, DATA, PAGE = RUNS / "leaderboard", DOCS / "leaderboard.jsonl", DOCS / "leaderboard.md"
TRL = DOCS / "leaderboard-trl.jsonl"
TRL_LABEL = "TRL's GRPOTrainer at its defaults"
TRL_TEXT = """TRL does not take observations, so it has no row above. `examples/trl_grpo.py` trains the same network
from the same start on the same reward. Budget, batch size, beta and learning rate are those of `grpo` here. All other
settings are TRL 1.16's defaults: `loss_type="dapo"` (the mean over all tokens, which is DAPO's normalisation and not
GRPO's) and `use_bias_correction_kl=True` (k3 times the ratio). So the two rows are not the same algorithm. With
`--results` the example writes a line for `docs/leaderboard-trl.jsonl`."""
TOKENS, SEEDS = 10_000, 5
PLAIN = tuple(IDS.values())
HARD = tuple(env_id.replace("-v0", "Hard-v0") for env_id in PLAIN)
ALL = (
    "sft", "ppo", "rloo", "reinforce", "a2c", "grpo", "grpo-token-mean=grpo", "nlpo", "online-dpo", "offline-dpo",
    "expert-iteration", "distillation", "best-of-n", "sb3-ppo", "sb3-a2c", "sb3-maskable-ppo", "sb3-recurrent-ppo",
)  # fmt: skip
LABELS = [name.partition("=")[0] for name in ALL]
SOME = ("ppo", "rloo", "grpo", "online-dpo")
# It is neither DAPO, which keeps the division by the group's standard deviation and has no KL, nor Dr. GRPO.
SETTINGS = tuple(f"grpo-token-mean/{s}" for s in ("normalisation=dapo", "scale=none", "clip-high=0.28"))
UNTRAINED = ("start, sampled", "start, greedy", "start, best of 16")  # of docs/baselines.md
NOT_LEARNERS = ("sft", "best-of-n")


def grid_of(env_id: str, algorithm: str, jobs: int) -> Comparison:
    """The part of the leaderboard of one algorithm on one id."""
    label = algorithm.partition("=")[0]
    return Comparison(
        CompareConfig(
            algorithms=(algorithm,),
            envs=(env_id,),
            seeds=SEEDS,
            total_tokens=TOKENS,
            settings=tuple(setting for setting in SETTINGS if setting.partition("/")[0] == label),
            shifted=env_id in PLAIN,
            jobs=jobs,
            out=str(FOLDER),
            mark_versions=True,
        )
    )


def run(envs: tuple[str, ...] = (*PLAIN, *HARD), algorithms: tuple[str, ...] = (), jobs: int = 2) -> None:
    """Run what is missing, id by id and algorithm by algorithm; no algorithms means all. Rows are in one file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if DATA.is_file():
        shutil.copy(DATA, FOLDER / "results.jsonl")
    for env_id in envs:
        for name in ALL if env_id in PLAIN else SOME:
            if algorithms and name.partition("=")[0] not in algorithms:
                continue
            comparison = grid_of(env_id, name, jobs)
            results.complete(comparison.cells(), FOLDER / "results.jsonl", comparison.config, Console())
            files.write_lines(DATA, results.read(FOLDER / "results.jsonl"))


def page() -> None:
    """Write docs/leaderboard.md between its marks from docs/leaderboard.jsonl."""
    rows = [row for row in results.read(DATA) if not row["label"].endswith(".trial")]
    rows.sort(key=lambda row: LABELS.index(row["label"]) if row["label"] in LABELS else len(LABELS))
    plain = [row for row in rows if row["env_id"] in PLAIN]
    hard = [row for row in rows if row["env_id"] in HARD]
    parts = [header(plain, "gold"), "## What differs beside the algorithm", differences(plain)]
    parts += ["## Gold", by_id(plain, "gold"), "## The start, untrained", untrained(plain)]
    parts += ["## Reward that was trained against", by_id(plain, "reward")]
    parts += ["## KL to the start", "KL in nats per response.", by_id(plain, "kl")]
    for env_id in sorted({env_id for row in plain for env_id in row["also"]}):
        found = results.scores([row for row in plain if env_id in row["also"]], "gold", env_id)
        parts += [f"## The same policies on `{env_id}`", tables.by_environment(found, "gold")]
    if TRL.is_file():
        parts += ["## TRL's GRPOTrainer", TRL_TEXT, trl(plain)]
    if hard:
        parts += ["## Hard ids", by_id(hard, "gold")]
    write_section(PAGE, "leaderboard", "\n\n".join(parts))


def by_id(rows: list[results.Row], score: str) -> str:
    """Mean and interval of every row on every id; a dagger marks rows of other versions."""
    marks = results.marks(rows)
    return tables.by_environment({k + marks.get(k, ""): v for k, v in results.scores(rows, score).items()}, score)


def differences(rows: list[results.Row]) -> str:
    """Batch, steps, step size, updates within the budget, and gold before training, of every row."""
    lines = []
    for label in dict.fromkeys(row["label"] for row in rows):
        of_label = [row for row in rows if row["label"] == label]
        config = of_label[0]["config"]
        if label == "best-of-n":  # it has no optimiser
            lines.append([label, str(config["num_envs"]), "-", "-", "-", *["-"] * len(PLAIN), *before(of_label)])
            continue
        steps = f"{config['epochs']} x {config['minibatches']}"
        updates = []
        for env_id in PLAIN:
            counts = [len(row["curve"]["tokens"]) for row in of_label if row["env_id"] == env_id]
            updates.append(f"{sum(counts) / len(counts):.0f}" if counts else "not run")
        kl = f"{config['kl_coef']:g}" if config.get("kl_coef") is not None else "-"
        lines.append([label, str(config["num_envs"]), steps, f"{config['learning_rate']:g}", kl, *updates])
        lines[-1] += before(of_label)
    names = [env_id.removeprefix("mmenv/") for env_id in PLAIN]
    head = ["row", "lanes", "epochs x minibatches", "learning rate", "beta"]
    return tables.table([*head, *(f"updates, {n}" for n in names), *(f"gold before, {n}" for n in names)], lines)


def before(rows: list[results.Row]) -> list[str]:
    """Gold before training on every plain id, the mean over seeds."""
    golds_by_id = [[row["gold"]["before"] for row in rows if row["env_id"] == env_id] for env_id in PLAIN]
    return [f"{sum(golds) / len(golds):.3f}" if golds else "not run" for golds in golds_by_id]


def untrained(rows: list[results.Row]) -> str:
    """Gold of the start without training, however it is decoded, and how many rows end above its greedy gold."""
    stored = {env_id: read_data("baselines")[task]["plain"] for task, env_id in IDS.items()}
    table = [[name, *(f"{stored[env_id][name]['gold']:.3f} {_bounds(stored[env_id][name])}" for env_id in PLAIN)]
             for name in UNTRAINED]  # fmt: skip
    lines = [tables.table(["policy", *PLAIN], table), ""]
    for env_id in PLAIN:
        ends: dict[str, list[float]] = {}
        for row in rows:
            if row["env_id"] == env_id and row["label"] not in NOT_LEARNERS:
                ends.setdefault(row["label"], []).append(row["gold"]["after"])
        greedy = stored[env_id]["start, greedy"]["gold"]
        above = sum(sum(golds) / len(golds) > greedy for golds in ends.values())
        lines.append(
            f"- `{env_id}`: {above} of the {len(ends)} algorithms that train on the reward end with a gold above "
            f"{greedy:.3f}, the gold of the greedy start. Their responses are sampled."
        )
    return "\n".join(lines)


def _bounds(row: Mapping[str, Any]) -> str:
    return "[{:.3f}, {:.3f}]".format(*row["interval"])


def trl(rows: list[results.Row]) -> str:
    """Gold of examples/trl_grpo.py beside that of PPO and GRPO here."""
    lines = files.read_lines(TRL)
    ids = {row["env_id"] for row in lines}
    scores = results.scores([row for row in rows if row["label"] in ("ppo", "grpo")], "gold")
    shown = {label: {cell: v for cell, v in cells.items() if cell[0] in ids} for label, cells in scores.items()}
    shown[TRL_LABEL] = {(row["env_id"], row["seed"]): row["gold"][1] for row in lines}
    return tables.by_environment(shown, "gold")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "page": page}, description=__doc__)
