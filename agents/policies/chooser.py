"""Best of n as a policy: of n sampled responses it plays the one with the best score.

It sees what an agent sees, observations and the reward model, so that it plays any environment through ``act``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from agents.policies.token_policy import TokenPolicy
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.rewards.base import GoldReward
from mmenv.rewards.tokens import returns

MAX_RESPONSES = 4096  # sampled side by side


class PlannedResponse(NamedTuple):
    """The chosen response of every lane, int64 (N, R), and the number of its tokens that were played, (N,)."""

    tokens: np.ndarray
    at: np.ndarray


class Chooser:
    """Samples n responses to a context at its start and plays the best of them token by token.

    Args:
        policy: samples.
        env: gives the reward and the tokenizer.
        n: responses to choose among.
        generator: source of randomness; None takes torch's global one.

    Raises:
        ValueError: the reward is gold, which no agent may see.
    """

    def __init__(self, policy: TokenPolicy, env: TokenVectorEnv, n: int, generator: torch.Generator | None) -> None:
        if isinstance(env.reward_function, GoldReward):
            raise ValueError("reward='gold': best-of-n scores what an agent sees; give it a preference model")
        self.policy = policy
        self.reward = env.reward_function
        self.tokenizer = env.tokenizer
        self.n = n
        self.generator = generator

    def act(
        self, observations: Mapping[str, np.ndarray], state: PlannedResponse | None, starts: np.ndarray
    ) -> tuple[np.ndarray, PlannedResponse]:
        """One token for every lane, as ``mmenv.evaluate`` calls it."""
        lanes = np.flatnonzero(starts)
        budget = self.policy.budget
        if state is None:
            state = PlannedResponse(
                np.full((len(starts), budget), self.tokenizer.pad_id), np.zeros(len(starts), np.int64)
            )
        if len(lanes):
            state.tokens[lanes] = self.choose({k: v[lanes] for k, v in observations.items()})
            state.at[lanes] = 0
        actions = state.tokens[np.arange(len(starts)), np.minimum(state.at, budget - 1)]
        return actions, PlannedResponse(state.tokens, state.at + 1)

    def choose(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """The best of n responses to each of K contexts, int64 (K, R), padded."""
        size = max(1, MAX_RESPONSES // self.n)  # contexts at a time
        starts = range(0, len(observations["prompt"]), size)
        parts = [{name: x[i : i + size] for name, x in observations.items()} for i in starts]
        return np.concatenate([self._best(part) for part in parts])

    @torch.inference_mode()
    def _best(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        k = len(observations["prompt"])
        tokens = self.write(observations)  # (K n, R)
        responses = [self.response(row) for row in tokens]
        contexts = [self._sample(i, observations) for i in range(k)]
        samples = [context for context in contexts for _ in range(self.n)]
        scores = returns(self.reward, samples, responses).reshape(k, self.n)
        return tokens.reshape(k, self.n, -1)[np.arange(k), scores.argmax(1)]

    def write(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """n responses to each of K contexts, int64 (K n, R), padded."""
        policy = copy.copy(self.policy)
        policy.generator = self.generator
        device = policy.device
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
        """A context as a sample that holds no more than was observed."""
        prompt = observations["prompt"][i]
        text = self.tokenizer.decode(prompt[prompt != self.tokenizer.pad_id].tolist())
        media = {name: observations[name][i].copy() for name in ("image", "audio") if name in observations}
        return Sample("observed", 0, text, **media)
