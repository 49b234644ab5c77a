"""The same episodes turn by turn: a whole response is one action, a text."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from mmenv.envs.text import say
from mmenv.envs.token_env import TokenEnv
from mmenv.registration import spec_of


class TurnEnv:
    """An id whose actions are texts: a question is one turn, a dialogue as many as it has replies.

    Its words are written into the token environment one by one, so that budget, end, reward and gold are the same.
    Words that the environment's tokenizer does not have become its unknown word; one with an open vocabulary
    (``tokenizer=``) takes any text.

    Args:
        env_id: id of the environment.
        **arguments: as for ``gym.make``.

    Attributes:
        env: the token environment.
    """

    def __init__(self, env_id: str, **arguments: Any) -> None:
        made: Any = gym.make(spec_of(env_id), **arguments).unwrapped
        self.env: TokenEnv = made

    def reset(self, *, seed: int | None = None, index: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the draw of samples; None goes on with the generator as it is.
            index: which sample of the split; None draws one.

        Returns:
            ``prompt`` (text; in dialogue the turns so far), ``image`` uint8 (H, W, 3) and ``audio`` float32 (T,) at
            16 kHz without padding, as far as the task has them; and info with ``sample_index`` and ``sample_id``.
        """
        _, info = self.env.reset(seed=seed, options=None if index is None else {"sample_index": index})
        return self._observe(), info

    def step(self, text: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Say a text to its end.

        Args:
            text: one that is longer than the budget is cut there, and ``stop`` says so.

        Returns:
            the next turn, its reward, terminated, truncated, and info with ``response``, ``stop``, ``gold`` where it is
            known, and ``rewards/<name>``.

        Raises:
            TypeError: ``text`` is no string.
            ResetNeeded: the episode is over or has not begun.
        """
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is {type(text).__name__}: a turn is a text, tokens go to gym.make's environment")
        _, reward, terminated, truncated, info = say(self.env, text)
        return self._observe(), reward, terminated, truncated, info

    def _observe(self) -> dict[str, Any]:
        sample = self.env.sample
        media = {"image": sample.image, "audio": sample.audio}
        return {"prompt": sample.prompt, **{name: x.copy() for name, x in media.items() if x is not None}}
