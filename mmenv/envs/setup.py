"""What the scalar and the vector env share: checked arguments, spaces, encoded observations, and the judging."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces

from mmenv.arguments import ArgumentError, ArgumentTypeError, boolean, integer, one_of, positive
from mmenv.data.sample import ALL, SPLITS, Response, Sample
from mmenv.envs.dynamics import end_table
from mmenv.envs.view import EpisodeView
from mmenv.rewards.base import GoldReward, RewardFunction, WeightedSum, score
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer

REWARDS = {"preference": "strong", "preference-weak": "weak"}
REFERENCE_REWARDS = ("cider", "bleu", "rouge-l", "wer", "exact", "vqa")  # names of mmenv.rewards.metrics.references
SERVERS = ("http://", "https://", "vllm+http", "openai+http")
_REMEMBERED_PROMPTS = 1 << 16


@runtime_checkable
class SampleSource(Protocol):
    """A sequence of samples, as far as it is used here: a length, and samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@functools.lru_cache(maxsize=16)
def _shared_reward_model(name: str, stamp: int) -> RewardFunction:
    from mmenv.rewards.preference.ensemble import load_reward

    return load_reward(name)


@functools.lru_cache(maxsize=16)
def _shared_server(url: str) -> RewardFunction:
    from mmenv.rewards.remote.endpoints import reward_of_url

    return reward_of_url(url)


def resolve_reward(reward: str | Path | RewardFunction, task: Task) -> RewardFunction:
    """A name, a path, an address or a function -> the reward function; models are shared within the process.

    Raises:
        ArgumentError: none of these.
    """
    if callable(reward):
        return reward
    names = [*REWARDS, "gold", *REFERENCE_REWARDS]
    remedy = (
        f"give one of {names}, the path of a .safetensors file or of a model's folder, the address of a reward server, "
        "or a function"
    )
    if not isinstance(reward, str | Path):
        raise ArgumentTypeError(f"reward={reward!r} is no reward: {remedy}")
    if reward == "gold":
        return GoldReward(task.gold)
    if reward in REFERENCE_REWARDS:
        from mmenv.rewards.metrics.references import reference_reward

        return reference_reward(str(reward), task)
    if reward in REWARDS:
        return _shipped_reward_model(str(reward), task)
    if str(reward).startswith(SERVERS):
        return _shared_server(str(reward))
    path = Path(reward)
    if path.suffix != ".safetensors" and not path.is_dir():
        raise ArgumentError(f"reward={str(reward)!r} is no reward: {remedy}")
    if not path.exists():
        raise ArgumentError(f"reward={str(reward)!r} is no file: {remedy}")
    # A file that was written anew is read anew; what is written into a folder changes the folder.
    return _shared_reward_model(str(path), path.stat().st_mtime_ns)


def _shipped_reward_model(reward: str, task: Task) -> RewardFunction:
    from mmenv.models.checkpoints import shipped

    name = f"{REWARDS[reward]}-{task.name}"
    if name not in shipped():
        raise ArgumentError(
            f"reward={reward!r}: no preference model is shipped for the task {task.name!r}: give reward='gold' if the "
            "task knows the truth, the path of a model that `python -m mmenv train-reward` wrote, or a function"
        )
    return _shared_reward_model(name, 0)


class Judged(NamedTuple):
    """Scores (n,), gold (n,) with nan where unknown, and the parts of a composed reward, each (n,)."""

    scores: np.ndarray
    gold: np.ndarray
    parts: dict[str, np.ndarray]


