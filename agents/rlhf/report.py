"""What a loop of RLHF reports: how well its reward models agree with held-out labels, a table, a summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from agents.rlhf.config import RLHFConfig
from agents.rollouts import pairs
from agents.training import cautions, run_folder
from mmenv.data.sample import Sample
from mmenv.feedback.comparison import Comparison
from mmenv.rewards.preference.calibration import UndecidedError, evaluate
from mmenv.rewards.preference.ensemble import EnsembleReward


def agreement(model: EnsembleReward, judged: Sequence[Comparison], samples: Sequence[Sample]) -> float | None:
    """Share of held-out choices between two that the model makes too; None where there are none."""
    rows = [i for i, c in enumerate(judged) if c.choice in (0, 1) and len(c.responses) == 2]
    if not rows:
        return None
    responses = [r for i in rows for r in judged[i].as_responses()]
    scores = model([samples[i] for i in rows for _ in range(2)], responses).reshape(-1, 2)
    return float(np.mean([scores[k].argmax() == judged[i].choice for k, i in enumerate(rows)]))


def disagreement(
    model: EnsembleReward, sampled: Sequence[tuple[pairs.JudgedResponse, pairs.JudgedResponse]]
) -> np.ndarray:
    """Standard deviation over members of the difference between the scores of each pair, (n,)."""
    scores = model.each(*pairs.as_pairs(sampled).flat())  # (members, 2 n)
    return (scores[:, 0::2] - scores[:, 1::2]).std(0)


def accuracy_metadata(model: EnsembleReward, judged: Sequence[Comparison], samples: Sequence[Sample]) -> dict[str, str]:
    """The metadata that ``train-reward`` writes too: accuracy on held-out comparisons with its interval."""
    if not judged:
        return {}
    try:
        accuracy = evaluate(model, judged, samples).accuracy
    except UndecidedError:
        return {}
    report = {"accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n}
    return {cautions.REPORT: json.dumps(report)}


def table(rows: list[dict[str, Any]], env_id: str) -> Table:
    """A line for each round."""
    result = Table(title=Text(f"rounds of RLHF on {env_id}, test split"))
    for column in ("round", "labels", "held-out agreement", "gold before", "gold after", "reward", "KL (nats)"):
        result.add_column(column, justify="right")
    for r in rows:
        gold = ["-" if g is None else f"{g:.3f}" for g in (r["gold"]["before"], r["gold"]["after"])]
        agreed = "-" if r["agreement"] is None else f"{r['agreement']:.3f}"
        result.add_row(
            str(r["round"]), f"{r['labels']:,}", agreed, *gold, f"{r['reward']['after']:+.2f}", f"{r['kl']:.2f}"
        )
    return result


def summarise(config: RLHFConfig, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of the loop's ``summary.json``."""
    first, last = rows[0], rows[-1]
    return {
        "env_id": config.env_id,
        "algorithm": "rlhf",
        "seed": config.seed,
        "rounds": len(rows),
        "labels": last["labels"],
        "tokens": sum(r["tokens"] for r in rows),
        "gold": {"before": first["gold"]["before"], "after": last["gold"]["after"]},
        "split": "test",
        "versions": run_folder.versions(),
        "commit": run_folder.commit(),
    }
