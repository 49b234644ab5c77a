"""Preference models that differ from a default in one setting, each on labels of its own, and best of n by each."""

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
from mmenv.rewards.preference.files import read_backbone
from mmenv.rewards.preference.training import Pairs, agreement

DEFAULT = "default"  # name of the spec in which nothing is varied
BEST = "best-of-n"  # algorithm of the rows for which nothing was trained
TEMPERATURE = 0.1  # of the annotator, in units of gold
TIE_BAND = 0.1  # of gold: the annotator calls responses tied that seem closer
LANES = 256
POOL = 2  # pairs to draw from for each that the largest spec takes, so that seeds learn from different ones
Show = Callable[[int], None]  # takes the number of parts that are done


class RewardModelSpec(NamedTuple):
    """What a preference model is made of.

    Attributes:
        name: ``default``, or what differs from it, ``labels=300``.
        labels: comparisons that it learns from.
        flip: share of them whose choice is inverted.
        members: models in the ensemble.
        hidden: units of a head's layer.
    """

    name: str
    labels: int
    flip: float
    members: int
    hidden: int

    @property
    def combine(self) -> str:
        """How the scores of its members become one."""
        return "mean" if self.members == 1 else "variance"

    def file(self, seed: int) -> str:
        """The weights of a seed's model, below the folder of the grid."""
        return f"rewards/{self.name}-{seed}.safetensors"

    def model(self) -> dict[str, Any]:
        """Its settings for metadata and rows."""
        return {**{k: v for k, v in self._asdict().items() if k != "name"}, "combine": self.combine}


def specs(config: OveroptimiseConfig) -> list[RewardModelSpec]:
    """The default, and the specs that differ from it in one setting."""
    default = RewardModelSpec(DEFAULT, config.labels, config.flip, config.members, config.hidden)
    return [
        default,
        *(
            default._replace(**{"name": f"{factor}={value}", factor: value})
            for factor in ("labels", "flip", "members", "hidden")
            for value in getattr(config, f"vary_{factor}")
        ),
    ]


class Start:
    """The start of all runs: pairs of its responses to compare, and many responses to one context.

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

    def _policy(self, env: TokenVectorEnv, seed: int, heat: float = 1.0) -> TokenPolicy:
        return load_policy(self.start, env, seed, heat * self.temperature, self.top_p)

    def sample_pairs(self, split: str, n: int, seed: int, show: Show | None = None) -> Pairs:
        """``n`` pairs of responses to contexts of a split: hotter ones in the training split alone."""
        env = self._env(split, min(LANES, 2 * n))
        heats = pairs.TEMPERATURES if split == "train" else (1.0,)
        policies = [self._policy(env, seed, heat) for heat in heats]
        return pairs.as_pairs(pairs.sample_pairs(policies, env, split, n, np.random.default_rng(seed), show))

    def sample_groups(self, n: int, repeats: int, seed: int) -> list[list[pairs.JudgedResponse]]:
        """The different responses to ``n`` contexts of the training split, of ``repeats`` at each temperature."""
        env = self._env("train", LANES)
        policies = [self._policy(env, seed, heat) for heat in pairs.TEMPERATURES]
        return pairs.sample_groups(policies, env, "train", n, np.random.default_rng(seed), repeats=repeats)

    def sample_responses(
        self, contexts: int, each: int, seed: int, show: Show | None = None
    ) -> list[pairs.JudgedResponse]:
        """``each`` responses to each of so many contexts of the training split, context by context.

        In a dialogue only the first reply counts: later ones do not answer the same utterance.
        """
        at_once = min(contexts, max(1, LANES // each))
        env = self._env("train", at_once * each)
        policy, rng = self._policy(env, seed), np.random.default_rng(seed)
        responses: list[pairs.JudgedResponse] = []
        while len(responses) < contexts * each:
            index = rng.integers(env.task.size("train"), size=at_once)
            played = pairs.sample_responses(policy, env, index.repeat(each))
            responses += [response for response in played if response.sample.turn == 0]
            if show is not None:
                show(min(contexts * each, len(responses)))
        return responses[: contexts * each]


def make_reward(
    path: Path, spec: RewardModelSpec, seed: int, source: dict[str, Any], pool: Pairs, held_out: Pairs
) -> None:
    """Train a model on labels of its own; its file has its spec and its agreement with gold as metadata.

    Args:
        path: of the weights.
        spec: settings of the model.
        seed: of the pairs, the labels and the training.
        source: the policy whose responses are compared and whose network the model begins as, for the metadata.
        pool: pairs to draw from.
        held_out: pairs that agreement with gold is measured on.
    """
    drawn = pool.take(np.random.default_rng(seed).permutation(len(pool.samples))[: spec.labels])
    comparisons = pairs.annotate(
        drawn, SyntheticAnnotator(TEMPERATURE, flip=spec.flip, tie_band=TIE_BAND), np.random.default_rng([seed, 1])
    )
    learn = RewardConfig(seed=seed, hidden=spec.hidden)
    parent = read_backbone(source["start"] or shipped_start(source["env_id"]))
    model = fit_ensemble(parent, comparisons, drawn.samples, learn, spec.members, spec.combine)
    right = agreement(model, held_out)[0] if held_out.distinct.any() else None
    about = {"spec": json.dumps({**spec.model(), **source, "seed": seed}), "agreement": json.dumps(right)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    model.save(temporary, about)
    temporary.replace(path)


def check_reward(path: Path, spec: RewardModelSpec, seed: int, source: dict[str, Any]) -> None:
    """Refuse weights that were made with other settings.

    Raises:
        ValueError: names the file and its settings.
    """
    made = json.loads(read_tensors(path)[1].get("spec", "null"))
    if made != {**spec.model(), **source, "seed": seed}:
        raise ValueError(f"{path} was made of {made}, not as {spec.name} is now: take another --out")


def agreement_of(path: Path) -> float | None:
    """Share of unseen pairs that a model orders as gold does; None where gold is equal in all of them.

    Raises:
        WeightsError: the file is not one that ``make_reward`` wrote.
    """
    metadata = read_tensors(path)[1]
    if "agreement" not in metadata:
        raise WeightsError(f"{path} does not say how often it agrees with gold: remove it to make it again")
    right: float | None = json.loads(metadata["agreement"])
    return right


def best_of_n_row(
    path: Path, spec: RewardModelSpec, env_id: str, seed: int, responses: list[pairs.JudgedResponse], each: int
) -> Row:
    """A row of results for choosing the best of n responses by a model, for every n.

    Args:
        path: of the model.
        spec: its settings.
        env_id, seed: of the row.
        responses: ``each`` of them to each context, context by context.
        each: the largest n.
    """
    model = load_ensemble(path)
    reward = score(model, [r.sample for r in responses], [r.response for r in responses]).reshape(-1, each)
    gold = np.array([r.gold for r in responses]).reshape(-1, each)
    n = range(1, each + 1)
    means = {"kl": [kl_of_best(k) for k in n], "gold": best_of_n(reward, gold).mean(0)}
    means["reward"] = best_of_n(reward, reward).mean(0)
    curve = {"n": list(n), **{name: np.round(values, 5).tolist() for name, values in means.items()}}
    return {
        "format": grid.FORMAT, **grid.Cell(spec.name, BEST, env_id, seed)._asdict(),
        "status": "done", "n": each, "contexts": len(reward), "curve": curve,
        "model": {**spec.model(), "agreement": agreement_of(path)},
        "machine": grid.machine(), "versions": run_folder.versions(), "commit": run_folder.commit(),
    }  # fmt: skip
