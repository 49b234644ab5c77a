"""A text as actions of a token environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np


def say(env: gym.Env, response: str | Sequence[int]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Write a response token by token until it ends.

    Args:
        env: a scalar environment of mmenv, reset before; it may be wrapped.
        response: a text, or tokens that go on where the response has got to. The end token is written behind them; what
            is longer than the budget is cut there.

    Returns:
        the last observation, the sum of the rewards, terminated, truncated and the last info, with ``response``,
        ``stop`` and, where it is known, ``gold``.

    Raises:
        gymnasium.error.ResetNeeded: the episode is over or has not begun.
    """
    tokenizer = env.get_wrapper_attr("tokenizer")
    tokens = tokenizer.encode(response) if isinstance(response, str) else response
    total = 0.0
    for token in (*tokens, tokenizer.end_id):
        observation, reward, terminated, truncated, info = env.step(np.int64(token))
        total += float(reward)
        if "stop" in info:
            break
    return observation, total, terminated, truncated, info
