"""When two comparisons are the same item: digests of their content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmenv.feedback.comparison import Comparison

# What a judgement adds to the provenance of its item.
JUDGEMENT_KEYS = ("seconds", "order", "repeat")
REWARD_SCORES = "reward_scores"  # of a run's reward function; they differ between machines and are not digested


def undecided(comparison: Comparison) -> Comparison:
    """A comparison without its judgement; the scores of a run's reward function move to its provenance."""
    provenance = {key: value for key, value in comparison.provenance.items() if key not in JUDGEMENT_KEYS}
    if comparison.scores is not None and comparison.annotator is None and comparison.choice is None:
        provenance[REWARD_SCORES] = list(comparison.scores)
    return replace(
        comparison, choice=None, scores=None, ranking=None, annotator=None, created="", provenance=provenance
    )


def identity(comparison: Comparison) -> str:
    """The same string for all judgements of an item."""
    return content_digest(undecided(comparison))


def content_digest(comparison: Comparison) -> str:
    """SHA-256 of an undecided comparison."""
    provenance = {key: value for key, value in comparison.provenance.items() if key != REWARD_SCORES}
    return json_digest({**comparison.to_row(), "provenance": provenance})


def json_digest(value: Any) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
