"""What the scalar and the vector environment share: the checked arguments and all that follows from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import InvalidAction

from mmenv.arguments import ArgumentError, ArgumentTypeError, boolean, integer, one_of, positive
from mmenv.data.sample import Response, Sample
from mmenv.envs.dynamics import end_table
from mmenv.envs.judging import Judged, judge
from mmenv.envs.observations import ObservationEncoder
from mmenv.envs.task_arguments import make_task, warn_of_unknown_words
from mmenv.envs.token_space import TokenSpace
from mmenv.envs.view import EpisodeView
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.loading import resolve_reward
from mmenv.rewards.tokens import TokenRewards, pays_tokens, token_rewards
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer

RENDER_MODES = (None, "ansi", "rgb_array")


class EpisodeSpec:
    """The checked arguments of an environment: task, reward, tokenizer, spaces and response budget.

    Args:
        task: a ``Task``, or a function of (dataset, image_size, tokenizer) that makes one.
        dataset: None for the task's own samples; a sequence of ``Sample``; the path of a folder or file, with options
            as in ``"photos?broken=skip"`` (``mmenv.read_dataset``); a ``datasets.Dataset``.
        split: ``"train"``, ``"validation"`` or ``"test"``; for built-in tasks also ``"comp"`` (combinations that
            training never shows), for a dataset also ``"all"``.
        reward: ``"preference"``, ``"preference-weak"``, ``"gold"``, a metric of the references (``"cider"``,
            ``"bleu"``, ``"rouge-l"``, ``"wer"``, ``"exact"``, ``"vqa"``), a path of saved weights or of a transformers
            model's folder, the address of a reward server, or a function.
        tokenizer: None for the task's own.
        max_response_tokens: longest response in tokens (the budget R); None for the task's own.
        image_size: side of the image in pixels; None for the task's own.
        level: ``"plain"`` or ``"hard"``, for built-in tasks; None for the level of the id.
        shift: how much the splits test and comp of a built-in task differ from training in look and sound, from 0 to 1;
            None for the shift of the id.
        action_masking: whether ``info`` contains ``"action_mask"``.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.

    Raises:
        ArgumentError: names the argument, its value, and what to give instead.
    """

    def __init__(
        self,
        task: Task | Callable[..., Task],
        dataset: Any = None,
        split: str = "train",
        reward: str | Path | RewardFunction = "preference",
        tokenizer: Tokenizer | None = None,
        max_response_tokens: int | None = None,
        image_size: int | None = None,
        level: str | None = None,
        shift: float | None = None,
        action_masking: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = one_of("render_mode", render_mode, RENDER_MODES)
        self.action_masking = boolean("action_masking", action_masking)
        self.task = make_task(task, dataset, image_size, tokenizer, level, shift)
        self.split = one_of("split", split, self.task.splits)
        if max_response_tokens is None:
            max_response_tokens = self.task.max_response_tokens
        self.budget = positive("max_response_tokens", max_response_tokens)
        self.size = self.task.size(split)
        if self.size < 1:
            raise ArgumentError(f"dataset={dataset!r} has no samples for split={split!r}: give at least one")
        warn_of_unknown_words(self.task, split)
        self.tokenizer = self.task.tokenizer
        self.pad_id = self.tokenizer.pad_id
        self.vocab_size = self.tokenizer.vocab_size
        self.ends = end_table(self.vocab_size, self.tokenizer.eos_ids)
        self.reward = reward
        self.reward_function = resolve_reward(reward, self.task)
        self.pays_tokens = pays_tokens(self.reward_function)
        if self.pays_tokens and self.task.pays_at_end:
            raise ArgumentError(
                f"reward={reward!r} pays at the tokens, and {self.task.name} pays at the end of an episode only: give "
                "a reward without per_token"
            )
        self.encoder = ObservationEncoder(self.task, self.budget)
        self.observation_space = self.encoder.space
        self.action_space = TokenSpace(self.vocab_size, self.pad_id)

    def __getstate__(self) -> dict[str, Any]:
        """Rewards given by name are left out: the process that unpickles shares its own copy of the model."""
        state = dict(self.__dict__)
        if not callable(self.reward):
            del state["reward_function"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "reward_function" not in state:
            self.reward_function = resolve_reward(self.reward, self.task)

    def judge(
        self, samples: list[Sample], responses: list[Response], last: np.ndarray, tokens: TokenRewards | None = None
    ) -> Judged:
        """One batched call of the reward function for n ended responses, and their gold; see ``judging.judge``."""
        return judge(self.task, self.reward_function, samples, responses, last, tokens)

    def token_rewards(self, samples: list[Sample], responses: list[Response]) -> tuple[TokenRewards, np.ndarray]:
        """One batched call of the reward's ``per_token``: what it pays, and float32 (n,), what at the last tokens."""
        tokens = token_rewards(self.reward_function, samples, responses)
        return tokens, tokens.rows[np.arange(len(responses)), [len(r.tokens) - 1 for r in responses]]

    def response(self, row: np.ndarray, length: int, stopped: bool) -> Response:
        """The response in a row, int64 (R,), as rewards read it.

        Args:
            row: its tokens, padded.
            length: tokens written, an end token included.
            stopped: whether an end token ended it.
        """
        ids = row[:length].tolist()
        ended = "budget" if length == self.budget else ""
        return Response(self.tokenizer.decode(ids), tuple(ids), "eos" if stopped else ended)

    def view(self, sample: Sample, row: np.ndarray, length: int, history: tuple[EpisodeView, ...]) -> EpisodeView:
        """The view of a response that is still being written."""
        text = self.tokenizer.decode(row[:length].tolist())
        return EpisodeView(sample, sample.prompt, text, tokens_used=int(length), budget=self.budget, history=history)

    def judged_view(self, sample: Sample, response: Response, judged: Judged, k: int) -> EpisodeView:
        """The view of an ended response, whose judgement is entry ``k`` of ``judged``."""
        return EpisodeView(
            sample,
            sample.prompt,
            response.text,
            response.stop,
            reward=float(judged.returns[k]),
            gold=None if np.isnan(judged.gold[k]) else float(judged.gold[k]),
            components={name: float(part[k]) for name, part in judged.parts.items() if not np.isnan(part[k])},
            tokens_used=len(response.tokens),
            budget=self.budget,
        )

    def sample_after(self, index: int, replies: Sequence[Sequence[int]] = ()) -> Sample:
        """The sample of an episode that an agent responds to after its first replies.

        Args:
            index: of the episode's first sample in the split.
            replies: what the agent said before, as ``check_replies`` returns them.

        Raises:
            ArgumentError: the episode ends before.
        """
        sample = self.task.sample(self.split, index)
        for k, tokens in enumerate(replies):
            response = self.response(np.array(tokens), len(tokens), bool(self.ends[tokens[-1]]))
            following = self.task.follow_up(sample, response)
            if following is None:
                raise ArgumentError(
                    f"replies has {len(replies)} replies, and the episode of sample_index={index} ends with its reply "
                    f"{k + 1}: give at most {k}"
                )
            sample = following
        return sample

    def check_index(self, index: Any) -> int:
        """A sample index from the options of ``reset``.

        Raises:
            ArgumentError: it is not an integer in [0, size).
        """
        number = integer("sample_index", index, f"give one in [0, {self.size})")
        if not 0 <= number < self.size:
            raise ArgumentError(
                f"sample_index={index!r} is outside [0, {self.size}): split {self.split!r} has {self.size} samples"
            )
        return number

    def check_prefix(self, prefix: Any, name: str = "response") -> np.ndarray:
        """A response prefix from the options of ``reset``, int64 (n,); n may be 0.

        Args:
            prefix: a sequence or an array of tokens.
            name: of the option, for errors.

        Raises:
            ArgumentError: it is not a sequence of tokens, holds padding, an end token or a token outside the
                vocabulary, or leaves no room for another token.
        """
        tokens = _integers(name, prefix)
        outside = [t for t in tokens if not 0 <= t < self.vocab_size]
        if outside:
            raise ArgumentError(
                f"{name} holds {outside[0]}, outside [0, {self.vocab_size}): does the policy use another tokenizer?"
            )
        if self.pad_id in tokens:
            raise ArgumentError(f"{name}={prefix!r} holds padding ({self.pad_id}): give the tokens before it alone")
        ends = [t for t in tokens if self.ends[t]]
        if ends:
            raise ArgumentError(
                f"{name}={prefix!r} holds the end token {ends[0]}: give the tokens before it, since nothing follows it"
            )
        if len(tokens) >= self.budget:
            raise ArgumentError(
                f"{name} has {len(tokens)} tokens, and the budget is {self.budget}: give at most {self.budget - 1}, or "
                "a larger max_response_tokens"
            )
        return np.array(tokens, np.int64)

    def check_replies(self, replies: Any, name: str = "replies") -> tuple[tuple[int, ...], ...]:
        """Earlier replies of an episode from the options of ``reset``, each a tuple of tokens.

        Args:
            replies: a sequence of sequences of tokens, perhaps empty.
            name: of the option, for errors.

        Raises:
            ArgumentError: a reply is not a sequence of tokens that an end token or the used-up budget ends.
        """
        if not isinstance(replies, Sequence) or isinstance(replies, str | bytes):
            raise ArgumentTypeError(f"{name}={replies!r} is not a sequence of replies: give a list of lists of tokens")
        checked = []
        for k, reply in enumerate(replies):
            tokens = _integers(f"{name}[{k}]", reply)
            self.check_prefix(tokens[:-1], f"{name}[{k}]")
            last = tokens[-1] if tokens else self.pad_id
            if last == self.pad_id or not 0 <= last < self.vocab_size:
                raise ArgumentError(f"{name}[{k}]={reply!r} does not end with a token: give all that was said")
            if not self.ends[last] and len(tokens) < self.budget:
                raise ArgumentError(
                    f"{name}[{k}]={reply!r} is not over: end it with an end token, or give it as 'response'"
                )
            checked.append(tuple(tokens))
        return tuple(checked)


def _integers(name: str, values: Any) -> list[int]:
    """A sequence or an array of integers as a list."""
    if isinstance(values, np.ndarray):
        right = values.ndim == 1 and (values.dtype.kind in "iu" or not values.size)
    else:
        is_sequence = isinstance(values, Sequence) and not isinstance(values, str | bytes)
        right = is_sequence and all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values)
    if not right:
        raise ArgumentTypeError(
            f"{name}={values!r} is not a sequence of tokens: give integers, such as tokenizer.encode(text)"
        )
    return [int(v) for v in values]


def padding_error(action: Any, where: str = "") -> InvalidAction:
    """The error for an action that is padding; ``where`` names the lane."""
    return InvalidAction(
        f"action {action!r}{where} is padding, which no response holds: mask it in the distribution that you sample "
        "from, as action_masks() says"
    )


# The arguments of C2; ``task`` comes from the id.
ARGUMENTS = tuple(inspect.signature(EpisodeSpec).parameters)[1:]
