"""Files of a release: the trained policy of one seed of every row of a table, with a list of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from agents.comparing.grid import Cell
from agents.comparing.results import Row
from agents.training import checkpoints

KEPT = ("label", "algorithm", "env_id", "seed", "overrides", "gold", "greedy", "kl", "tokens", "versions", "commit")


def collect(rows: Sequence[Row], runs: Path, folder: Path, seed: int = 0) -> Path:
    """Copy the last checkpoint's policy of one seed of every row.

    Args:
        rows: of results.
        runs: folder of the runs, as a grid has it.
        folder: where the files go; ``policies.json`` lists them.
        seed: of the runs to take.

    Returns:
        the list's path.

    Raises:
        FileNotFoundError: a run's folder is not on this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for row in rows:
        if row["status"] != "done" or row["seed"] != seed:
            continue
        cell = Cell(row["label"], row["algorithm"], row["env_id"], seed)
        if not (runs / cell.path).is_dir():
            raise FileNotFoundError(f"{runs / cell.path} is not here: run the row on this machine, or copy its folder")
        label, env_id, _ = cell.path.parts
        path = folder / f"{label}-{env_id}-seed{seed}.safetensors"
        shutil.copy(checkpoints.policy_of(runs / cell.path), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append({"file": path.name, "sha256": digest, **{name: row[name] for name in KEPT}})
    listing = folder / "policies.json"
    listing.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return listing
