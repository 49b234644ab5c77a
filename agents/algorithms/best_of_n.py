"""Best of n: no training; of n responses of the start the one with the best score is said.

It sees what an agent sees, observations and the reward model, so it plays any environment through ``act``. Its KL to
the start is at most ln n - (n - 1) / n nats (Stiennon et al. 2020; equality where scores have no ties).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

import mmenv
from agents.algorithms.base import Algorithm
from agents.overoptimisation.fits import kl_of_best
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import written
from agents.rollouts.rollout import Batch
from agents.settings.shared import BestOfNConfig
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.rewards.base import GoldReward, score

AT_ONCE = 4096  # responses that are written side by side


class BestOfN(Algorithm):
    """Chooses among responses of the start."""

    Config = BestOfNConfig
    config: BestOfNConfig
    reward_is = "what the best are chosen by"

    def make_optimiser(self) -> torch.optim.Optimizer:
        """One that takes no step: nothing is trained."""
        return torch.optim.SGD(self.parameters)

    def collect(self, env: TokenVectorEnv) -> Batch:
        """The best of n responses to one context a lane: what the curves show is what best of n says."""
        chooser = Chooser(self.policy, env, self.config.n, self.policy.generator)
        indices = self.rng.integers(env.task.size("train"), size=env.num_envs)
        observations, _ = env.reset(options={"sample_index": indices})
        starts, over, state = np.ones(env.num_envs, bool), np.zeros(env.num_envs, bool), None
        samples: list[Sample] = []
        responses: list[Response] = []
        scores: list[float] = []
        gold: list[float] = []
        while not over.all():
            actions, state = chooser.act(observations, state, starts)
            asked = list(env.samples)
            observations, rewards, terminated, truncated, infos = env.step(actions)
            ended = mmenv.finished(infos)
            samples += [asked[lane] for lane in ended.lanes]
            responses += [chooser.response(state.tokens[lane]) for lane in ended.lanes]
            scores += rewards[ended.lanes].tolist()
            gold += ended.gold.tolist()
            over = terminated | truncated
            starts = np.isin(np.arange(env.num_envs), ended.lanes) & ~over  # the next reply of a dialogue
        batch = written(self.policy, env, samples, [[response] for response in responses])
        return dataclasses.replace(batch, scores=torch.tensor(scores).to(batch.scores), gold=np.array(gold))

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        self.finished = True  # there is nothing to learn
        return self.distance(batch)

    def distance(self, batch: Batch) -> dict[str, float]:
        kl = kl_of_best(self.config.n)
        return {"kl": kl, "kl_k1": kl}

    def actor(self, generator: torch.Generator, env: TokenVectorEnv) -> Callable[..., Any]:
        if not self.finished:
            return super().actor(generator, env)
        return Chooser(self.policy, env, self.config.n, generator).act

    def counters(self) -> dict[str, Any]:
        return {"finished": self.finished}

    def restore(self, counters: dict[str, Any]) -> None:
        self.finished = counters["finished"]


class Plan(NamedTuple):
    """What every lane is about to say, int64 (N, R), and how far it is, (N,)."""

    tokens: np.ndarray
    at: np.ndarray


class Chooser:
    """Writes n responses to a context at its start and says the best of them token by token.

    Args:
        policy: what is sampled from.
        env: whose reward and tokenizer are meant.
        n: responses to choose among.
        generator: source of randomness; None takes torch's own.

    Raises:
        ValueError: the reward is gold, which knows more than an agent may.
    """

    def __init__(self, policy: TokenPolicy, env: TokenVectorEnv, n: int, generator: torch.Generator | None) -> None:
        if isinstance(env.reward_function, GoldReward):
            raise ValueError("reward='gold': best-of-n scores what an agent sees; give it a preference model")
        self.policy, self.reward, self.tokenizer, self.n = policy, env.reward_function, env.tokenizer, n
        self.generator = generator

    def act(
        self, observations: Mapping[str, np.ndarray], state: Plan | None, starts: np.ndarray
    ) -> tuple[np.ndarray, Plan]:
        """One token for every lane, as ``mmenv.evaluate`` asks for them."""
        lanes, budget = np.flatnonzero(starts), self.policy.budget
        if state is None:
            state = Plan(np.full((len(starts), budget), self.tokenizer.pad_id), np.zeros(len(starts), np.int64))
        if len(lanes):
            state.tokens[lanes] = self.choose({k: v[lanes] for k, v in observations.items()})
            state.at[lanes] = 0
        actions = state.tokens[np.arange(len(starts)), np.minimum(state.at, budget - 1)]
        return actions, Plan(state.tokens, state.at + 1)

    def choose(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """The best of n responses to each of K contexts, int64 (K, R), padded; some contexts at a time."""
        k, at_once = len(observations["prompt"]), max(1, AT_ONCE // self.n)
        parts = [{name: x[i : i + at_once] for name, x in observations.items()} for i in range(0, k, at_once)]
        return np.concatenate([self._best(part) for part in parts])

    @torch.inference_mode()
    def _best(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        k = len(observations["prompt"])
        tokens = self.write(observations)  # (K n, R)
        said = [self.response(row) for row in tokens]
        samples = [sample for sample in map(self._sample, range(k), [observations] * k) for _ in range(self.n)]
        scores = score(self.reward, samples, said).reshape(k, self.n)
        return tokens.reshape(k, self.n, -1)[np.arange(k), scores.argmax(1)]

    def write(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """n responses to each of K contexts, int64 (K n, R), padded."""
        policy = copy.copy(self.policy)
        policy.generator, device = self.generator, policy.device
        ends = torch.tensor(sorted(self.tokenizer.eos_ids), device=device)
        hidden, cache = policy.begin(policy.encode(observations))
        rows = torch.arange(len(hidden), device=device).repeat_interleave(self.n)
        hidden, cache = hidden[rows], cache.select(rows)
        so_far = torch.full((len(rows), policy.budget), self.tokenizer.pad_id, device=device)
        going = torch.ones(len(rows), dtype=torch.bool, device=device)
        for t in range(policy.budget):
            tokens, _, _ = policy.sample(hidden)
            so_far[going, t] = tokens[going]
            going &= ~torch.isin(tokens, ends)
            if not going.any() or t + 1 == policy.budget:
                break
            hidden = policy.step(tokens, cache)
        return so_far.cpu().numpy()

    def response(self, row: np.ndarray) -> Response:
        """A row of ``write`` as reward functions take it."""
        ids = [t for t in row.tolist() if t != self.tokenizer.pad_id]
        stop = "eos" if ids and ids[-1] in self.tokenizer.eos_ids else "budget"
        return Response(self.tokenizer.decode(ids), tuple(ids), stop)

    def _sample(self, i: int, observations: Mapping[str, np.ndarray]) -> Sample:
        """A context as it was observed."""
        prompt = observations["prompt"][i]
        text = self.tokenizer.decode(prompt[prompt != self.tokenizer.pad_id].tolist())
        media = {name: observations[name][i].copy() for name in ("image", "audio") if name in observations}
        return Sample("observed", 0, text, **media)
