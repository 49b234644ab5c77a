"""OpenEnv: an id behind a server whose clients respond with text.

uvicorn --factory mmenv.integrations.openenv:vqa

serves ``mmenv/VQA-v0``; for another id or other arguments write a function that returns ``app(...)``.
"""

from __future__ import annotations

import base64
import io
from functools import partial
from typing import Any

import soundfile
from PIL import Image

from mmenv.arguments import refuse_unknown, require
from mmenv.data.media import RATE
from mmenv.envs.infos import without_gold
from mmenv.integrations.turns import TurnEnv

with require("openenv"):
    from fastapi import FastAPI
    from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app


class Say(Action):  # type: ignore[misc, unused-ignore]
    """The response of a turn."""

    text: str


class Turn(Observation):  # type: ignore[misc, unused-ignore]
    """The turn to respond to; ``metadata`` is the environment's info without gold, which no client sees.

    Attributes:
        prompt: text, in dialogue the turns so far.
        image: a PNG in base64.
        audio: a FLAC at 16 kHz in base64.
    """

    prompt: str
    image: str | None = None
    audio: str | None = None


class TurnServer(Environment[Say, Turn, State]):  # type: ignore[misc, unused-ignore]
    """``TurnEnv`` for OpenEnv's server, one environment for each session.

    Args:
        env_id: id of the environment.
        **arguments: as for ``gym.make``.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env_id: str, **arguments: Any) -> None:
        super().__init__()
        self.turns, self._state = TurnEnv(env_id, **arguments), State()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, index: int | None = None, **others: Any
    ) -> Turn:
        """Start an episode; ``index`` picks the sample.

        Raises:
            ArgumentError: a client sent another argument, which OpenEnv passes on.
        """
        refuse_unknown("reset", others, ("seed", "episode_id", "index"))
        observation, info = self.turns.reset(seed=seed, index=index)
        self._state = State(episode_id=episode_id or info["sample_id"])
        return Turn(**_encoded(observation), metadata=without_gold(info))

    def step(self, action: Say, timeout_s: float | None = None, request_id: str | None = None, **others: Any) -> Turn:
        """Give a complete response.

        Raises:
            ArgumentError: a client sent another argument, which OpenEnv passes on.
        """
        refuse_unknown("step", others, ("action", "timeout_s", "request_id"))
        observation, reward, terminated, truncated, info = self.turns.step(action.text)
        self._state.step_count += 1
        return Turn(**_encoded(observation), reward=reward, done=terminated or truncated, metadata=without_gold(info))

    @property
    def state(self) -> State:
        """Id of the episode and number of its turns so far."""
        return self._state


def app(env_id: str, sessions: int = 64, **arguments: Any) -> FastAPI:
    """A server of an id.

    Args:
        env_id: id of the environment.
        sessions: most simultaneous clients; they share data and reward models.
        **arguments: as for ``gym.make``.
    """
    return create_fastapi_app(partial(TurnServer, env_id, **arguments), Say, Turn, max_concurrent_envs=sessions)


def vqa() -> FastAPI:
    """``mmenv/VQA-v0``."""
    return app("mmenv/VQA-v0")


def _encoded(observation: dict[str, Any]) -> dict[str, str]:
    """An observation as text: media as files in base64."""
    encoded = {"prompt": observation["prompt"]}
    file = io.BytesIO()
    if "image" in observation:
        Image.fromarray(observation["image"]).save(file, "PNG")
        encoded["image"] = base64.b64encode(file.getvalue()).decode()
    if "audio" in observation:
        file = io.BytesIO()
        soundfile.write(file, observation["audio"], RATE, format="FLAC", subtype="PCM_16")
        encoded["audio"] = base64.b64encode(file.getvalue()).decode()
    return encoded
