"""Write tests/golden/world.json anew: what the first samples of every split are, as text and as hashes.

    python scripts/make_golden.py

A change of this file means that an id's data changed: say why in CHANGELOG.md and bump the version.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.data.sample import SPLITS, Response
from mmenv.registration import TABLE, task_of
from mmenv.tasks.base import Task

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "world.json"
SAMPLES = 4


def digest(array: np.ndarray | None) -> str | None:
    """A short hash of an array's bytes."""
    return None if array is None else hashlib.sha256(array.tobytes()).hexdigest()[:16]


def describe(task: Task, split: str, index: int) -> list[dict[str, Any]]:
    """A sample and, in a dialogue, what follows right replies."""
    sample, rows = task.sample(split, index), []
    while sample is not None:
        rows.append(
            {"id": sample.id, "prompt": sample.prompt, "references": list(dict.fromkeys(sample.references)),
             "image": digest(sample.image), "audio": digest(sample.audio)}
        )  # fmt: skip
        sample = task.follow_up(sample, Response(sample.references[0]))  # type: ignore[assignment]
    return rows


def world() -> dict[str, Any]:
    """Id -> split -> the first samples."""
    return {
        env_id: {split: [describe(task, split, i) for i in range(SAMPLES)] for split in SPLITS}
        for env_id in TABLE
        for task in [task_of(env_id)(dataset=None, image_size=None, tokenizer=None)]
    }


if __name__ == "__main__":
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(json.dumps(world(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
