"""The native vector environment: many episodes as arrays, one batched reward call for the lanes that end in a step."""

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
from mmenv.envs.episode import ARGUMENTS, EpisodeSpec, padding_error
from mmenv.envs.infos import add_response_infos, split_final_infos
from mmenv.envs.judging import Judged
from mmenv.envs.view import EpisodeView
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.tokens import TokenRewards
from mmenv.tasks.base import Task

Replies = tuple[tuple[int, ...], ...]  # earlier replies of an episode, as tokens
VECTOR_ARGUMENTS = (*ARGUMENTS, "autoreset_mode", "copy", "max_episode_steps")


class TokenVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """``num_envs`` lanes of a task; lane i of ``reset(seed=s)`` is the scalar env reset with seed s + i.

    Args:
        task: a task, or a function of (dataset, image_size, tokenizer) that makes one.
        num_envs: number of lanes N.
        autoreset_mode: SAME_STEP (an ended lane is reset within the step) or DISABLED (it waits for ``reset``).
        copy: whether observations are copies; with False the next step changes them in place.
        max_episode_steps: number of steps after which a lane is truncated, without a reward; None for no limit.
        **arguments: see ``EpisodeSpec``.

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
        spec = EpisodeSpec(task, **arguments)
        self.episode_spec = spec
        self.single_observation_space, self.single_action_space = spec.observation_space, spec.action_space
        self.observation_space = batch_space(spec.observation_space, num_envs)
        self.action_space = batch_space(spec.action_space, num_envs)
        self.render_mode, self.task, self.tokenizer = spec.render_mode, spec.task, spec.tokenizer
        self._same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        self._arrays = spec.encoder.empty(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)
        self.samples: list[Sample] = []
        self._indices, self._steps = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        # Lanes whose episode is over; under SAME_STEP they are reset within the step.
        self._over, self._truncated = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        self._usable = False  # every lane has an episode, and no call has failed since it began
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._all = np.arange(num_envs)
        # Ended replies by lane, for rendering only.
        self._history: dict[int, tuple[EpisodeView, ...]] = {}

    @property
    def reward_function(self) -> RewardFunction:
        """The reward function of the environment."""
        return self.episode_spec.reward_function

    def action_masks(self) -> np.ndarray:
        """(N, V) bool: which tokens may be taken now."""
        return dynamics.action_masks(self.num_envs, self.episode_spec.vocab_size, self.episode_spec.pad_id)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode in every lane.

        Args:
            seed: seed of lane i is ``seed + i`` or ``seed[i]``; None continues with the present generators.
            options: ``sample_index`` (N integers) picks the samples; ``response`` (N sequences of tokens, each shorter
                than the budget, perhaps empty) holds what is already written, ``replies`` (N sequences of replies) what
                was said in earlier turns, see ``TokenEnv.reset``; under DISABLED, ``reset_mask`` (N bools) says which
                lanes to reset; the others keep their episode, and their entries of the other options are ignored.

        Raises:
            ArgumentError: names the option, its value and the remedy.
            ResetNeeded: ``reset_mask`` leaves out lanes that have no episode to go on with.
        """
        options = options or {}
        refuse_unknown("reset", options, ("sample_index", "replies", "response", "reset_mask"))
        lanes = self._lanes_of_mask(options.get("reset_mask"))
        indices = options.get("sample_index")
        chosen = None if indices is None else self._sample_indices(indices, lanes)
        replies = self._replies(options["replies"], lanes) if "replies" in options else None
        prefixes = self._prefixes(options["response"], lanes) if "response" in options else []
        self._seed(seed, lanes)
        self._start_episodes(lanes, self._draw_indices(lanes) if chosen is None else chosen, replies)
        for lane, tokens in zip(lanes.tolist(), prefixes):
            dynamics.prefill(self._arrays["response"], self.lengths, lane, tokens)
        return self._observe(), self._with_masks(self._reset_infos(lanes))

    def step(self, actions: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Write one token in every lane that is not over.

        Args:
            actions: (N,) integers; those of lanes that are over are ignored.

        Raises:
            InvalidAction: not integers, a wrong shape, outside the vocabulary, or padding, which is masked; names
                lane and value.
            ResetNeeded: no episode has begun or all are over.
        """
        some_over = self._over.any()
        if not self._usable or (some_over and self._over.all()):
            raise ResetNeeded("every episode is over or none has begun: call reset() before step()")
        live = np.flatnonzero(~self._over) if some_over else self._all
        spec, tokens = self.episode_spec, self._check_actions(actions, live)
        ended, stopped = dynamics.write(self._arrays["response"], self.lengths, live, tokens, spec.ends)
        rewards, over = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        truncated = np.zeros(self.num_envs, bool)
        infos: dict[str, Any] = {}
        self._steps[live] += 1
        paid = None
        if spec.pays_tokens:
            paid, rewards[live] = self._pay_tokens(live, stopped)
        if ended.any():
            lanes = live[ended]
            paid = None if paid is None else paid.select(ended)
            over[lanes], scores = self._finish(lanes, stopped[ended], infos, paid)
            rewards[lanes] += scores
        if self.max_episode_steps is not None:
            truncated[live] = ~over[live] & (self._steps[live] >= self.max_episode_steps)
        if self._same_step:
            return self._reset_ended(rewards, over, truncated, infos)
        return self._wait_for_reset(rewards, over, truncated, infos)

    def _reset_ended(
        self, rewards: np.ndarray, over: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """SAME_STEP: reset ended lanes; their last observations and infos go under ``final_*``."""
        ended = over | truncated
        if ended.any():
            lanes = np.flatnonzero(ended)
            infos, final = split_final_infos(infos, ended)
            self._with_masks(final["final_info"], ended)
            final["final_obs"] = self._final_observations(lanes)
            self._start_episodes(lanes, self._draw_indices(lanes))
            infos.update(self._reset_infos(lanes))
            for key, value in final.items():
                infos[key], infos[f"_{key}"] = value, ended.copy()
        return self._observe(), rewards, over, truncated, self._with_masks(infos)

    def _wait_for_reset(
        self, rewards: np.ndarray, over: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """DISABLED: ended lanes report their end until they are reset."""
        self._over |= over | truncated
        self._truncated |= truncated
        terminated = self._over & ~self._truncated
        return self._observe(), rewards, terminated, self._truncated.copy(), self._with_masks(infos)

    def _pay_tokens(self, lanes: np.ndarray, stopped: np.ndarray) -> tuple[TokenRewards, np.ndarray]:
        """What the reward pays at the tokens of ``lanes`` (n,), and float32 (n,), what at the last ones."""
        self._usable = False  # stays so if the reward raises: these episodes cannot continue
        paid = self.episode_spec.token_rewards(*self._written(lanes, stopped))
        self._usable = True
        return paid

    def _written(self, lanes: np.ndarray, stopped: np.ndarray) -> tuple[list[Sample], list[Response]]:
        """Samples and responses of ``lanes`` (n,), of which an end token ended those where ``stopped`` (n,) is True."""
        spec, rows, lengths = self.episode_spec, self._arrays["response"], self.lengths[lanes].tolist()
        responses = [spec.response(row, n, s) for row, n, s in zip(rows[lanes], lengths, stopped.tolist(), strict=True)]
        return [self.samples[i] for i in lanes.tolist()], responses

    def _finish(
        self, lanes: np.ndarray, stopped: np.ndarray, infos: dict[str, Any], tokens: TokenRewards | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Judge the responses of ``lanes`` (n,); begin the next reply where a dialogue continues.

        Returns:
            which episodes are over, bool (n,), and the scores of the responses, float32 (n,)
        """
        self._usable = False  # stays so if the reward raises: these episodes cannot continue
        samples, responses = self._written(lanes, stopped)
        follow_up = self.task.follow_up
        following = [follow_up(s, r) for s, r in zip(samples, responses, strict=True)]
        over = np.array([f is None for f in following])
        judged = self.episode_spec.judge(samples, responses, over, tokens)
        add_response_infos(infos, self.num_envs, lanes, samples, responses, judged)
        if self.render_mode is not None:
            self._remember(lanes, samples, responses, judged)
        if not over.all():
            self._put_samples(lanes[~over], [f for f in following if f is not None])
        self._usable = True
        return over, judged.scores

    def _put_samples(self, lanes: np.ndarray, samples: list[Sample]) -> None:
        """Put ``samples`` into ``lanes``, with empty responses."""
        for lane, sample in zip(lanes.tolist(), samples, strict=True):
            self.episode_spec.encoder.write(self._arrays, lane, sample)
            self.samples[lane] = sample
        dynamics.clear(self._arrays["response"], self.lengths, lanes, self.episode_spec.pad_id)

    def _start_episodes(self, lanes: np.ndarray, indices: list[int], replies: list[Replies] | None = None) -> None:
        """Begin the episodes of ``indices`` in ``lanes``, after ``replies`` of each."""
        self._usable = False  # stays so if a sample cannot be made: then every lane has to be reset
        starts = list(zip(indices, replies or [()] * len(indices), strict=True))
        # Lanes that begin in the same way share the sample.
        sample_at = {start: self.episode_spec.sample_after(*start) for start in dict.fromkeys(starts)}
        samples = [sample_at[start] for start in starts]
        self.samples = self.samples or samples  # the first reset is for all lanes
        self._put_samples(lanes, samples)
        self._indices[lanes] = indices
        self._steps[lanes] = 0
        self._over[lanes] = self._truncated[lanes] = False
        if self._history:
            for lane in lanes.tolist():
                self._history.pop(lane, None)
        self._usable = True

    def _draw_indices(self, lanes: np.ndarray) -> list[int]:
        """A sample index from each lane's own generator, as the scalar env draws it."""
        size, generators = self.episode_spec.size, self._generators
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

    def _lanes_of_mask(self, mask: Any) -> np.ndarray:
        """The lanes that ``reset_mask`` selects; all of them without it."""
        if mask is None:
            return self._all
        array = np.asarray(mask)
        if self._same_step:
            raise ArgumentError("reset_mask is for autoreset_mode='Disabled': under SAME_STEP the step resets lanes")
        if array.shape != (self.num_envs,) or array.dtype != bool:
            raise ArgumentTypeError(f"reset_mask={mask!r} must be {self.num_envs} bools")
        if not array.any():
            raise ArgumentError(f"reset_mask={mask!r} selects no lane: do not call reset")
        if not self._usable and not array.all():
            raise ResetNeeded("no lane has begun, or one failed: reset all lanes first, without reset_mask")
        return np.flatnonzero(array)

    def _sample_indices(self, indices: Any, lanes: np.ndarray) -> list[int]:
        """The samples for ``lanes``, given one for each of the N lanes."""
        array = np.asarray(indices)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise ArgumentTypeError(f"sample_index={indices!r} must be {self.num_envs} integers, one a lane")
        return [self.episode_spec.check_index(i) for i in array[lanes].tolist()]

    def _replies(self, replies: Any, lanes: np.ndarray) -> list[Replies]:
        """The earlier replies of ``lanes``, given for each of the N lanes."""
        if not isinstance(replies, Sequence) or isinstance(replies, str | bytes) or len(replies) != self.num_envs:
            raise ArgumentTypeError(
                f"replies={replies!r} must be {self.num_envs} sequences of replies, one a lane: give [] to a lane that "
                "begins at its first turn"
            )
        return [self.episode_spec.check_replies(replies[i], f"replies[{i}]") for i in lanes.tolist()]

    def _prefixes(self, prefixes: Any, lanes: np.ndarray) -> list[np.ndarray]:
        """The response prefixes of ``lanes``, given one for each of the N lanes."""
        is_array = isinstance(prefixes, np.ndarray) and prefixes.ndim > 0
        is_sequence = isinstance(prefixes, Sequence) and not isinstance(prefixes, str | bytes)
        if not (is_array or is_sequence) or len(prefixes) != self.num_envs:
            raise ArgumentTypeError(
                f"response={prefixes!r} must be {self.num_envs} sequences of tokens, one a lane: give [] to a lane "
                "that begins with none"
            )
        return [self.episode_spec.check_prefix(prefixes[i], f"response[{i}]") for i in lanes.tolist()]

    def _check_actions(self, actions: Any, live: np.ndarray) -> np.ndarray:
        """The actions of the lanes that are not over, int64 (n,)."""
        array, n = np.asarray(actions), self.episode_spec.vocab_size
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise InvalidAction(
                f"actions {_short_repr(actions)} are {array.dtype} of shape {array.shape}: "
                f"give {self.num_envs} integers"
            )
        tokens = array if live is self._all else array[live]
        if tokens.min() < 0 or tokens.max() >= n:
            i = int(np.flatnonzero((tokens < 0) | (tokens >= n))[0])
            raise InvalidAction(
                f"action {tokens[i]} of lane {live[i]} is outside [0, {n}): does the policy use another tokenizer?"
            )
        padding = tokens == self.episode_spec.pad_id
        if padding.any():
            i = int(np.flatnonzero(padding)[0])
            raise padding_error(tokens[i].item(), f" of lane {live[i]}")
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
        """Add the action masks of ``lanes`` (N,) bool, or of all lanes, if the environment reports them."""
        if self.episode_spec.action_masking:
            # int8 is the dtype that Discrete.sample takes.
            infos["action_mask"] = self.action_masks().astype(np.int8)
            infos["_action_mask"] = np.ones(self.num_envs, bool) if lanes is None else lanes.copy()
        return infos

    def _remember(self, lanes: np.ndarray, samples: list[Sample], responses: list[Response], judged: Judged) -> None:
        for k, lane in enumerate(lanes.tolist()):
            reply = self.episode_spec.judged_view(samples[k], responses[k], judged, k)
            self._history[lane] = (*self._history.get(lane, ()), reply)

    def view(self, lane: int = 0) -> EpisodeView:
        """A lane's episode for rendering; ended replies are stored only with a render mode.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if not self.samples:
            raise ResetNeeded("no episode has begun: call reset() before render()")
        history = self._history.get(lane, ())
        if self._over[lane] and not self._truncated[lane] and history:
            return dataclasses.replace(history[-1], history=history[:-1])
        row = self._arrays["response"][lane]
        return self.episode_spec.view(self.samples[lane], row, int(self.lengths[lane]), history)

    def render(self) -> Any:
        """Every lane's picture or text, a tuple of N as in Gymnasium's ``SyncVectorEnv``."""
        if self.render_mode is None:
            return None
        from mmenv.envs.rendering import render_ansi, render_frame

        draw: Callable[[EpisodeView], Any] = render_ansi if self.render_mode == "ansi" else render_frame
        return tuple(draw(self.view(i)) for i in range(self.num_envs))


def _short_repr(actions: Any) -> str:
    text = repr(actions)
    return text if len(text) < 200 else f"{text[:200]}..."


def _autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    """The autoreset mode, from the enum, its name or its value in any case; NEXT_STEP is refused."""
    modes = {m.name.lower(): m for m in AutoresetMode} | {m.value.lower(): m for m in AutoresetMode}
    chosen = mode if isinstance(mode, AutoresetMode) else modes.get(str(mode).lower())
    if chosen is None:
        raise ArgumentError(f"autoreset_mode={mode!r} is unknown: give 'SameStep' or 'Disabled'")
    if chosen is AutoresetMode.NEXT_STEP:
        raise ArgumentError(
            "autoreset_mode=NEXT_STEP is not supported, since its reset step writes no token: use SAME_STEP or "
            "DISABLED, or Gymnasium's SyncVectorEnv: gym.make_vec(..., vectorization_mode='sync')"
        )
    return chosen
