"""Evaluation of any policy on the same samples, with reward, gold, length and a confidence interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
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

# One episode a lane, played to its end, whatever defaults an id was registered with.
_FIXED: dict[str, Any] = {"autoreset_mode": "Disabled", "copy": False, "max_episode_steps": None}


@dataclass(frozen=True)
class Row:
    """One evaluated response: its sample, text, stop reason, scores, and number of tokens with the end token.

    ``gold`` is nan where it is unknown; ``gold_parts`` has the parts that this response's gold has.
    """

    sample: Sample
    response: str
    stop: str
    reward: float
    gold: float
    gold_parts: dict[str, float]
    tokens: int


@dataclass(frozen=True)
class Evaluation:
    """Means over the evaluated responses.

    Attributes:
        reward, gold, length: means; gold is nan without known gold; length in tokens, with the end token. Of a task
            that pays at the end of an episode only, reward and gold are means over episodes.
        gold_interval: 95% interval of mean gold, by bootstrap over episodes.
        gold_parts: means of the parts of gold, by name, each over the responses that have it.
        families: mean gold of each family of questions, by name.
        ended: share of responses with an end token.
        diversity: distinct word pairs as a share of all (distinct-2, Li et al. 2016).
        episodes: number of episodes.
        rows: every response.
        metrics: means of the requested metrics, by name.
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
    gold_parts: dict[str, float] = field(default_factory=dict)
    families: dict[str, float] = field(default_factory=dict)

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
    """Play the first ``episodes`` samples of a split and average what they earn.

    Args:
        act: ``act(observations, state, starts)`` -> actions, or a tuple that begins with actions and, where the policy
            has a state, ends with it. ``starts`` (N,) bool marks the lanes with a new context; ended lanes are asked
            too and what they answer is ignored. Observations change in place: copy what you store.
        env_id: id of the environment; ``"package:namespace/Name-v0"`` imports the package first.
        split: split to sweep.
        seed: of the bootstrap interval; the samples are always the same, and a policy seeds its own sampling.
        episodes: number of episodes, at most the size of the split.
        num_envs: number of lanes that are played at once.
        reward: the reported reward; None for the id's own.
        metrics: names of ``mmenv.rewards.metrics.references.METRICS`` that compare with the references, for data
            without gold; CIDEr takes its document frequencies from the samples that were played.
        **arguments: further arguments of the environment.

    Returns:
        the means, with a 95% interval on gold.

    Raises:
        ArgumentError: ``episodes`` or ``num_envs`` is not a positive integer, or an environment's argument is wrong.
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
        # The last chunk is filled with samples that are played but not counted.
        played = _play(act, native, np.arange(first, first + n) % size)
        rows += [(first + lane, row) for lane, row in played if first + lane < episodes]
    env.close()
    paid = episodes if native.task.pays_at_end else len(rows)
    summary = _summary(rows, episodes, paid, seed)
    return dataclasses.replace(summary, metrics=_measured(metrics, [row for _, row in rows]))


def _measured(names: Sequence[str], rows: list[Row]) -> dict[str, float]:
    """Means of metrics over the responses whose samples have references."""
    if not names:
        return {}
    from mmenv.rewards.metrics.references import METRICS, ReferenceReward

    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ArgumentError(f"metrics={tuple(names)!r}: {unknown[0]!r} is unknown, give some of {', '.join(METRICS)}")
    measurable = [row for row in rows if row.sample.references]
    if not measurable:
        return dict.fromkeys(names, float("nan"))
    documents = list({row.sample.id: row.sample.references for row in measurable}.values())
    means = {}
    for name in names:
        metric = ReferenceReward(name, documents)
        means[name] = float(np.mean([metric.measure(row.sample, row.response) for row in measurable]))
    return means


def _play(act: Callable[..., Any], env: TokenVectorEnv, indices: np.ndarray) -> list[tuple[int, Row]]:
    """Play one episode in every lane; returns the rows, each with its lane."""
    observations, _ = env.reset(options={"sample_index": indices})
    starts, state = np.ones(env.num_envs, bool), None
    lengths, returns = np.zeros(env.num_envs, np.int64), np.zeros(env.num_envs)
    rows: list[tuple[int, Row]] = []
    over = np.zeros(env.num_envs, bool)
    while not over.all():
        result = act(observations, state, starts)
        if isinstance(result, tuple):
            actions, state = np.asarray(result[0]), result[-1]
        else:
            actions, state = np.asarray(result), None
        before = list(env.samples)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        lengths += 1
        returns += rewards  # a reward may pay at the tokens, too
        over, ended = terminated | truncated, finished(infos)
        for k, lane in enumerate(ended.lanes.tolist()):
            row = Row(
                sample=before[lane],
                response=ended.response[k],
                stop=ended.stop[k],
                reward=float(returns[lane]),
                gold=float(ended.gold[k]),
                gold_parts={name: float(part[k]) for name, part in ended.gold_parts.items() if not np.isnan(part[k])},
                tokens=int(lengths[lane]),
            )
            rows.append((lane, row))
        lengths[ended.lanes] = 0
        returns[ended.lanes] = 0.0
        starts = np.zeros(env.num_envs, bool)
        starts[ended.lanes] = ~over[ended.lanes]
    return rows


def _summary(numbered: list[tuple[int, Row]], episodes: int, paid: int, seed: int) -> Evaluation:
    """The means of rows, each with the number of its episode; ``paid`` responses had a score."""
    rows = tuple(row for _, row in numbered)
    gold = np.array([r.gold for r in rows])
    has_gold = ~np.isnan(gold)
    episode = np.array([index for index, _ in numbered])
    gold_interval = (float("nan"), float("nan"))
    if has_gold.any():
        gold_interval = cluster_bootstrap(gold[has_gold], episode[has_gold], seed)
    pairs = [pair for r in rows for pair in pairwise(r.response.split())]
    return Evaluation(
        reward=float(np.sum([r.reward for r in rows]) / paid),
        gold=float(gold[has_gold].mean()) if has_gold.any() else float("nan"),
        gold_interval=gold_interval,
        length=float(np.mean([r.tokens for r in rows])),
        ended=float(np.mean([r.stop == "eos" for r in rows])),
        diversity=len(set(pairs)) / max(1, len(pairs)),
        episodes=episodes,
        rows=rows,
        gold_parts=_means((name, part) for r in rows for name, part in r.gold_parts.items()),
        families=_means((r.sample.family, r.gold) for r in rows if r.sample.family and not np.isnan(r.gold)),
    )


def _means(named: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of the values of each name, names in alphabetical order."""
    values: dict[str, list[float]] = {}
    for name, value in named:
        values.setdefault(name, []).append(value)
    return {name: float(np.mean(values[name])) for name in sorted(values)}
