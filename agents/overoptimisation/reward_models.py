"""Arms: preference models that differ in one thing, each made of fresh labels, and best of n against every one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from agents.comparing import grid
from agents.comparing.results import Row
from agents.maths.kl import kl_of_best
from agents.overoptimisation.config import OveroptimiseConfig
from agents.overoptimisation.fits import best_of_n
from agents.policies.token_policy import TokenPolicy
from agents.rollouts import pairs
from agents.settings.ids import shipped_start
from agents.training import run_folder
from agents.training.loading import load_policy
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.models.checkpoints import WeightsError, read_tensors
from mmenv.rewards.base import score
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.ensemble import fit_ensemble, load_ensemble
from mmenv.rewards.preference.model import shared_backbone
from mmenv.rewards.preference.training import Pairs, agreement

DEFAULT = "default"  # name of the arm that nothing is varied in
BEST = "best-of-n"  # algorithm of the rows that no run made
TEMPERATURE = 0.1  # of the annotator, in units of gold
LANES = 256
POOL = 2  # pairs to draw from for each that the largest arm takes, so that seeds learn from different ones
Told = Callable[[int], None]


class Arm(NamedTuple):
    """What a preference model is made of.

    Attributes:
        name: ``default``, or what differs from it, ``labels=300``.
        labels: comparisons it learns from.
        flip: share of them turned round.
        members: models in the ensemble.
        hidden: units of a head's layers.
    """

    name: str
    labels: int
    flip: float
    members: int
    hidden: int

    @property
    def combine(self) -> str:
        """How its members pay."""
        return "mean" if self.members == 1 else "variance"

    def file(self, seed: int) -> str:
        """The weights of a seed's model, below the folder of the grid."""
        return f"rewards/{self.name}-{seed}.safetensors"

    def model(self) -> dict[str, Any]:
        """What it is made of, as it is written down."""
        return {**{k: v for k, v in self._asdict().items() if k != "name"}, "combine": self.combine}


def arms(config: OveroptimiseConfig) -> list[Arm]:
    """The default arm, and those that differ from it in one thing."""
    default = Arm(DEFAULT, config.labels, config.flip, config.members, config.hidden)
    return [
        default,
        *(
            default._replace(**{"name": f"{factor}={value}", factor: value})
            for factor in ("labels", "flip", "members", "hidden")
            for value in getattr(config, f"vary_{factor}")
        ),
    ]


