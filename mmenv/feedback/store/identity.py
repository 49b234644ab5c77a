"""When two comparisons are the same to judge: digests of their content, media included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmenv.data.media import path_inside
from mmenv.feedback.comparison import Comparison, media_paths, with_media

# What a judgement adds to the provenance of its item; ``reward_scores`` are a run's own and differ between machines.
OF_JUDGEMENT = ("seconds", "order", "repeat")
REWARD_SCORES = "reward_scores"


def undecided(comparison: Comparison) -> Comparison:
    """A comparison without what anybody said of it; scores of a run's reward function move to its provenance."""
    provenance = {k: v for k, v in comparison.provenance.items() if k not in OF_JUDGEMENT}
    if comparison.scores is not None and comparison.annotator is None and comparison.choice is None:
        provenance[REWARD_SCORES] = list(comparison.scores)
    return replace(
        comparison, choice=None, scores=None, ranking=None, annotator=None, created="", provenance=provenance
    )


def identity(comparison: Comparison) -> str:
    """The same string for judgements of the same item."""
    return digest_of(undecided(comparison))


def digests_of(comparisons: Sequence[Comparison], root: Path | None) -> list[str]:
    """SHA-256 of undecided comparisons, the same wherever their media lie; each file is read once.

    Raises:
        DatasetError: a media path leaves ``root``, or its file is missing.
    """
    files: dict[str, str] = {}

    def digest(comparison: Comparison, name: str, path: str) -> str:
        if root is not None and path not in files:
            files[path] = _file_digest(path_inside(root, comparison.sample_id, name, path))
        return files[path]

    found = []
    for comparison in comparisons:
        if root is not None:
            digests = {name: digest(comparison, name, path) for name, path in media_paths(comparison).items()}
            comparison = with_media(comparison, digests)
        found.append(digest_of(comparison))
    return found


def digest_of(comparison: Comparison) -> str:
    """SHA-256 of an undecided comparison, in which digests stand for media."""
    provenance = {k: v for k, v in comparison.provenance.items() if k != REWARD_SCORES}
    return _digest({**comparison.to_row(), "provenance": provenance})


def judgement_key(comparison: Comparison, item_id: int, annotator: str) -> str:
    """A key for a judgement that came without one."""
    row = comparison.to_row()
    said = {k: row.get(k) for k in ("choice", "ranking", "scores", "created")}
    return "merged-" + _digest({**said, "item": item_id, "annotator": annotator})


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
