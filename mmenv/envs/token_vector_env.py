"""The native vector face: many episodes as arrays, one batched reward call for the lanes that end in a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mmenv.arguments import ArgumentError, ArgumentTypeError, boolean, positive, refuse_unknown
from mmenv.data.sample import Response, Sample
from mmenv.envs import dynamics
from mmenv.envs.infos import report, split_off
from mmenv.envs.setup import ARGUMENTS, Judged, Setup
from mmenv.envs.view import EpisodeView
from mmenv.rewards.base import RewardFunction
from mmenv.tasks.base import Task

VECTOR_ARGUMENTS = (*ARGUMENTS, "autoreset_mode", "copy", "max_episode_steps")


class TokenVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """``num_envs`` lanes of a task; lane i of ``reset(seed=s)`` is the scalar env reset with seed s + i.

    Args:
        task: a task, or a function of (dataset, image_size, tokenizer) that makes one.
        num_envs: number of lanes N.
        autoreset_mode: SAME_STEP (an ended lane starts anew within the step) or DISABLED (it waits for ``reset``).
        copy: whether observations are the caller's own; with False they change with the next step.
        max_episode_steps: a lane is truncated, unpaid, after so many steps.
        **arguments: see ``Setup``; anything else is refused by name.

    Attributes:
        samples: what each lane responds to.
        lengths: int64 (N,), tokens of each lane's response; changes in place.

    Raises:
        ArgumentError: names the argument, its value and the remedy.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        task: Task | Callable[..., Task],
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        copy: bool = True,
        max_episode_steps: int | None = None,
        **arguments: Any,
    ) -> None:
        refuse_unknown("the vector environment", arguments, VECTOR_ARGUMENTS)
        self.num_envs, self.copy = positive("num_envs", num_envs), boolean("copy", copy)
        self.autoreset_mode = _autoreset(autoreset_mode)
        self.max_episode_steps = None if max_episode_steps is None else positive("max_episode_steps", max_episode_steps)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.setup = setup = Setup(task, **arguments)
        self.single_observation_space, self.single_action_space = setup.observation_space, setup.action_space
        self.observation_space = batch_space(setup.observation_space, num_envs)
        self.action_space = batch_space(setup.action_space, num_envs)
        self.render_mode, self.task, self.tokenizer = setup.render_mode, setup.task, setup.tokenizer
        self._same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        self._arrays = setup.empty(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)
        self.samples: list[Sample] = []
        self._indices, self._steps = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        # Lanes whose episode is over; under SAME_STEP none stays so.
        self._over, self._truncated = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        self._begun = False
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._all = np.arange(num_envs)
        # Replies that are over, by lane; kept only for rendering.
        self._history: dict[int, tuple[EpisodeView, ...]] = {}

    @property
    def reward_function(self) -> RewardFunction:
        """Who says how good a response was."""
        return self.setup.reward_function

    def action_masks(self) -> np.ndarray:
        """(N, V) bool: which tokens may be taken now."""
        return dynamics.action_masks(self.num_envs, self.setup.vocab_size, self.setup.pad_id)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode in every lane.

        Args:
            seed: lane i draws with ``seed + i``, or with ``seed[i]``; None goes on with the generators as they are.
            options: ``sample_index`` (N integers) picks the samples; under DISABLED, ``reset_mask`` (N bools) says
                which lanes start anew while the others stay as they are.
        """
        options = options or {}
        refuse_unknown("reset", options, ("sample_index", "reset_mask"))
        lanes = self._lanes(options.get("reset_mask"))
        indices = options.get("sample_index")
        chosen = None if indices is None else self._chosen(indices, lanes)
        self._seed(seed, lanes)
        self._start(lanes, self._draw(lanes) if chosen is None else chosen)
        return self._observe(), self._with_masks(self._reset_infos(lanes))

    def step(self, actions: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Write one token in every lane that is not over.

        Args:
            actions: (N,) integers; those of lanes that are over are not looked at.

        Raises:
            InvalidAction: no integers, a wrong shape, or outside the vocabulary; names lane and value.
            ResetNeeded: no episode has begun or all are over.
        """
        waiting = self._over.any()
        if not self._begun or (waiting and self._over.all()):
            raise ResetNeeded("every episode is over or none has begun: call reset() before step()")
        live = np.flatnonzero(~self._over) if waiting else self._all
        setup, tokens = self.setup, self._checked(actions, live)
        ended, stopped = dynamics.write(self._arrays["response"], self.lengths, live, tokens, setup.ends, setup.pad_id)
        rewards, over = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        truncated = np.zeros(self.num_envs, bool)
        infos: dict[str, Any] = {}
        self._steps[live] += 1
        if ended.any():
            lanes = live[ended]
            over[lanes], rewards[lanes] = self._finish(lanes, stopped[ended], infos)
        if self.max_episode_steps is not None:
            truncated[live] = ~over[live] & (self._steps[live] >= self.max_episode_steps)
        return (
            self._same(rewards, over, truncated, infos)
            if self._same_step
            else self._wait(rewards, over, truncated, infos)
        )

    def _same(
        self, rewards: np.ndarray, over: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """SAME_STEP: lanes that are over start anew; what belonged to them goes under ``final_*``."""
        gone = over | truncated
        if gone.any():
            lanes = np.flatnonzero(gone)
            infos, final = split_off(infos, gone)
            self._with_masks(final["final_info"], gone)
            final["final_obs"] = self._final_observations(lanes)
            self._start(lanes, self._draw(lanes))
            infos.update(self._reset_infos(lanes))
            for key, value in final.items():
                infos[key], infos[f"_{key}"] = value, gone.copy()
        return self._observe(), rewards, over, truncated, self._with_masks(infos)

    def _wait(
        self, rewards: np.ndarray, over: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """DISABLED: lanes that are over say so until they are reset."""
        self._over |= over | truncated
        self._truncated |= truncated
        terminated = self._over & ~self._truncated
        return self._observe(), rewards, terminated, self._truncated.copy(), self._with_masks(infos)

    def _finish(self, lanes: np.ndarray, stopped: np.ndarray, infos: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Judge the responses of ``lanes`` (n,); start the next reply where a dialogue goes on.

        Returns:
            which episodes are over (n,), and what the responses earned (n,)
        """
        self._begun = False  # until all went well: where the reward raises, the episodes cannot go on
        setup, rows, lengths = self.setup, self._arrays["response"], self.lengths[lanes].tolist()
        samples = [self.samples[i] for i in lanes.tolist()]
        responses = [
            setup.response(row, n, s) for row, n, s in zip(rows[lanes], lengths, stopped.tolist(), strict=True)
        ]
        judged = setup.judge(samples, responses)
        report(infos, self.num_envs, lanes, responses, judged.gold, judged.parts)
        if self.render_mode is not None:
            self._remember(lanes, samples, responses, judged)
        follow_up = self.task.follow_up
        following = [follow_up(s, r) for s, r in zip(samples, responses, strict=True)]
        over = np.array([f is None for f in following])
        if not over.all():
            self._go_on(lanes[~over], [f for f in following if f is not None])
        self._begun = True
        return over, judged.scores

    def _go_on(self, lanes: np.ndarray, samples: list[Sample]) -> None:
        """Put ``samples`` before ``lanes``, with empty responses."""
        for lane, sample in zip(lanes.tolist(), samples, strict=True):
            self.setup.place(self._arrays, lane, sample)
            self.samples[lane] = sample
        dynamics.clear(self._arrays["response"], self.lengths, lanes, self.setup.pad_id)

    def _start(self, lanes: np.ndarray, indices: list[int]) -> None:
        """Begin the episodes of ``indices`` in ``lanes``."""
        self._begun = False  # until all went well: where a sample cannot be made, every lane has to be reset
        sample_of, split = self.task.sample, self.setup.split
        # Lanes that are given the same index share the sample.
        made = {i: sample_of(split, i) for i in dict.fromkeys(indices)}
        samples = [made[i] for i in indices]
        self.samples = self.samples or samples  # the first reset is of all lanes
        self._go_on(lanes, samples)
        self._indices[lanes] = indices
        self._steps[lanes] = 0
        self._over[lanes] = self._truncated[lanes] = False
        if self._history:
            for lane in lanes.tolist():
                self._history.pop(lane, None)
        self._begun = True

    def _draw(self, lanes: np.ndarray) -> list[int]:
        """A sample index from each lane's own generator, as the scalar env draws it."""
        size, generators = self.setup.size, self._generators
        return [int(generators[i].integers(size)) for i in lanes.tolist()]

    def _seed(self, seed: int | Sequence[int | None] | None, lanes: np.ndarray) -> None:
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + i for i in range(self.num_envs)]
        seeds: list[int | None] = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ArgumentError(f"seed has {len(seeds)} numbers for {self.num_envs} lanes: give one each")
        for lane in lanes.tolist():
            if seeds[lane] is not None or self._generators[lane] is None:
                self._generators[lane], seeds[lane] = seeding.np_random(seeds[lane])
        if seed is not None:
            self._np_random, self._np_random_seed = self._generators[0], seeds[0]

    def _lanes(self, mask: Any) -> np.ndarray:
        """The lanes that ``reset_mask`` restarts; all of them without it."""
        if mask is None:
            return self._all
        array = np.asarray(mask)
        if self._same_step:
            raise ArgumentError("reset_mask is for autoreset_mode='Disabled': under SAME_STEP lanes restart themselves")
        if array.shape != (self.num_envs,) or array.dtype != bool:
            raise ArgumentTypeError(f"reset_mask={mask!r} must be {self.num_envs} bools")
        if not array.any():
            raise ArgumentError(f"reset_mask={mask!r} restarts no lane: leave the reset out")
        if not self._begun and not array.all():
            raise ResetNeeded("no lane has begun, or one failed: reset all of them first, without reset_mask")
        return np.flatnonzero(array)

    def _chosen(self, indices: Any, lanes: np.ndarray) -> list[int]:
        """The samples for ``lanes``, given one for each of the N lanes."""
        array = np.asarray(indices)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise ArgumentTypeError(f"sample_index={indices!r} must be {self.num_envs} integers, one a lane")
        return [self.setup.check_index(i) for i in array[lanes].tolist()]

    def _checked(self, actions: Any, live: np.ndarray) -> np.ndarray:
        """The actions of the lanes that are not over, int64 (n,)."""
        array, n = np.asarray(actions), self.setup.vocab_size
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise InvalidAction(
                f"actions {_shown(actions)} are {array.dtype} of shape {array.shape}: give {self.num_envs} integers"
            )
        tokens = array if live is self._all else array[live]
        if tokens.min() < 0 or tokens.max() >= n:
            i = int(np.flatnonzero((tokens < 0) | (tokens >= n))[0])
            raise InvalidAction(
                f"action {tokens[i]} of lane {live[i]} is outside [0, {n}): does the policy use another tokenizer?"
            )
        return tokens.astype(np.int64, copy=False)

    def _observe(self) -> dict[str, np.ndarray]:
        if not self.copy:
            return dict(self._arrays)
        return {key: rows.copy() for key, rows in self._arrays.items()}

    def _final_observations(self, lanes: np.ndarray) -> np.ndarray:
        """Object (N,): the last observation of each of ``lanes``, rows of one copy made for all of them."""
        keys, rows = list(self._arrays), [x[lanes] for x in self._arrays.values()]
        final = np.full(self.num_envs, None, object)
        final[lanes] = [dict(zip(keys, values, strict=True)) for values in zip(*rows, strict=True)]
        return final

    def _reset_infos(self, lanes: np.ndarray) -> dict[str, Any]:
        index, ids = np.zeros(self.num_envs, np.int64), np.full(self.num_envs, None, object)
        mask = np.zeros(self.num_envs, bool)
        mask[lanes] = True
        index[lanes] = self._indices[lanes]
        ids[lanes] = [self.samples[i].id for i in lanes.tolist()]
        return {"sample_index": index, "_sample_index": mask, "sample_id": ids, "_sample_id": mask.copy()}

    def _with_masks(self, infos: dict[str, Any], lanes: np.ndarray | None = None) -> dict[str, Any]:
        """Add the action masks of ``lanes`` (N,) bool, or of all, where they are asked for."""
        if self.setup.action_masking:
            given = np.ones(self.num_envs, bool) if lanes is None else lanes.copy()
            # int8 is what Discrete.sample takes.
            infos["action_mask"], infos["_action_mask"] = self.action_masks().astype(np.int8), given
        return infos

    def _remember(self, lanes: np.ndarray, samples: list[Sample], responses: list[Response], judged: Judged) -> None:
        for k, lane in enumerate(lanes.tolist()):
            gold = None if np.isnan(judged.gold[k]) else float(judged.gold[k])
            reply = EpisodeView(
                samples[k], samples[k].prompt, responses[k].text, responses[k].stop, float(judged.scores[k]), gold,
                {name: float(part[k]) for name, part in judged.parts.items()},
                len(responses[k].tokens), self.setup.budget,
            )  # fmt: skip
            self._history[lane] = (*self._history.get(lane, ()), reply)

    def view(self, lane: int = 0) -> EpisodeView:
        """A lane's episode as a person should see it; replies that are over are known where there is a render mode.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if not self.samples:
            raise ResetNeeded("no episode has begun: call reset() before render()")
        history = self._history.get(lane, ())
        if self._over[lane] and not self._truncated[lane] and history:
            return dataclasses.replace(history[-1], history=history[:-1])
        row = self._arrays["response"][lane]
        return self.setup.view(self.samples[lane], row, int(self.lengths[lane]), history)

    def render(self) -> Any:
        """Every lane's picture or text, a tuple of N as in Gymnasium's ``SyncVectorEnv``."""
        if self.render_mode is None:
            return None
        from mmenv.envs.rendering import render_ansi, render_frame

        draw: Callable[[EpisodeView], Any] = render_ansi if self.render_mode == "ansi" else render_frame
        return tuple(draw(self.view(i)) for i in range(self.num_envs))


def _shown(actions: Any) -> str:
    text = repr(actions)
    return text if len(text) < 200 else f"{text[:200]}..."


def _autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    """The enum, or its name or value in any case; NEXT_STEP is refused."""
    names = {m.name.lower(): m for m in AutoresetMode} | {m.value.lower(): m for m in AutoresetMode}
    found = mode if isinstance(mode, AutoresetMode) else names.get(str(mode).lower())
    if found is None:
        raise ArgumentError(f"autoreset_mode={mode!r} is none of 'SameStep', 'Disabled': give one of these")
    if found is AutoresetMode.NEXT_STEP:
        raise ArgumentError(
            "autoreset_mode=NEXT_STEP is not offered: it spends a step that writes no token; use SAME_STEP or "
            "DISABLED, or Gymnasium's SyncVectorEnv: gym.make_vec(..., vectorization_mode='sync')"
        )
    return found