class Start:
    """What the start says: pairs to compare, and many responses to one context.

    Args:
        env_id: whose gold is known.
        start: weights; None takes the shipped ones of the task.
        temperature, top_p: of the distribution that the algorithms train.
    """

    def __init__(self, env_id: str, start: str | None = None, temperature: float = 1.0, top_p: float = 1.0) -> None:
        self.env_id, self.start = env_id, start or shipped_start(env_id)
        self.temperature, self.top_p = temperature, top_p

    def _env(self, split: str, lanes: int) -> TokenVectorEnv:
        env: Any = gym.make_vec(
            self.env_id, num_envs=lanes, split=split, reward="gold", autoreset_mode="Disabled", copy=False
        )
        return env.unwrapped

    def _policy(self, env: TokenVectorEnv, seed: int) -> TokenPolicy:
        return load_policy(self.start, env, seed, self.temperature, self.top_p)

    def pairs(self, split: str, n: int, seed: int, told: Told | None = None) -> Pairs:
        """``n`` pairs of responses."""
        env = self._env(split, min(LANES, 2 * n))
        return pairs.sample_pairs(self._policy(env, seed), env, split, n, np.random.default_rng(seed), told)

    def many(self, contexts: int, each: int, seed: int, told: Told | None = None) -> list[pairs.JudgedResponse]:
        """``each`` responses to each of so many contexts of the training split, context by context.

        Of a dialogue the first reply: later ones do not answer the same.
        """
        at_once = min(contexts, max(1, LANES // each))
        env = self._env("train", at_once * each)
        policy, rng = self._policy(env, seed), np.random.default_rng(seed)
        found: list[pairs.JudgedResponse] = []
        while len(found) < contexts * each:
            index = rng.integers(env.task.size("train"), size=at_once)
            found += [said for said in pairs.sample_responses(policy, env, index.repeat(each)) if said.sample.turn == 0]
            if told is not None:
                told(min(contexts * each, len(found)))
        return found[: contexts * each]


def make_reward(path: Path, arm: Arm, seed: int, of: dict[str, Any], pool: Pairs, held_out: Pairs) -> None:
    """Train an arm's model on labels of its own, and write it with what it is made of and how often it is right.

    Args:
        path: of the weights.
        arm: what the model is made of.
        seed: draws the pairs, the labels and the head.
        of: whose responses are compared, written down beside the arm.
        pool: pairs to draw from.
        held_out: pairs that agreement with gold is measured on.
    """
    drawn = pool.take(np.random.default_rng(seed).permutation(len(pool.samples))[: arm.labels])
    said = pairs.annotate(drawn, SyntheticAnnotator(TEMPERATURE, flip=arm.flip), np.random.default_rng([seed, 1]))
    learn = RewardConfig(seed=seed, hidden=arm.hidden)
    model = fit_ensemble(shared_backbone("base"), said, drawn.samples, learn, arm.members, arm.combine)
    right = agreement(model, held_out)[0] if held_out.distinct.any() else None
    about = {"arm": json.dumps({**arm.model(), **of, "seed": seed}), "agreement": json.dumps(right)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    model.save(temporary, about)
    temporary.replace(path)


def check_reward(path: Path, arm: Arm, seed: int, of: dict[str, Any]) -> None:
    """Refuse weights that were made of something else.

    Raises:
        ValueError: names the file and what it is made of.
    """
    made = json.loads(read_tensors(path)[1].get("arm", "null"))
    if made != {**arm.model(), **of, "seed": seed}:
        raise ValueError(f"{path} was made of {made}, not as {arm.name} is now: take another --out")


def agreement_of(path: Path) -> float | None:
    """How often a model agrees with gold on pairs that it has not seen; None where gold does not tell them apart.

    Raises:
        WeightsError: the file is not one that ``make_reward`` wrote.
    """
    metadata = read_tensors(path)[1]
    if "agreement" not in metadata:
        raise WeightsError(f"{path} does not say how often it agrees with gold: remove it, and it is made anew")
    right: float | None = json.loads(metadata["agreement"])
    return right


def best_of_n_row(path: Path, arm: Arm, env_id: str, seed: int, said: list[pairs.JudgedResponse], each: int) -> Row:
    """A row of results for choosing the best of n, for every n, by an arm's model.

    Args:
        path: the model.
        arm: what it is made of.
        env_id, seed: as of the other rows.
        said: ``each`` responses to each context, context by context.
        each: N.
    """
    model = load_ensemble(path)
    reward = score(model, [s.sample for s in said], [s.response for s in said]).reshape(-1, each)
    gold = np.array([s.gold for s in said]).reshape(-1, each)
    n = range(1, each + 1)
    means = {"kl": [kl_of_best(k) for k in n], "gold": best_of_n(reward, gold).mean(0)}
    means["reward"] = best_of_n(reward, reward).mean(0)
    curve = {"n": list(n), **{name: np.round(values, 5).tolist() for name, values in means.items()}}
    return {
        "format": grid.FORMAT, "label": arm.name, "algorithm": BEST, "env_id": env_id, "seed": seed, "settings": [],
        "status": "done", "n": each, "contexts": len(reward), "curve": curve,
        "model": {**arm.model(), "agreement": agreement_of(path)},
        "machine": grid.machine(), "versions": run_folder.versions(), "commit": run_folder.commit(),
    }  # fmt: skip
