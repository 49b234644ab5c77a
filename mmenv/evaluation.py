"""One evaluation for everybody's policy: the same samples, reward, gold, length and interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np

from mmenv.arguments import ArgumentError, positive
from mmenv.data.sample import Sample
from mmenv.envs.infos import finished
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.registration import spec_of
from mmenv.statistics import cluster_bootstrap

# One episode a lane, each played to its end, whatever an id was registered with.
_FIXED: dict[str, Any] = {"autoreset_mode": "Disabled", "copy": False, "max_episode_steps": None}


@dataclass(frozen=True)
class Row:
    """One evaluated response: what was asked, the text, how it stopped, its scores, and its tokens, end included."""

    sample: Sample
    response: str
    stop: str
    reward: float
    gold: float
    tokens: int


@dataclass(frozen=True)
class Evaluation:
    """Means over the evaluated responses.

    Attributes:
        reward, gold, length: means; gold is nan where nothing is known; length in tokens, end token included.
        gold_interval: 95% interval of mean gold, by bootstrap over episodes.
        ended: share of responses that ended with an end token.
        diversity: distinct word pairs as a share of all (distinct-2, Li et al. 2016).
        episodes: number of episodes.
        rows: every response.
        metrics: means of the metrics that were asked for, by name.
    """

    reward: float
    gold: float
    gold_interval: tuple[float, float]
    length: float
    ended: float
    diversity: float
    episodes: int
    rows: tuple[Row, ...]
    metrics: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        low, high = self.gold_interval
        metrics = "".join(f"{name} {value:.3f}  " for name, value in self.metrics.items())
        return (
            f"{metrics}"
            f"gold {self.gold:.3f} [{low:.3f}, {high:.3f}]  reward {self.reward:.3f}  length {self.length:.1f}  "
            f"ended {self.ended:.0%}  diversity {self.diversity:.2f}  ({self.episodes} episodes)"
        )


def evaluate(
    act: Callable[..., Any],
    env_id: str,
    split: str = "test",
    seed: int = 0,
    episodes: int = 512,
    num_envs: int = 128,
    reward: Any = None,
    metrics: Sequence[str] = (),
    **arguments: Any,
) -> Evaluation:
    """Play the first ``episodes`` samples of a split and report.

    Args:
        act: ``act(observations, state, starts)`` -> actions, or a tuple that begins with actions and, where the policy
            has a state, ends with it. ``starts`` (N,) bool marks the lanes with a new context; ended lanes are asked
            too and what they answer is ignored. Observations change with the next call: copy what is to be kept.
        env_id: id of the environment; ``"package:namespace/Name-v0"`` imports the package first.
        split: split to sweep.
        seed: seeds the order of nothing but the bootstrap; a policy seeds its own sampling.
        episodes: how many; never more than the split has.
        num_envs: lanes played side by side.
        reward: reward that is reported beside gold; None for the id's own.
        metrics: names of ``mmenv.rewards.metrics.references.METRICS`` that compare with the references, for data
            without gold; CIDEr takes its document frequencies from the samples that were played.
        **arguments: further arguments of the environment.

    Returns:
        the means, with a 95% interval on gold.

    Raises:
        ArgumentError: ``episodes`` or ``num_envs`` is no positive integer, or an environment's argument is wrong.
    """
    episodes, num_envs = positive("episodes", episodes), positive("num_envs", num_envs)
    for name in _FIXED:
        if name in arguments:
            raise ArgumentError(
                f"{name}={arguments[name]!r}: an evaluation plays every response to its end, leave it out "
                "(max_response_tokens= makes responses shorter)"
            )
    if reward is not None:
        arguments["reward"] = reward
    env: Any = gym.make_vec(spec_of(env_id), num_envs=min(num_envs, episodes), split=split, **_FIXED, **arguments)
    native: TokenVectorEnv = env.unwrapped
    n, size = native.num_envs, native.task.size(split)
    episodes = min(episodes, size)
    rows: list[tuple[int, Row]] = []
    for first in range(0, episodes, n):
        # The last chunk is filled up with samples that are played and not counted.
        played = _play(act, native, np.arange(first, first + n) % size)
        rows += [(first + lane, row) for lane, row in played if first + lane < episodes]
    env.close()
    return dataclasses.replace(_summary(rows, episodes, seed), metrics=_measured(metrics, [row for _, row in rows]))


def _measured(names: Sequence[str], rows: list[Row]) -> dict[str, float]:
    """Means of the metrics over responses whose samples have references."""
    if not names:
        return {}
    from mmenv.rewards.metrics.references import METRICS, ReferenceReward

    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ArgumentError(f"metrics={tuple(names)!r}: no metric {unknown[0]!r}, there are {', '.join(METRICS)}")
    known = [row for row in rows if row.sample.references]
    documents = list({row.sample.id: row.sample.references for row in known}.values())
    made = {name: ReferenceReward(name, documents) for name in names}
    return {
        name: float(np.mean([metric.measure(row.sample, row.response) for row in known])) if known else float("nan")
        for name, metric in made.items()
    }


def _play(act: Callable[..., Any], env: TokenVectorEnv, indices: np.ndarray) -> list[tuple[int, Row]]:
    """One episode in every lane: the rows, each with its lane."""
    observations, _ = env.reset(options={"sample_index": indices})
    starts, state = np.ones(env.num_envs, bool), None
    lengths = np.zeros(env.num_envs, np.int64)
    rows: list[tuple[int, Row]] = []
    over = np.zeros(env.num_envs, bool)
    while not over.all():
        out = act(observations, state, starts)
        actions, state = (np.asarray(out[0]), out[-1]) if isinstance(out, tuple) else (np.asarray(out), None)
        before = list(env.samples)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        lengths += actions != env.tokenizer.pad_id
        over, ended = terminated | truncated, finished(infos)
        for k, lane in enumerate(ended.lanes.tolist()):
            texts = ended.response[k], ended.stop[k]
            rows.append(
                (lane, Row(before[lane], *texts, float(rewards[lane]), float(ended.gold[k]), int(lengths[lane])))
            )
        lengths[ended.lanes] = 0
        starts = np.zeros(env.num_envs, bool)
        starts[ended.lanes] = ~over[ended.lanes]
    return rows


def _summary(numbered: list[tuple[int, Row]], episodes: int, seed: int) -> Evaluation:
    rows = tuple(row for _, row in numbered)
    gold = np.array([r.gold for r in rows])
    known = ~np.isnan(gold)
    at = np.array([i for i, _ in numbered])
    pairs = [pair for r in rows for pair in pairwise(r.response.split())]
    return Evaluation(
        reward=float(np.mean([r.reward for r in rows])),
        gold=float(gold[known].mean()) if known.any() else float("nan"),
        gold_interval=cluster_bootstrap(gold[known], at[known], seed) if known.any() else (float("nan"), float("nan")),
        length=float(np.mean([r.tokens for r in rows])),
        ended=float(np.mean([r.stop == "eos" for r in rows])),
        diversity=len(set(pairs)) / max(1, len(pairs)),
        episodes=episodes,
        rows=rows,
    )
