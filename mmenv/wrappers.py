"""Wrappers that pay a reference policy's log-probability per token, scalar and vector.

The KL penalty -beta * (log pi - log pi_ref) has two halves. beta * log pi_ref(a | s) depends on state and action, so
these wrappers can pay it. -beta * log pi(a | s) is an entropy bonus, which is the agent's part. An agent that subtracts
the full penalty itself must refuse a wrapped environment, whose ``reference_beta`` is not 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from torch import Tensor, nn

from mmenv.arguments import ArgumentError
from mmenv.envs.infos import finished
from mmenv.envs.token_env import TokenEnv
from mmenv.envs.token_vector_env import TokenVectorEnv


class ReferenceNetwork(Protocol):
    """The members of a network that the wrappers use; ``mmenv.models.transformer.Network`` has them.

    Attributes:
        config: has ``vocab_size``, ``pad_id`` and ``max_response``, the longest response in tokens.
        forbidden_token_ids: tokens without a probability, padding among them.
    """

    @property
    def config(self) -> Any: ...

    @property
    def forbidden_token_ids(self) -> tuple[int, ...]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def encode(self, observations: Any) -> Any:
        """Encode n contexts, tensors of observations without ``response``, on the network's device."""

    def start(self, prefix: Any, budget: int) -> tuple[Tensor, Any]:
        """Hidden states (n, width) before the first tokens, and a cache with ``replace(rows, cache)``."""

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        """Append tokens (N,); hidden states (N, width) before the next ones."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, width) -> (N, vocab_size)."""


class Reference:
    """A frozen network that follows N lanes token by token, on its own device.

    Args:
        network: the reference policy.
        budget: longest response in tokens.
        temperature: divides the logits, as in the policy.
    """

    def __init__(self, network: ReferenceNetwork, budget: int, temperature: float = 1.0) -> None:
        if budget > network.config.max_response:
            raise ArgumentError(
                f"max_response_tokens={budget} exceeds the reference's longest response {network.config.max_response}"
            )
        self.network = network
        self.budget = budget
        self.temperature = temperature
        self.device = next(network.parameters()).device
        self._forbidden = torch.tensor(network.forbidden_token_ids, device=self.device)
        self._hidden = torch.empty(0)
        self._cache: Any = None

    @torch.no_grad()
    def start(self, observations: dict[str, np.ndarray], lanes: np.ndarray) -> None:
        """Read the contexts of lanes whose episode or reply begins, and what their responses hold already.

        The first call is for all lanes.

        Args:
            observations: arrays of all N lanes.
            lanes: int64 (n,), the lanes that begin.
        """
        hidden, cache = self._read_contexts(observations, lanes)
        if self._cache is None or len(lanes) == len(self._hidden):
            self._hidden, self._cache = hidden, cache
        else:
            self._replace(lanes, hidden, cache)
        lengths = (observations["response"][lanes] != self.network.config.pad_id).sum(1)
        for length in np.unique(lengths[lengths > 0]).tolist():
            behind = lanes[lengths == length]
            hidden, cache = self._read_contexts(observations, behind)
            tokens = torch.from_numpy(observations["response"][behind, :length]).to(self.device)
            for t in range(length):
                hidden = self.network.step(tokens[:, t], cache)
            self._replace(behind, hidden, cache)

    def _read_contexts(self, observations: dict[str, np.ndarray], lanes: np.ndarray) -> tuple[Tensor, Any]:
        contexts = {k: torch.from_numpy(v[lanes]).to(self.device) for k, v in observations.items() if k != "response"}
        return self.network.start(self.network.encode(contexts), self.budget)

    def _replace(self, lanes: np.ndarray, hidden: Tensor, cache: Any) -> None:
        rows = torch.from_numpy(lanes).to(self.device)
        self._cache.replace(rows, cache)
        self._hidden[rows] = hidden

    @torch.no_grad()
    def logp(self, actions: np.ndarray) -> np.ndarray:
        """Log-probabilities of the next tokens, float64 (N,), which are then appended to the responses.

        Forbidden tokens have no probability; they count 0 instead of -inf.

        Args:
            actions: (N,) tokens.
        """
        if self._cache is None:
            raise gym.error.ResetNeeded("no context has begun: call reset() before step()")
        tokens = torch.from_numpy(np.asarray(actions, np.int64)).to(self.device)
        logits = self.network.logits(self._hidden) / self.temperature  # (N, V)
        logits[:, self._forbidden] = -torch.inf
        logp = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        self._hidden = self.network.step(tokens, self._cache)
        return logp.masked_fill(torch.isin(tokens, self._forbidden), 0.0).double().cpu().numpy()


