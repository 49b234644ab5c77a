"""Settings of grids of runs: what all have, and those of compare and reproduce."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from agents.settings.bounds import Checked, Count, EpisodeCount, Positive, Range, Seed


@dataclass(frozen=True, kw_only=True)
class GridConfig(Checked):
    """Settings of every command that runs a grid of runs."""

    seeds: Count = 5
    """Runs of each algorithm on each id: seeds first_seed, first_seed + 1, and so on."""
    first_seed: Seed = 0
    """Seed of the first run of each."""
    total_tokens: Count = 20_000
    """Tokens of each run."""
    max_seconds: Positive | None = None
    """Each run also ends after so many seconds of training: with a large --total-tokens, equal wall time."""
    stop_at_kl: Positive | None = None
    """Each run also ends once its KL to the start reaches so many nats: equal distance."""
    eval_episodes: EpisodeCount = 512
    """Episodes of each evaluation."""
    settings: tuple[str, ...] = ()
    """Settings of single algorithms, as ALGORITHM/NAME=VALUE: ppo/kl-coef=0.1."""
    jobs: Count = field(default_factory=lambda: os.cpu_count() or 1)
    """Runs at a time on this machine, one torch thread each."""
    cluster: bool = False
    """Whether runs go to Ray, one a core: to the cluster that is up, or else to one on this machine."""
    retries: Annotated[int, Range(0)] = 1
    """How often a run that fails is tried again before it is reported as failed."""
    run_seconds: Positive | None = None
    """A run that takes longer than so many seconds in all is stopped and has failed."""
    mark_versions: bool = False
    """Whether results of other versions are kept and marked; otherwise they are refused."""
    out: str | None = None
    """Folder of the grid; None makes runs/COMMAND."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig(GridConfig):
    """Algorithms against each other: the same start, budget and evaluation, over several seeds."""

    algorithms: tuple[str, ...] = ("ppo", "rloo", "grpo")
    """Names, package.module:Class, or LABEL=NAME for the same algorithm with other settings."""
    envs: tuple[str, ...] = ("mmenv/VQA-v0",)
    """Ids to train on."""
    reward: str | None = None
    """Reward to train against: preference, preference-weak, gold, a path of saved weights, or a server; None takes the
    own one of each id."""
    also: tuple[Literal["hard", "shifted", "comp"], ...] = ()
    """Where every trained policy is evaluated as well: on the id's Hard or Shifted variant, or on its split comp."""
    tune: Annotated[int, Range(0)] = 0
    """Trials of tuning for every algorithm on every id, on the validation split and with seeds of their own."""
    tuned: bool = False
    """Whether all take the tuned settings of experiments/tuned; --settings replace them."""
    min_updates: Annotated[int, Range(0)] = 0
    """Updates that every algorithm must make within the budget, else nothing runs; short runs measure them first."""
    estimate: bool = False
    """Whether to measure a short run of each algorithm on each id, print how long all runs will take, and end."""
    baseline: str | None = None
    """Label that all others are tested against in pairs; None tests all pairs."""

    def conflicts(self) -> Iterator[str]:
        if not self.algorithms or not self.envs:
            yield f"algorithms={self.algorithms}, envs={self.envs}: give at least one of each"
        if self.tune and self.tuned:
            yield f"tune={self.tune} and tuned=True: tune anew, or take the stored settings by --tuned"
        labels = [label.rpartition("=")[0] or label for label in self.algorithms]
        if self.baseline is not None and self.baseline not in labels:
            yield f"baseline={self.baseline!r} is none of {', '.join(labels)}: give --baseline one of these"


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(Checked):
    """A row of results again, with seeds that it has not had."""

    row: str
    """The algorithm's label: a row of the leaderboard."""
    env_ids: tuple[str, ...] = ()
    """Ids to run it on; none takes all that the row has."""
    runs: Count = 2
    """New runs on each id."""
    results: str = "docs/leaderboard.jsonl"
    """Results that hold the row."""
    jobs: Count = field(default_factory=lambda: os.cpu_count() or 1)
    """Runs at a time on this machine, one torch thread each."""
    cluster: bool = False
    """Whether runs go to Ray, one a core."""
    trust: tuple[str, ...] = ()
    """Modules of your own that the row may have imported: of package.module:Class and of
    package.module:namespace/Name-v0."""
    out: str | None = None
    """Folder of the runs; None makes runs/reproduce."""
