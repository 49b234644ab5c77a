"""Samples as observations: the spaces, and media and prompts written into rows of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from mmenv.arguments import ArgumentError
from mmenv.data.sample import Sample
from mmenv.envs.task_arguments import check_sample
from mmenv.tasks.base import Task

PROMPT_CACHE_BYTES = 16 * 1024 * 1024  # encoded prompts that an environment keeps


class ObservationEncoder:
    """Writes samples of a task into arrays of observations.

    Args:
        task: gives modalities, widths and the tokenizer.
        budget: width R of ``response``, in tokens.

    Attributes:
        space: of one observation: ``image`` uint8 (H, W, 3) and ``audio`` float32 (T,) where the task has them,
            ``prompt`` int64 (P,) and ``response`` int64 (R,).
    """

    def __init__(self, task: Task, budget: int) -> None:
        self.tokenizer = task.tokenizer
        self.prompt_width = task.max_prompt_tokens
        self.space = _observation_space(task, budget)
        self._prompts: dict[str, np.ndarray] = {}  # a cache of encoded prompts
        self._most_prompts = max(1, PROMPT_CACHE_BYTES // (8 * self.prompt_width))  # a token takes 8 bytes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prompts": {}}

    def empty(self, n: int) -> dict[str, np.ndarray]:
        """Arrays for the observations of n lanes: zero media, padded prompts and responses."""
        arrays = {k: np.zeros((n, *s.shape), s.dtype) for k, s in self.space.items()}  # type: ignore[misc]
        arrays["prompt"][:] = self.tokenizer.pad_id
        arrays["response"][:] = self.tokenizer.pad_id
        return arrays

    def prompt_tokens(self, text: str) -> np.ndarray:
        """A prompt as padded tokens, int64 (P,).

        Raises:
            ArgumentError: the prompt has more than P tokens.
        """
        row = self._prompts.get(text)
        if row is not None:
            return row
        ids = self.tokenizer.encode(text)
        if len(ids) > self.prompt_width:
            raise ArgumentError(f"the prompt {text!r} has {len(ids)} tokens, more than {self.prompt_width}: shorten it")
        row = np.full(self.prompt_width, self.tokenizer.pad_id, np.int64)
        row[: len(ids)] = ids
        if len(self._prompts) >= self._most_prompts:
            self._prompts.clear()
        self._prompts[text] = row
        return row

    def write(self, arrays: dict[str, np.ndarray], lane: int, sample: Sample) -> None:
        """Write a sample's media and prompt into row ``lane``; ``dynamics.clear`` empties the response.

        Raises:
            ArgumentError: the sample lacks a medium, or one does not fit its space.
        """
        check_sample(sample)
        arrays["prompt"][lane] = self.prompt_tokens(sample.prompt)
        if "image" in arrays:
            _write_image(arrays["image"][lane], sample)
        if "audio" in arrays:
            _write_audio(arrays["audio"][lane], sample)


def _observation_space(task: Task, budget: int) -> spaces.Dict:
    side, last = task.image_size, task.tokenizer.vocab_size - 1
    parts: dict[str, spaces.Space] = {}
    if "image" in task.modalities:
        parts["image"] = spaces.Box(0, 255, (side, side, 3), np.uint8)
    if "audio" in task.modalities:
        parts["audio"] = spaces.Box(-1.0, 1.0, (task.max_audio_samples,), np.float32)
    # SB3 turns MultiDiscrete into one-hot vectors, so tokens are a Box.
    parts["prompt"] = spaces.Box(0, last, (task.max_prompt_tokens,), np.int64)
    parts["response"] = spaces.Box(0, last, (budget,), np.int64)
    return spaces.Dict(parts)


def _write_image(row: np.ndarray, sample: Sample) -> None:
    image = sample.image
    if not isinstance(image, np.ndarray) or image.shape != row.shape or image.dtype != row.dtype:
        remedy = "resize it, or pass image_size= its side"
        if image is None:
            remedy = 'give Sample(image=...), or leave "image" out of the task\'s modalities'
        raise ArgumentError(
            f"the image of sample {sample.id!r} is {_array_type(image)}, not uint8 of shape {row.shape}: {remedy}"
        )
    row[:] = image


def _write_audio(row: np.ndarray, sample: Sample) -> None:
    wave = sample.audio
    fits = isinstance(wave, np.ndarray) and wave.ndim == 1 and len(wave) <= len(row)
    if wave is None or not fits or wave.dtype != row.dtype:
        raise ArgumentError(
            f"the audio of sample {sample.id!r} is {_array_type(wave)}, not float32 of at most {len(row)} values "
            "at 16 kHz: convert or cut it"
        )
    row[: len(wave)] = wave
    row[len(wave) :] = 0.0


def _array_type(array: Any) -> str:
    """Type and shape for an error message."""
    if array is None:
        return "missing"
    return f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