def reference_beta(env: gym.Env | VectorEnv) -> float:
    """The coefficient of the reference's log-probability that an environment pays; 0.0 for an unwrapped one.

    An agent with a KL penalty of its own must refuse an environment where this is not 0, to avoid counting it twice.
    """
    while isinstance(env, gym.Wrapper | VectorWrapper):
        if isinstance(env, ReferenceLogProb | VectorReferenceLogProb):
            return env.beta
        env = env.env
    return 0.0


def _check(env: Any, network: ReferenceNetwork, beta: float) -> None:
    if not isinstance(env.unwrapped, TokenEnv | TokenVectorEnv):
        raise ArgumentError(
            f"env={env!r} is not a token environment of mmenv: wrap one made by gym.make or gym.make_vec"
        )
    vocabulary = env.unwrapped.tokenizer.vocab_size
    if network.config.vocab_size != vocabulary:
        raise ArgumentError(
            f"the network has {network.config.vocab_size} tokens and the environment {vocabulary}: give a network with "
            "the environment's tokenizer"
        )
    if not beta > 0:
        raise ArgumentError(f"beta={beta!r} is not positive: give a positive number, or leave the wrapper out")
    if reference_beta(env):
        raise ArgumentError(f"env={env!r} pays a reference already, which would count twice: wrap it once")


class ReferenceLogProb(gym.Wrapper):
    """Pays ``beta * log pi_ref(a | s)`` with every token; ``info["reference_logp"]`` is the log-probability.

    Args:
        env: a scalar token environment.
        network: the reference policy, with the environment's modalities and vocabulary, on any device.
        beta: > 0, in units of reward a nat.
        temperature: of the policy.

    Raises:
        ArgumentError: ``env`` is not a token environment or pays a reference already, or the network has another
            vocabulary.
    """

    def __init__(self, env: gym.Env, network: ReferenceNetwork, beta: float = 0.05, temperature: float = 1.0) -> None:
        _check(env, network, beta)
        super().__init__(env)
        self.beta = beta
        budget = env.observation_space["response"].shape[0]  # type: ignore[index]
        self._reference = Reference(network, budget, temperature)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        logp = float(self._reference.logp(np.array([action]))[0])
        if "response" in info and not terminated:
            self._begin(observation)
        return observation, float(reward) + self.beta * logp, terminated, truncated, {**info, "reference_logp": logp}

    def _begin(self, observation: dict[str, np.ndarray]) -> None:
        self._reference.start({k: v[None] for k, v in observation.items()}, np.zeros(1, np.int64))


class VectorReferenceLogProb(VectorWrapper):
    """Pays ``beta * log pi_ref(a | s)`` with every token of every lane that is not over.

    ``infos["reference_logp"]`` (N,) holds the log-probabilities, with their mask.

    Arguments and errors are those of ``ReferenceLogProb``, with a vector token environment.
    """

    def __init__(self, env: VectorEnv, network: ReferenceNetwork, beta: float = 0.05, temperature: float = 1.0) -> None:
        _check(env, network, beta)
        super().__init__(env)
        self.beta = beta
        budget = env.single_observation_space["response"].shape[0]  # type: ignore[index]
        self._reference = Reference(network, budget, temperature)
        self._over = np.zeros(env.num_envs, bool)
        self._same_step = env.metadata["autoreset_mode"] is gym.vector.AutoresetMode.SAME_STEP

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        started = infos["_sample_index"]
        self._over[started] = False
        self._reference.start(observations, np.flatnonzero(started))
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        live = ~self._over
        # Ended lanes get token 0; their reset overwrites it.
        logp = np.where(live, self._reference.logp(np.where(live, actions, 0)), 0.0)
        over = terminated | truncated
        started = over.copy() if self._same_step else np.zeros_like(over)
        ended = finished(infos).lanes
        started[ended] |= ~over[ended]
        if started.any():
            self._reference.start(observations, np.flatnonzero(started))
        if not self._same_step:
            self._over = over
        infos = {**infos, "reference_logp": logp, "_reference_logp": live}
        return observations, rewards + self.beta * logp, terminated, truncated, infos
