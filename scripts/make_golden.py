"""Write the golden files of tests/golden again.

    python -m scripts.make_golden

``world.json`` holds the first samples of every split, as text and as hashes: if it changes, the data of an id changed,
so bump the version of the id. ``scenes.json`` holds the first scenes of every level and split, with hashes of their
pictures. ``trajectories.json`` holds what the first updates of every algorithm log: if it changes,
training changed. Say why in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents import files
from agents.algorithms.registry import ALGORITHMS, find
from agents.training.trainer import Trainer
from mmenv.data.sample import Response
from mmenv.registration import TABLE, default_task
from mmenv.tasks.base import Task
from mmenv.worlds.painter import paint
from mmenv.worlds.scenes import LEVELS, SHIFTED_SPLITS, SPLITS, draw_scene, seed_of

FOLDER = Path(__file__).parent.parent / "tests" / "golden"
GOLDEN = FOLDER / "world.json"
SCENES = FOLDER / "scenes.json"
TRAJECTORIES = FOLDER / "trajectories.json"
SAMPLES = 4
# Runs with other settings than the defaults, and settings that keep a run of an algorithm short.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ALGORITHMS},
    "grpo-token-mean": ("grpo", {"normalisation": "dapo", "scale": "none", "clip_high": 0.28}),
    "offline-dpo": ("offline-dpo", {"pairs": 16}),
    "ipo": ("ipo", {"pairs": 16}),
    "kto": ("kto", {"judgements": 16}),
    "vineppo": ("vineppo", {"branches": 2, "branch_every": 2}),
    "grpo-turns": ("grpo", {"env_id": "mmenv/SpokenDialogue-v0", "advantage_level": "turn"}),
    "ppo-turns": ("ppo", {"env_id": "mmenv/SpokenDialogue-v0", "advantage_level": "turn"}),
    "best-of-n": ("best-of-n", {"reward": "preference"}),
}
# Times, and a sign that rounding decides: before the first step the margin of every pair is 0.
NOISE = ("seconds", "tokens_per_second", "rollout_share", "implicit_agreement")


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
        env_id: {split: [describe(task, split, i) for i in range(SAMPLES)] for split in task.splits}
        for env_id in TABLE
        for task in [default_task(env_id)]
    }


def scenes() -> dict[str, list[dict[str, Any]]]:
    """Level, split and shift -> the first scenes."""
    return {
        f"{level} {split} {shift}": [_describe_scene(level, split, shift, i) for i in range(SAMPLES)]
        for level in LEVELS
        for split in SPLITS
        for shift in ((0.0, 0.5, 1.0) if split in SHIFTED_SPLITS else (0.0,))
    }


def _describe_scene(level: str, split: str, shift: float, index: int) -> dict[str, Any]:
    rng = random.Random(seed_of("golden", level, split, index))
    scene = draw_scene(rng, LEVELS[level], split, shift=shift)
    things = [" ".join(map(str, (t.name, t.x, t.y, t.size, t.angle, t.style, t.plate, t.mark))) for t in scene.things]
    return {"things": things, "image": digest(paint(scene))}


def trajectory(algorithm: str, settings: dict[str, Any]) -> list[dict[str, float]]:
    """What the first updates of an algorithm log, one row an update, without times; about a second."""
    common = {"num_envs": 16, "total_tokens": 120, "eval_episodes": 0, "pictures": False, "threads": 1}
    config = find(algorithm).Config(**{"reward": "gold", **common, **settings})
    with tempfile.TemporaryDirectory() as folder:
        Trainer(algorithm, config, Path(folder) / "run", console=Console(quiet=True)).train()
        rows = files.read_lines(Path(folder) / "run" / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in NOISE} for row in rows]


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a golden file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    write(GOLDEN, world())
    write(SCENES, scenes())
    write(TRAJECTORIES, {name: trajectory(*run) for name, run in RUNS.items()})
