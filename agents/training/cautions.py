"""Cautions about a run: a reward or judge learned from too few labels, or too few updates for the alarm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from agents.training.alarm import AlarmConfig

REPORT = "report"  # metadata of a preference model: accuracy on held-out comparisons, its interval low to high, their n


def of_models(reward: str | None, judge: str | None = None) -> list[str]:
    """Sentences about the reward and the judge of a run that may be no better than chance."""
    sentences = (_of_model("reward", reward), _of_model("judge", judge))
    return [sentence for sentence in sentences if sentence]


def _of_model(what: str, name: str | None) -> str | None:
    """A caution about a model; None where it has none, or is no file of weights with a report."""
    path = Path(name or "")
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        report = json.loads((file.metadata() or {}).get(REPORT, "null"))
    if report is None or report["low"] > 0.5:
        return None
    return (
        f"{what} {name}: right on {report['accuracy']:.1%} of {report['n']} held-out comparisons, interval "
        f"{report['low']:.1%} to {report['high']:.1%}: it may be no better than chance, label more first"
    )


def of_alarm(rows: Sequence[Mapping[str, Any]], config: AlarmConfig | None = None) -> str | None:
    """A sentence about a run that ended before its alarm could go off; None where it had enough updates.

    Args:
        rows: metrics of all updates.
        config: ``AlarmConfig()`` where it is None.
    """
    window, judged = (config or AlarmConfig()).window, sum("judge" in row for row in rows)
    if judged >= 2 * window:
        return None
    return (
        f"the alarm compares means over {window} updates, and the judge saw {judged}: that it did not go off "
        "says nothing, give more --total-tokens or fewer --num-envs"
    )