class Setup:
    """Checked arguments and everything that follows from them.

    Args:
        task: a ``Task``, or a function of (dataset, image_size, tokenizer) that makes one.
        dataset: None for the task's own samples; a sequence of ``Sample``; the path of a folder or file, with options
            as in ``"photos?broken=skip"`` (``mmenv.read_dataset``); a ``datasets.Dataset``.
        split: ``"train"``, ``"validation"`` or ``"test"``; of a dataset also ``"all"``.
        reward: ``"preference"``, ``"preference-weak"``, ``"gold"``, a metric of the references (``"cider"``,
            ``"bleu"``, ``"rouge-l"``, ``"wer"``, ``"exact"``, ``"vqa"``), a path of saved weights or of a transformers
            model's folder, the address of a reward server, or a function.
        tokenizer: None for the task's own.
        max_response_tokens: budget R of a response; None for the task's own.
        image_size: side of the image in pixels; None for the task's own.
        action_masking: whether ``info["action_mask"]`` is given.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.

    Raises:
        ArgumentError: names the argument, its value, and what to give instead.
    """

    RENDER_MODES = (None, "ansi", "rgb_array")

    def __init__(
        self,
        task: Task | Callable[..., Task],
        dataset: Any = None,
        split: str = "train",
        reward: str | Path | RewardFunction = "preference",
        tokenizer: Tokenizer | None = None,
        max_response_tokens: int | None = None,
        image_size: int | None = None,
        action_masking: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.split = one_of("split", split, SPLITS if dataset is None else (*SPLITS, ALL))
        self.render_mode = one_of("render_mode", render_mode, self.RENDER_MODES)
        self.action_masking = boolean("action_masking", action_masking)
        self.task = make_task(task, dataset, image_size, tokenizer)
        if max_response_tokens is None:
            max_response_tokens = self.task.max_response_tokens
        self.budget = positive("max_response_tokens", max_response_tokens)
        self.size = self.task.size(split)
        if self.size < 1:
            raise ArgumentError(f"dataset={dataset!r} has no samples for split={split!r}: give at least one")
        self.tokenizer, self.pad_id = self.task.tokenizer, self.task.tokenizer.pad_id
        self.vocab_size = self.tokenizer.vocab_size
        self.ends = end_table(self.vocab_size, self.tokenizer.eos_ids)
        self._given_reward = reward
        self.reward_function = resolve_reward(reward, self.task)
        self._prompts: dict[str, np.ndarray] = {}
        self.observation_space = self._observation_space()
        self.action_space = spaces.Discrete(self.vocab_size)

    def _observation_space(self) -> spaces.Dict:
        task, side, last = self.task, self.task.image_size, self.vocab_size - 1
        parts: dict[str, spaces.Space] = {}
        if "image" in task.modalities:
            parts["image"] = spaces.Box(0, 255, (side, side, 3), np.uint8)
        if "audio" in task.modalities:
            parts["audio"] = spaces.Box(-1.0, 1.0, (task.max_audio_samples,), np.float32)
        # SB3 turns MultiDiscrete into one-hot vectors, so tokens are a Box.
        parts["prompt"] = spaces.Box(0, last, (task.max_prompt_tokens,), np.int64)
        parts["response"] = spaces.Box(0, last, (self.budget,), np.int64)
        return spaces.Dict(parts)

    def __getstate__(self) -> dict[str, Any]:
        """Rewards known by name are left out: whoever unpickles shares the model of its own process."""
        state = {**self.__dict__, "_prompts": {}}
        if not callable(self._given_reward):
            del state["reward_function"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "reward_function" not in state:
            self.reward_function = resolve_reward(self._given_reward, self.task)

    def empty(self, n: int) -> dict[str, np.ndarray]:
        """Arrays for the observations of n lanes, responses and prompts padded."""
        arrays = {k: np.zeros((n, *s.shape), s.dtype) for k, s in self.observation_space.items()}  # type: ignore[misc]
        arrays["prompt"][:] = self.pad_id
        arrays["response"][:] = self.pad_id
        return arrays

    def prompt_tokens(self, text: str) -> np.ndarray:
        """A prompt as padded tokens (P,); prompts met before are remembered."""
        row = self._prompts.get(text)
        return self._encode(text) if row is None else row

    def _encode(self, text: str) -> np.ndarray:
        ids, width = self.tokenizer.encode(text), self.task.max_prompt_tokens
        if len(ids) > width:
            raise ArgumentError(f"the prompt {text!r} has {len(ids)} tokens, more than {width}: shorten it")
        row = np.full(width, self.pad_id, np.int64)
        row[: len(ids)] = ids
        if len(self._prompts) >= _REMEMBERED_PROMPTS:
            self._prompts.clear()
        self._prompts[text] = row
        return row

    def place(self, arrays: dict[str, np.ndarray], lane: int, sample: Sample) -> None:
        """Write a sample's media and prompt into row ``lane``; the response is left to ``dynamics.clear``."""
        check_sample(sample)
        arrays["prompt"][lane] = self.prompt_tokens(sample.prompt)
        if "image" in arrays:
            row, image = arrays["image"][lane], sample.image
            if not isinstance(image, np.ndarray) or image.shape != row.shape or image.dtype != row.dtype:
                raise ArgumentError(
                    f"the image of sample {sample.id!r} is {_describe(image)}, not uint8 of shape {row.shape}: "
                    "resize it, or pass image_size= its side"
                )
            row[:] = image
        if "audio" in arrays:
            row, wave = arrays["audio"][lane], sample.audio
            fits = isinstance(wave, np.ndarray) and wave.ndim == 1 and len(wave) <= len(row)
            if wave is None or not fits or wave.dtype != row.dtype:
                raise ArgumentError(
                    f"the audio of sample {sample.id!r} is {_describe(wave)}, not float32 of at most {len(row)} values "
                    "at 16 kHz: convert or cut it"
                )
            row[: len(wave)] = wave
            row[len(wave) :] = 0.0

    def judge(self, samples: list[Sample], responses: list[Response]) -> Judged:
        """One batched call of the reward for the responses that ended, and their gold."""
        gold_of, reward = self.task.gold, self.reward_function
        known = [gold_of(s, r) for s, r in zip(samples, responses, strict=True)]
        gold = np.array([np.nan if g is None else g for g in known], dtype=np.float64)
        if isinstance(reward, GoldReward) and reward.gold == gold_of and np.isfinite(gold).all():
            return Judged(gold.astype(np.float32), gold, {})
        if isinstance(reward, WeightedSum):
            parts = reward.components(samples, responses)
            return Judged(reward.combine(parts), gold, parts)
        return Judged(score(reward, samples, responses), gold, {})

    def response(self, row: np.ndarray, length: int, stopped: bool) -> Response:
        """The finished response in a row; ``stopped`` says whether an end token ended it."""
        ids = row[:length].tolist()
        # Padding is not written, so a response that it ended is shorter than the budget.
        stop = "eos" if stopped else "budget" if length == self.budget else "pad"
        return Response(self.tokenizer.decode(ids), tuple(ids), stop)

    def view(self, sample: Sample, row: np.ndarray, length: int, history: tuple[EpisodeView, ...]) -> EpisodeView:
        """A response that goes on, as a person should see it."""
        text = self.tokenizer.decode(row[:length].tolist())
        return EpisodeView(sample, sample.prompt, text, tokens_used=int(length), budget=self.budget, history=history)

    def check_index(self, index: Any) -> int:
        """A sample index from options, checked."""
        number = integer("sample_index", index, f"give one in [0, {self.size})")
        if not 0 <= number < self.size:
            raise ArgumentError(
                f"sample_index={index!r} is outside [0, {self.size}): split {self.split!r} has {self.size} samples"
            )
        return number


# The arguments of C2; ``task`` comes from the id.
ARGUMENTS = tuple(inspect.signature(Setup).parameters)[1:]


def _describe(array: Any) -> str:
    if array is None:
        return "missing"
    return f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__


def check_sample(sample: Any) -> None:
    """See that something is a ``Sample`` whose texts are texts; media are checked where they are used.

    Raises:
        ArgumentTypeError: it is none, or has a field of another type; names the sample, the field and its value.
    """
    if not isinstance(sample, Sample):
        raise ArgumentTypeError(
            f"{_shortened(sample)} is no mmenv.Sample: give samples, such as mmenv.Sample('mine/0', 0, 'what is it ?', "
            "image=...), or the path of a dataset"
        )
    references = sample.references
    told = isinstance(references, tuple | list) and all(isinstance(text, str) for text in references)
    right = {
        "id": (isinstance(sample.id, str), "a str"), "index": (isinstance(sample.index, int | np.integer), "an int"),
        "prompt": (isinstance(sample.prompt, str), "a str"), "references": (told, "a tuple of str"),
        "said": (isinstance(sample.said, str), "a str"),
    }  # fmt: skip
    for name, (holds, type_name) in right.items():
        if not holds:
            value = _shortened(getattr(sample, name))
            raise ArgumentTypeError(f"sample {sample.id!r} has {name}={value}: give {type_name}")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def make_task(make: Task | Callable[..., Task], dataset: Any, image_size: Any, tokenizer: Any) -> Task:
    """The task that ``make`` is or makes; a dataset's path is read.

    Raises:
        ArgumentError: an argument is of the wrong type or out of range.
    """
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        raise ArgumentTypeError(f"tokenizer={tokenizer!r} is no Tokenizer: see mmenv.Tokenizer for what one has")
    if image_size is not None:
        image_size = positive("image_size", image_size)
    if isinstance(make, Task):
        for name, value in (("dataset", dataset), ("image_size", image_size), ("tokenizer", tokenizer)):
            if value is not None:
                raise ArgumentError(f"{name}={value!r} comes too late, the task is made: pass it to the task itself")
        return make
    if not callable(make):
        raise ArgumentTypeError(f"task={make!r} is no task: give a Task, its class, or a function that makes one")
    task = make(dataset=_read(dataset, image_size), image_size=image_size, tokenizer=tokenizer)
    if dataset is None and task.image_size not in task.image_sizes:
        raise ArgumentError(f"image_size={image_size!r} is none of {task.image_sizes}: give one of these")
    return task


def _read(dataset: Any, image_size: int | None) -> Any:
    """A dataset as a sequence of samples; paths and tables of ``datasets`` are read."""
    if isinstance(dataset, str | Path):
        from mmenv.data.readers.by_path import read_dataset

        return read_dataset(dataset, image_size)
    if type(dataset).__module__.partition(".")[0] == "datasets":  # not imported only to find out
        from mmenv.data.readers.hub import from_datasets

        return from_datasets(dataset, image_size=image_size)
    if isinstance(dataset, list | tuple):
        for sample in dataset:
            check_sample(sample)
    known = isinstance(dataset, SampleSource) and not isinstance(dataset, Mapping | bytes | bytearray)
    if dataset is None or known:
        return dataset
    raise ArgumentTypeError(f"dataset={dataset!r} is no path and no sequence of samples: give one of these")
