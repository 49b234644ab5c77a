"""Tuned settings: data of this repository, a file for each id, which ``--tuned`` puts in the place of defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents import files

FOLDER = Path(__file__).parents[2] / "experiments" / "tuned"


def path_of(env_id: str, folder: Path | None = None) -> Path:
    """The file of an id: ``VQA-v0.json`` of ``mmenv/VQA-v0``."""
    return (folder or FOLDER) / f"{env_id.rpartition('/')[2]}.json"


def tuned_settings(row: str, env_id: str, folder: Path | None = None) -> dict[str, Any]:
    """The tuned settings of a row of the leaderboard on an id, by name.

    Args:
        row: label of the row: for most the name of the algorithm.
        env_id: id of the environment.
        folder: of the files; None takes that of this repository.

    Raises:
        ValueError: nothing was tuned for the row on the id; the message names the rows that were.
    """
    path = path_of(env_id, folder)
    rows = files.read_json(path)["rows"] if path.is_file() else {}
    if row not in rows:
        there = f"{path.name} has {', '.join(sorted(rows))}" if rows else f"there is no {path.name}"
        raise ValueError(
            f"no tuned settings of {row} on {env_id} ({there}): leave out --tuned, or tune it by python -m "
            f"experiments.leaderboard tune --envs {env_id}"
        )
    return dict(rows[row]["settings"])


def write_tuned(env_id: str, rows: Mapping[str, Mapping[str, Any]], folder: Path | None = None) -> Path:
    """Write rows into the file of an id; its other rows stay.

    Args:
        env_id: id of the environment.
        rows: by label; each with its ``settings``, and what they stand on.
        folder: of the files; None takes that of this repository.

    Returns:
        the path of the file.
    """
    path = path_of(env_id, folder)
    stored = files.read_json(path)["rows"] if path.is_file() else {}
    content = {"env_id": env_id, "rows": {**stored, **rows}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path
