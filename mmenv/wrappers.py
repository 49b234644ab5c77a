"""Wrappers that pay a reference policy's log-probability per token, scalar and vector.

The KL penalty -beta * (log pi - log pi_ref) has two halves. beta * log pi_ref(a | s) depends on state and action, so
an environment can pay it: that is what stands here. -beta * log pi(a | s) is an entropy bonus, which the agent owns. An
agent that subtracts the whole penalty itself must not act where half of it is paid already: ``reference_beta`` tells.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

from mmenv.arguments import ArgumentError
from mmenv.envs.infos import finished
from mmenv.envs.token_env import TokenEnv
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.models.transformer import Cache, Network


class Reference:
    """A frozen network that follows N lanes token by token.

    Args:
        network: the reference policy.
        budget: longest response in tokens.
        temperature: logits are divided by it, as the policy's are.
    """

    def __init__(self, network: Network, budget: int, temperature: float = 1.0) -> None:
        if budget > network.config.max_response:
            raise ArgumentError(
                f"max_response_tokens={budget} exceeds the reference's longest response {network.config.max_response}"
            )
        self.network, self.budget, self.temperature = network, budget, temperature
        self._hidden = torch.empty(0)
        self._cache: Cache | None = None

    @torch.no_grad()
    def start(self, observations: dict[str, np.ndarray], lanes: np.ndarray) -> None:
        """Read the contexts of ``lanes`` (n,); the first call is of all lanes.

        Args:
            observations: of all N lanes.
            lanes: int64 (n,)
        """
        contexts = {k: torch.from_numpy(v[lanes]) for k, v in observations.items() if k != "response"}
        hidden, cache = self.network.start(self.network.encode(contexts), self.budget)
        if self._cache is None or len(lanes) == len(self._hidden):
            self._hidden, self._cache = hidden, cache
            return
        rows = torch.from_numpy(lanes)
        self._cache.replace(rows, cache)
        self._hidden[rows] = hidden

    @torch.no_grad()
    def logp(self, actions: np.ndarray) -> np.ndarray:
        """Log-probabilities of ``actions``, both (N,), as the responses stand; then the actions are written.

        The mask excludes padding, so it has no probability; an agent that takes it earns nothing for it, not -inf.
        """
        if self._cache is None:
            raise gym.error.ResetNeeded("no context has begun: call reset() before step()")
        tokens, pad = torch.from_numpy(np.asarray(actions, np.int64)), self.network.config.pad_id
        logits = self.network.logits(self._hidden) / self.temperature  # (N, V)
        logits[:, pad] = -torch.inf
        logp = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        self._hidden = self.network.step(tokens, self._cache)
        return logp.masked_fill(tokens == pad, 0.0).double().numpy()


def reference_beta(env: gym.Env | VectorEnv) -> float:
    """How much of a reference's log-probability an environment pays; 0.0 without a wrapper of this module.

    An agent with a KL penalty of its own must refuse an environment where this is not 0: it would count twice.
    """
    while isinstance(env, gym.Wrapper | VectorWrapper):
        if isinstance(env, ReferenceLogProb | VectorReferenceLogProb):
            return env.beta
        env = env.env
    return 0.0


def _check(env: Any, network: Network, beta: float) -> None:
    if not isinstance(env.unwrapped, TokenEnv | TokenVectorEnv):
        raise ArgumentError(f"env={env!r} is no token environment of mmenv: wrap one made by gym.make or gym.make_vec")
    vocabulary = env.unwrapped.tokenizer.vocab_size
    if network.config.vocab_size != vocabulary:
        raise ArgumentError(
            f"network has {network.config.vocab_size} tokens and env {vocabulary}: take one with the env's tokenizer"
        )
    if not beta > 0:
        raise ArgumentError(f"beta={beta!r} is not positive: leave the wrapper out")
    if reference_beta(env):
        raise ArgumentError(f"env={env!r} pays a reference already: counting it twice is refused, wrap once")


class ReferenceLogProb(gym.Wrapper):
    """Pays ``beta * log pi_ref(a | s)`` with every token; ``info["reference_logp"]`` is the log-probability.

    Args:
        env: a scalar token environment.
        network: the reference policy; it reads the environment's modalities and has its vocabulary.
        beta: > 0, in units of reward a nat.
        temperature: the policy's.

    Raises:
        ArgumentError: ``env`` is no token environment, or pays a reference already.
    """

    def __init__(self, env: gym.Env, network: Network, beta: float = 0.05, temperature: float = 1.0) -> None:
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

    Args:
        env: a vector token environment.
        network: the reference policy; it reads the environment's modalities and has its vocabulary.
        beta: > 0, in units of reward a nat.
        temperature: the policy's.

    Raises:
        ArgumentError: ``env`` is no token environment, or pays a reference already.
    """

    def __init__(self, env: VectorEnv, network: Network, beta: float = 0.05, temperature: float = 1.0) -> None:
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
        # Lanes that are over may hold anything; what is written there is overwritten by their reset.
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
