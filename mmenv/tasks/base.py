"""Task: the source of samples and of gold."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from mmenv.data.sample import (
    ALL,
    REPLY_BYTES_KEPT,
    REPLY_WORDS_KEPT,
    SPLITS,
    Part,
    Response,
    Sample,
    SplitDataset,
    divided,
    say_how_divided,
)
from mmenv.tokenizer import Tokenizer, WordTokenizer, learn_tokenizer

PIECES = 2  # tokens of room for each word where the tokenizer splits words into pieces
LONGEST_RESPONSE = 64  # largest budget that references can set; max_response_tokens= can set more
AUDIO_STEP = 1600  # utterances are padded to tenths of a second


class Task:
    """Base class: a task overrides ``size``, ``sample`` and, where the truth is known, ``gold_parts`` or ``gold``.

    Class attributes:
        name: short name; the shipped weights of a task carry it.
        modalities: those of ``"image"`` and ``"audio"`` that its samples have.
        max_prompt_tokens: width of the ``prompt`` observation; a dataset with longer ones makes it wider, and so does a
            tokenizer of parts of words.
        max_response_tokens: default budget of a response in tokens; longer references make it larger.
        max_audio_samples: length T of the ``audio`` observation (16 kHz); a dataset with longer audio makes it larger.
        image_sizes: sides in pixels that the task can draw; the first is the default.
        pays_at_end: whether an episode of several replies is paid at its end alone: earlier replies earn 0, the reward
            function does not see them, and no gold of them is reported.

    Args:
        dataset: None for the task's own samples, or a sequence of ``Sample``: a ``SplitDataset`` has splits, any other
            is divided by a hash of the ids, or, where samples are loaded one by one, of their positions.
        image_size: side of the square image in pixels.
        tokenizer: None for the task's own; where the dataset has words that it lacks, one of the dataset's words.
    """

    name: ClassVar[str] = "task"
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    max_prompt_tokens: int = 16
    max_response_tokens: int = 16
    max_audio_samples: int = 48_000
    image_sizes: ClassVar[tuple[int, ...]] = (96, 192, 384)
    pays_at_end: ClassVar[bool] = False

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.dataset = dataset
        self._splits: dict[str, Sequence[Sample]] = {}
        self.image_size = image_size or self.image_sizes[0]
        self.tokenizer = tokenizer or self.default_tokenizer()
        if isinstance(dataset, SplitDataset):
            self._widen_spaces(dataset)
        elif tokenizer is not None and not isinstance(tokenizer, WordTokenizer):
            self.max_prompt_tokens *= PIECES
            self.max_response_tokens *= PIECES

    def default_tokenizer(self) -> Tokenizer:
        """Used where no tokenizer is given: the embedded one if it knows all words, else one learned from them."""
        if isinstance(self.dataset, SplitDataset):
            return _learned(self.dataset)
        if isinstance(self.dataset, list | tuple):
            # Other sequences are not scanned for their words, which may be slow: pass tokenizer= for them.
            return _tokenizer_of([text for sample in self.dataset for text in (sample.prompt, *sample.references)])
        return _tokenizer_of([])

    def _widen_spaces(self, dataset: SplitDataset) -> None:
        """Widen the observations to what the dataset holds."""
        prompt, response, audio = _longest(dataset, self.tokenizer)  # type: ignore[arg-type]
        self.max_prompt_tokens = max(self.max_prompt_tokens, prompt)
        self.max_response_tokens = max(self.max_response_tokens, response)
        self.max_audio_samples = max(self.max_audio_samples, audio)

    def _samples(self, split: str) -> Sequence[Sample] | None:
        if self.dataset is None or split == ALL:
            return self.dataset
        if isinstance(self.dataset, SplitDataset):
            return self.dataset.split(split)
        if not self._splits:
            listed = isinstance(self.dataset, list | tuple)
            ids = [s.id for s in self.dataset] if listed else [str(i) for i in range(len(self.dataset))]
            parts = divided(ids)
            say_how_divided("the dataset", parts)
            self._splits = {name: Part(self.dataset, places) for name, places in parts.items()}
        return self._splits[split]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; those of a dataset have ``"all"`` beside them."""
        return SPLITS if self.dataset is None else (*SPLITS, ALL)

    def size(self, split: str) -> int:
        """Number of samples in a split."""
        samples = self._samples(split)
        if samples is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no samples of its own: override size or pass dataset="
            )
        return len(samples)

    def sample(self, split: str, index: int) -> Sample:
        """Sample ``index`` of ``split``: a function of both alone, the same on every machine."""
        samples = self._samples(split)
        if samples is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no samples of its own: override sample or pass dataset="
            )
        return samples[index]

    def gold_parts(self, sample: Sample, response: Response) -> dict[str, float]:
        """Parts of gold by name, each in [0, 1]; gold is their product. Empty where gold has no parts or is unknown."""
        return {}

    def gold(self, sample: Sample, response: Response) -> float | None:
        """The true quality of a response, in [0, 1]; None where it is not known.

        A task whose gold has parts overrides ``gold_parts`` and leaves this method as it is.
        """
        parts = self.gold_parts(sample, response)
        return math.prod(parts.values()) if parts else None

    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        """The next turn of a dialogue after ``response``; None when the episode is over."""
        return self.dataset.follow_up(sample, response) if isinstance(self.dataset, SplitDataset) else None

    def metadata(self) -> dict[str, Any]:
        """Task settings that are saved with a run."""
        return {"task": self.name, "image_size": self.image_size}


def _tokenizer_of(texts: list[str]) -> Tokenizer:
    """The embedded tokenizer where it has all words of some texts, else one learned from them."""
    from mmenv.worlds.vocabulary import world_tokenizer

    world = world_tokenizer()
    return world if all(world.unk_id not in world.encode(text) for text in texts) else learn_tokenizer(texts)


# Once a dataset and tokenizer, however many environments there are.
@functools.lru_cache(maxsize=16)
def _learned(dataset: SplitDataset) -> Tokenizer:
    return _tokenizer_of([*dataset.prompts(), *(text for several in dataset.references() for text in several)])


@functools.lru_cache(maxsize=16)
def _longest(dataset: SplitDataset, tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Sizes of the longest prompt (tokens), response (tokens with the end) and utterance (samples at 16 kHz)."""
    frames, turns = dataset.longest()
    per_reply = REPLY_WORDS_KEPT if isinstance(tokenizer, WordTokenizer) else REPLY_BYTES_KEPT + 1
    longest_prompt = max((len(tokenizer.encode(prompt)) for prompt in dataset.prompts()), default=0)
    texts = {text for references in dataset.references() for text in references}
    longest_response = max((len(tokenizer.encode(text)) + 1 for text in texts), default=0)
    # The prompt of a dialogue holds all earlier prompts and replies.
    prompt = turns * longest_prompt + (turns - 1) * per_reply
    return prompt, min(longest_response, LONGEST_RESPONSE), -(-frames // AUDIO_STEP) * AUDIO_STEP
