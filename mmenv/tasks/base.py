"""Task: where samples come from, and what is known to be true of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmenv.data.sample import Response, Sample
from mmenv.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")
PIECES = 2  # tokens that a word takes at most, as a rule, where another tokenizer than the task's own splits it


class Task:
    """Base class: a task overrides ``size``, ``sample`` and, where the truth is known, ``gold``.

    Class attributes:
        name: short name; the shipped weights of a task carry it.
        modalities: those of ``"image"`` and ``"audio"`` that its samples have.
        max_prompt_tokens: width of the ``prompt`` observation; another tokenizer than the task's own widens it.
        max_response_tokens: default budget of a response; so too.
        max_audio_samples: length T of the ``audio`` observation (16 kHz).
        image_sizes: sides in pixels that the task can draw; the first is the default.

    Args:
        dataset: None for the task's own samples, or a sequence of ``Sample`` used for every split.
        image_size: side of the square image in pixels.
        tokenizer: None for the task's own.
    """

    name: ClassVar[str] = "task"
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    max_prompt_tokens: int = 16
    max_response_tokens: int = 16
    max_audio_samples: ClassVar[int] = 48_000
    image_sizes: ClassVar[tuple[int, ...]] = (48, 96, 192)

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.dataset = dataset
        self.image_size = image_size or self.image_sizes[0]
        self.tokenizer = tokenizer or self.default_tokenizer()
        if tokenizer is not None and tokenizer != self.default_tokenizer():
            self.max_prompt_tokens *= PIECES
            self.max_response_tokens *= PIECES

    def default_tokenizer(self) -> Tokenizer:
        """The tokenizer used where none is given."""
        from mmenv.data.world import world_tokenizer

        return world_tokenizer()

    def size(self, split: str) -> int:
        """Number of samples in a split."""
        if self.dataset is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no samples of its own: override size or pass dataset="
            )
        return len(self.dataset)

    def sample(self, split: str, index: int) -> Sample:
        """Sample ``index`` of ``split``: a function of both alone, the same on every machine."""
        if self.dataset is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no samples of its own: override sample or pass dataset="
            )
        return self.dataset[index]

    def gold(self, sample: Sample, response: Response) -> float | None:
        """What is known to be true, in [0, 1]; None where nothing is known."""
        return None

    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        """The next turn of a dialogue after ``response``; None when the episode is over."""
        return None

    def metadata(self) -> dict[str, Any]:
        """What distinguishes this task in a run's record."""
        return {"task": self.name, "image_size": self.image_size}
