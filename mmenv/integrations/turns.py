"""Episodes turn by turn: one action is a complete response, as text."""

from __future__ import annotations

from typing import Any

from mmenv.envs.text import say
from mmenv.registration import make_unwrapped


class TurnEnv:
    """An id whose actions are texts: a question is one turn, a dialogue as many as it has replies.

    The words are written into the token environment one by one, so that budget, end, reward and gold are the same.
    Words outside the tokenizer's vocabulary become its unknown word; a tokenizer with an open vocabulary
    (``tokenizer=``) accepts any text.

    Args:
        env_id: id of the environment.
        **arguments: as for ``gym.make``.

    Attributes:
        env: the token environment.
    """

    def __init__(self, env_id: str, **arguments: Any) -> None:
        self.env = make_unwrapped(env_id, **arguments)

    def reset(self, *, seed: int | None = None, index: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the draw of samples; None goes on with the generator as it is.
            index: which sample of the split; None draws one.

        Returns:
            ``prompt`` (text; in dialogue the turns so far), ``image`` uint8 (H, W, 3) and ``audio`` float32 (T,) at
            16 kHz without padding, if the task has them; and info with ``sample_index`` and ``sample_id``.
        """
        _, info = self.env.reset(seed=seed, options=None if index is None else {"sample_index": index})
        return self._observe(), info

    def step(self, text: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Give a complete response.

        Args:
            text: cut at the budget, with ``stop`` "budget".

        Returns:
            the next turn, its reward, terminated, truncated, and info with ``response``, ``stop``, ``gold`` if known,
            and ``rewards/<name>``.

        Raises:
            TypeError: ``text`` is not a string.
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
