"""The scalar environment: one episode as a ``gymnasium.Env``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded

from mmenv.arguments import refuse_unknown
from mmenv.data.sample import Response, Sample
from mmenv.envs import dynamics
from mmenv.envs.episode import ARGUMENTS, EpisodeSpec, padding_error
from mmenv.envs.view import EpisodeView
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.tokens import TokenRewards
from mmenv.tasks.base import Task

_LANE = np.zeros(1, np.int64)


class TokenEnv(gym.Env[dict[str, Any], np.int64]):
    """One response, or one dialogue, token by token.

    Args:
        task: a task, or a function of (dataset, image_size, tokenizer) that makes one.
        **arguments: see ``EpisodeSpec``.

    Raises:
        ArgumentError: names the argument, its value and the remedy.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, task: Task | Callable[..., Task], **arguments: Any) -> None:
        refuse_unknown("the environment", arguments, ARGUMENTS)
        spec = EpisodeSpec(task, **arguments)
        self.episode_spec = spec
        self.observation_space = spec.observation_space
        self.action_space = spec.action_space
        self.render_mode = spec.render_mode
        self.task = spec.task
        self.tokenizer = spec.tokenizer
        self._arrays = spec.encoder.empty(1)
        self._lengths = np.zeros(1, np.int64)
        self._sample: Sample | None = None
        self._over = True
        self._judged: EpisodeView | None = None  # the last reply of an episode that is over
        self._history: tuple[EpisodeView, ...] = ()

    @property
    def reward_function(self) -> RewardFunction:
        """The reward function of the environment."""
        return self.episode_spec.reward_function

    @property
    def sample(self) -> Sample:
        """The sample of the present reply; after the end, of the last one.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if self._sample is None:
            raise ResetNeeded("no episode has begun: call reset()")
        return self._sample

    def action_masks(self) -> np.ndarray:
        """(V,) bool: which tokens may be taken now."""
        return dynamics.action_masks(1, self.episode_spec.vocab_size, self.episode_spec.pad_id)[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the draw of samples; None continues with the present generator.
            options: ``"sample_index"`` picks the sample; ``"response"``, a sequence of fewer tokens than the budget,
                is what the first response begins with: the episode goes on behind it as if these tokens had been
                taken, and its score, gold and ``info["response"]`` are those of the full response. ``"replies"``, a
                sequence of complete replies as tokens, is what was said in earlier turns of a dialogue: the episode
                begins at the turn after them, and they are neither scored nor paid.

        Raises:
            ArgumentError: names the option, its value and the remedy.
        """
        super().reset(seed=seed)
        options = options or {}
        refuse_unknown("reset", options, ("sample_index", "replies", "response"))
        spec, index = self.episode_spec, options.get("sample_index")
        replies, prefix = spec.check_replies(options.get("replies", ())), spec.check_prefix(options.get("response", ()))
        index = int(self.np_random.integers(spec.size)) if index is None else spec.check_index(index)
        self._over = True  # stays so if the sample cannot be made: then there is no episode
        self._judged, self._history = None, ()
        sample = spec.sample_after(index, replies)
        self._begin(sample)
        dynamics.prefill(self._arrays["response"], self._lengths, 0, prefix)
        return self._observe(), self._info({"sample_index": index, "sample_id": sample.id})

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Write one token.

        Raises:
            InvalidAction: the action is not a token of the vocabulary, or is padding, which is masked.
            ResetNeeded: the episode is over or has not begun.
        """
        sample, spec = self._sample, self.episode_spec
        if self._over or sample is None:
            raise ResetNeeded("the episode is over or has not begun: call reset() before step()")
        if not self.action_space.contains(action):
            raise InvalidAction(
                f"action {action!r} is not an integer in [0, {spec.vocab_size}): does the policy use another tokenizer?"
            )
        if action == spec.pad_id:
            raise padding_error(action)
        row = self._arrays["response"]
        ended, stopped = dynamics.write(row, self._lengths, _LANE, np.array([action]), spec.ends)
        if not (ended[0] or spec.pays_tokens):
            return self._observe(), 0.0, False, False, self._info({})
        response = spec.response(row[0], int(self._lengths[0]), bool(stopped[0]))
        self._over = True  # also if the reward raises: such an episode cannot continue
        tokens, paid = None, 0.0
        if spec.pays_tokens:
            tokens, last = spec.token_rewards([sample], [response])
            paid = float(last[0])
        if ended[0]:
            return self._end(sample, response, tokens, paid)
        self._over = False
        return self._observe(), paid, False, False, self._info({})

    def _end(
        self, sample: Sample, response: Response, tokens: TokenRewards | None, paid: float
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Judge a response, whose last token was ``paid`` for; begin the next reply where a dialogue continues."""
        following = self.task.follow_up(sample, response)
        judgement = self.episode_spec.judge([sample], [response], np.array([following is None]), tokens)
        judged = self.episode_spec.judged_view(sample, response, judgement, 0)
        info: dict[str, Any] = {"response": response.text, "stop": response.stop}
        if sample.family:
            info["family"] = sample.family
        if judged.gold is not None:
            info["gold"] = judged.gold
        # One response has the parts that its own gold has, so none is nan.
        info.update({f"gold/{name}": float(part[0]) for name, part in judgement.gold_parts.items()})
        info.update({f"rewards/{name}": value for name, value in judged.components.items()})
        if following is None:
            self._judged = judged
        else:
            self._history = (*self._history, judged)
            self._begin(following)
        return self._observe(), paid + float(judgement.scores[0]), self._over, False, self._info(info)

    def _begin(self, sample: Sample) -> None:
        self._sample = sample
        self.episode_spec.encoder.write(self._arrays, 0, sample)
        dynamics.clear(self._arrays["response"], self._lengths, _LANE, self.episode_spec.pad_id)
        self._over = False

    def _observe(self) -> dict[str, np.ndarray]:
        return {key: rows[0].copy() for key, rows in self._arrays.items()}

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        if self.episode_spec.action_masking:
            info["action_mask"] = self.action_masks().astype(np.int8)  # the dtype that Discrete.sample takes
        return info

    def view(self) -> EpisodeView:
        """The episode for rendering.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if self._sample is None:
            raise ResetNeeded("no episode has begun: call reset() before render()")
        if self._judged is not None:
            return dataclasses.replace(self._judged, history=self._history)
        return self.episode_spec.view(self._sample, self._arrays["response"][0], int(self._lengths[0]), self._history)

    def render(self) -> Any:
        """An image, uint8 (H, W, 3), in ``"rgb_array"`` mode; text in ``"ansi"`` mode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode: pass render_mode='rgb_array' or 'ansi'")
            return None
        from mmenv.envs.rendering import render_ansi, render_frame

        return render_ansi(self.view()) if self.render_mode == "ansi" else render_frame(self.view())
