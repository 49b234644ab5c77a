"""Under which conditions the rows of a comparison ran, and what differs between them beside the algorithm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agents.algorithms.registry import SB3
from agents.comparing import tables
from agents.comparing.results import Row

# Settings that a fair comparison holds equal, and how a table names them.
EQUAL = {
    "num_envs": "lanes",
    "responses_per_context": "responses per context",
    "temperature": "temperature",
    "top_p": "top-p",
    "total_tokens": "tokens",
    "reward": "reward",
    "eval_episodes": "episodes of an evaluation",
}


def table(rows: Sequence[Row]) -> str:
    """Batch, steps, step size and updates of every label on every id, in Markdown.

    Args:
        rows: of results that are done.
    """
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["label"], row["env_id"]), []).append(row)
    lines = [[label, env_id.removeprefix("mmenv/"), *_settings(of_cell)] for (label, env_id), of_cell in cells.items()]
    head = ["row", "environment", "lanes", "responses per context", "epochs x minibatches", "learning rate", "beta"]
    return tables.table([*head, "updates", "gold before, sampled", "gold before, greedy"], lines)


def _settings(rows: Sequence[Row]) -> list[str]:
    config = rows[0]["config"]
    learns = "learning_rate" in config
    steps = f"{config['epochs']} x {config['minibatches']}" if learns else "-"
    updates = sum(row["updates"] for row in rows) / len(rows)
    return [
        str(config["num_envs"]),
        str(config.get("responses_per_context", 1)),
        steps,
        _number(config.get("learning_rate")),
        _number(config.get("kl_coef")),
        f"{updates:.0f}" if learns else "-",
        _before([row["gold"] for row in rows]),
        _before([row["greedy"]["gold"] for row in rows]),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _before(scores: Sequence[Mapping[str, Any]]) -> str:
    """The score before training, which is one number where all begin alike."""
    different = {score["before"] for score in scores}
    if None in different:
        return "-"
    return " to ".join(dict.fromkeys(f"{score:.3f}" for score in (min(different), max(different))))


def differences(rows: Sequence[Row]) -> list[str]:
    """Sentences about conditions in which a row differs from most, beside its algorithm and its tuned settings."""
    lines = []
    for name, text in EQUAL.items():
        values = {row["label"]: row["config"].get(name) for row in rows}
        if len(set(values.values())) > 1:
            usual, _ = Counter(values.values()).most_common(1)[0]
            others = ", ".join(f"`{label}` has {value}" for label, value in values.items() if value != usual)
            lines.append(f"{text.capitalize()}: {usual} for all but these: {others}.")
    lines += _unequal_starts(rows)
    if sb3 := list(dict.fromkeys(row["label"] for row in rows if row["algorithm"] in SB3)):
        names = ", ".join(f"`{label}`" for label in sb3)
        lines.append(
            f"Contexts: each lane of {names} draws its own, with one response to each, as stable-baselines3's "
            "environments restart by themselves. All other rows see the same contexts in the same order at a seed."
        )
    return lines


def _unequal_starts(rows: Sequence[Row]) -> list[str]:
    """A sentence for each id on which rows do not begin with the same gold."""
    lines = []
    for env_id in dict.fromkeys(row["env_id"] for row in rows):
        before = {row["label"]: (row["gold"]["before"], row["greedy"]["gold"]["before"])
                  for row in rows if row["env_id"] == env_id}  # fmt: skip
        if len(set(before.values())) > 1:
            usual, _ = Counter(before.values()).most_common(1)[0]
            others = ", ".join(f"`{label}`" for label, score in before.items() if score != usual)
            lines.append(f"Gold before training on {env_id} is another one for {others}: do not compare these rows.")
    return lines
