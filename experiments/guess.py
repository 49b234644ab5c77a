"""How often the thing is named in the guessing game: at random, by right play, by the start, and at best.

    python -m experiments.guess                 # the plain level: some minutes on two cores
    python -m experiments.guess --level hard

*Random* names a thing of the scene without a question. *Random questions* asks what tells the remaining things apart,
as the demonstrations do, and hears every answer. *Start* is the shipped policy. *Optimum* is the exact best questioner.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro

import mmenv
from agents.comparing import tables
from agents.settings.ids import shipped_start
from agents.training.loading import load_policy
from mmenv.data.sample import Response, Sample
from mmenv.statistics import cluster_bootstrap
from mmenv.tasks.guess import Guess
from mmenv.worlds.questioner import Questioner

ENV_ID = "mmenv/Guess-v0"


def successes_of_right_play(task: Guess, split: str, episodes: int) -> np.ndarray:
    """Whether the references of each turn end with the right guess, float (episodes,)."""
    gold = []
    for index in range(episodes):
        sample: Sample | None = task.sample(split, index)
        while sample is not None:
            last, response = sample, Response(sample.references[0])
            sample = task.follow_up(last, response)
        gold.append(float(task.gold(last, response) or 0.0))
    return np.array(gold)


def row(name: str, gold: np.ndarray) -> list[str]:
    """A line of the table: a policy, its success and the 95% interval."""
    low, high = cluster_bootstrap(gold, np.arange(len(gold)), 0)
    return [name, f"{gold.mean():.3f} [{low:.3f}, {high:.3f}]"]


def start_rows(start: str, split: str, episodes: int, arguments: dict[str, Any]) -> list[list[str]]:
    """Success of a network, greedy and sampled."""
    lines = []
    env: Any = gym.make_vec(ENV_ID, num_envs=1, **arguments).unwrapped
    for mode in ("greedy", "sampled"):
        policy = load_policy(start, env, greedy=mode == "greedy")
        result = mmenv.evaluate(policy.act, ENV_ID, split, episodes=episodes, **arguments)
        low, high = result.gold_interval
        turns = len(result.rows) / result.episodes
        lines.append([f"start, {mode}", f"{result.gold:.3f} [{low:.3f}, {high:.3f}], {turns:.1f} replies a game"])
    return lines


def main(
    level: Literal["plain", "hard"] = "plain",
    split: str = "test",
    episodes: int = 256,
    start: str = shipped_start(ENV_ID),
    shift: float = 0.0,
) -> None:
    """Print the table.

    Args:
        level: of the task.
        split: of the task.
        episodes: the first games of the split.
        start: shipped name or path of the weights of the start.
        shift: of the pictures and voices that the start gets; the others know the scene.
    """
    torch.set_num_threads(1)
    task = Guess(level=level)
    scenes = [task.sample(split, index).truth.scene for index in range(episodes)]
    questioners = [Questioner(scene) for scene in scenes]
    lines = [
        row("random", np.array([1 / len(scene.things) for scene in scenes])),
        row("random questions", successes_of_right_play(task, split, episodes)),
        *start_rows(start, split, episodes, {"level": level, "shift": shift}),
    ]
    for questions in range(1, task.turns):
        gold = np.array([questioner.success(questions) for questioner in questioners])
        lines.append(row(f"optimum, {questions} question{'s' * (questions > 1)}", gold))
    print(tables.table(["policy", f"success in {task.turns} replies [95% interval]"], lines))
    expected = np.mean([questioner.expected() for questioner in questioners])
    print(f"the best questioner knows the thing after {expected:.2f} questions on average")


if __name__ == "__main__":
    tyro.cli(main)
