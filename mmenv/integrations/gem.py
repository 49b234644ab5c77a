"""GEM: every id as an environment of texts, ``gem.make("mmenv/VQA-v0")`` after this module's import."""

from __future__ import annotations

import copy
import functools
from typing import Any

import gymnasium as gym

from mmenv.arguments import require
from mmenv.envs.infos import without_gold
from mmenv.integrations.turns import TurnEnv

with require("gem"):
    import gem


class GemEnv(gem.Env):  # type: ignore[misc, unused-ignore]
    """``TurnEnv`` as a GEM environment; its infos have no gold.

    Args:
        env_id: id of the environment.
        seed: of the first reset without a seed, as in ``gem.make_vec``.
        **arguments: as for ``gym.make``.
    """

    def __init__(self, env_id: str = "mmenv/VQA-v0", seed: int | None = None, **arguments: Any) -> None:
        self.turns, self._made, self._seed = TurnEnv(env_id, **arguments), (env_id, arguments), seed

    def reset(self, seed: int | None = None, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; unlike GEM's own environments it leaves global generators alone."""
        first, self._seed = self._seed, None
        return self.turns.reset(seed=first if seed is None else seed, **options)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Give a complete response."""
        observation, reward, terminated, truncated, info = self.turns.step(action)
        return observation, reward, terminated, truncated, without_gold(info)

    def sample_random_action(self) -> str:
        """A random word of the vocabulary."""
        env = self.turns.env
        return env.tokenizer.decode([int(env.action_space.sample())])

    def spawn(self, same_state: bool = False, **kwargs: Any) -> GemEnv:
        """Another environment of the same id; ``kwargs`` replace its arguments."""
        if same_state:
            return copy.deepcopy(self)
        env_id, arguments = self._made
        return GemEnv(env_id, **{**arguments, **kwargs})


for _id in gym.registry:
    if _id.startswith("mmenv/"):
        gem.register(_id, functools.partial(GemEnv, _id))
