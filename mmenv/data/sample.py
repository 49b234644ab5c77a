"""Sample and Response: the data that tasks, environments, rewards and feedback share."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np


class DatasetWarning(UserWarning):
    """A dataset is not used as it is written: some entries are left out, or it is divided into splits."""


CAPTION_PROMPT = "what do you see ?"
REPLY_WORDS_KEPT = 5  # of what an agent said, in the prompt of a dialogue's next turn
# Of these words; no tokenizer makes more tokens of a text than it has bytes, so prompts have room.
REPLY_BYTES_KEPT = 80

SPLITS = ("train", "validation", "test")
ALL = "all"  # the samples of every split
_SHARES = (0.8, 0.9)  # where validation and test begin, as shares of all hashes


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One thing to respond to; media are read-only and shared, so never write into them.

    Attributes:
        id: stable name, unique within a dataset, for example ``"vqa/test/17"``.
        index: position in its split.
        prompt: text of the prompt; in dialogue the turns so far, ``""`` at the first.
        image: uint8 (H, W, 3), or None.
        audio: float32 (T,) at 16 kHz in [-1, 1] without padding, or None.
        references: answers or captions that people would accept; the first is the best.
        truth: whatever the task's ``gold`` needs (a scene, a question); None where the truth is unknown.
        turn: number of the reply within its episode, 0 outside dialogue.
        said: transcript of the audio, for people; it is in no observation. ``""`` where it is not known.
        family: kind of question, ``"count"`` for example; ``""`` where samples have none.
    """

    id: str
    index: int
    prompt: str
    image: np.ndarray | None = None
    audio: np.ndarray | None = None
    references: tuple[str, ...] = ()
    truth: Any = None
    turn: int = 0
    said: str = ""
    family: str = ""

    @property
    def text(self) -> str:
        """Prompt and transcript of the audio, for readers without sound."""
        return " ".join(filter(None, (self.prompt, self.said)))


@dataclass(frozen=True, slots=True)
class Response:
    """A finished response.

    Attributes:
        text: the decoded words, end token left out.
        tokens: the actions as taken, end token included, padding never.
        stop: ``"eos"`` after an end token, ``"budget"`` where the budget was used up; ``""`` while it is being written,
            which only rewards that pay at the tokens see.
    """

    text: str
    tokens: tuple[int, ...] = ()
    stop: str = "eos"


def kept_of_reply(words: Sequence[str], most: int = REPLY_WORDS_KEPT) -> str:
    """The first words of a reply, at most ``most``: as many as the prompt of the next turn has room for."""
    text = ""
    for word in words[:most]:
        longer = f"{text} {word}".strip()
        if len(longer.encode("utf-8", "replace")) > REPLY_BYTES_KEPT:
            break
        text = longer
    return text


class LazySamples(Sequence[Sample]):
    """A sequence whose samples are made or loaded when they are used: a subclass overrides ``__len__`` and ``load``."""

    @abstractmethod
    def load(self, place: int) -> Sample:
        """The sample at a place, 0 <= place < len(self)."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self.load(place) for place in range(len(self))[index]]
        return self.load(range(len(self))[index])


class SplitDataset(LazySamples):
    """Samples that know their splits, their texts, and how their dialogues go on."""

    @abstractmethod
    def split(self, name: str) -> Sequence[Sample]:
        """The samples of ``"train"``, ``"validation"``, ``"test"`` or ``"all"``."""

    @abstractmethod
    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        """The turn after ``sample``; None after the last."""

    @abstractmethod
    def references(self) -> Iterator[tuple[str, ...]]:
        """References of every response that the training split asks for."""

    @abstractmethod
    def prompts(self) -> Iterator[str]:
        """Distinct prompts of all splits."""

    @abstractmethod
    def longest(self) -> tuple[int, int]:
        """The longest utterance in samples at 16 kHz, and how many turns the longest dialogue has."""


def divided(ids: Sequence[str]) -> dict[str, list[int]]:
    """Places of the samples of each split, by a hash of their ids: 80 in 100 for training, 10 and 10 for the others.

    Whatever is added later, a sample stays in its split. Where that leaves a split empty, a tenth of the samples in the
    order of their hashes, at least one, makes it; of fewer than three samples each split has all.
    """
    if len(ids) < 3:
        return {name: list(range(len(ids))) for name in SPLITS}
    hashes = [int.from_bytes(hashlib.sha256(i.encode("utf-8", "replace")).digest()[:8], "big") / 2**64 for i in ids]
    split_of = [sum(h >= share for share in _SHARES) for h in hashes]
    if len(set(split_of)) < len(SPLITS):
        tenth = max(1, len(ids) // 10)
        order = sorted(range(len(ids)), key=lambda i: (hashes[i], i))
        ranks = {i: rank for rank, i in enumerate(order)}
        split_of = [sum(ranks[i] >= len(ids) - k * tenth for k in (1, 2)) for i in range(len(ids))]
    return {name: [i for i, k in enumerate(split_of) if k == number] for number, name in enumerate(SPLITS)}


def say_how_divided(name: str, parts: dict[str, list[int]]) -> None:
    """Warn that a dataset without splits was divided, and how."""
    counts = ", ".join(f"{len(places):,} for {split}" for split, places in parts.items())
    how = (
        "has too few samples to divide: all are" if parts["train"] == parts["test"] else "is divided by a hash of ids:"
    )
    remedy = f"name a split for each sample, or give split={ALL!r} for all of them"
    warnings.warn(f"{name} has no splits and {how} {counts}; {remedy}", DatasetWarning, stacklevel=4)


class Part(LazySamples):
    """Some samples of a sequence as a split: each has the index of its place here.

    Args:
        samples: loaded when they are used.
        places: those that belong to the split.
    """

    def __init__(self, samples: Sequence[Sample], places: Sequence[int]) -> None:
        self.samples = samples
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def load(self, place: int) -> Sample:
        """The sample at a place of the split."""
        sample = self.samples[self.places[place]]
        # An object of another class is refused by the environment, which names it.
        return replace(sample, index=place) if isinstance(sample, Sample) else sample


def distinct_contexts(samples: Sequence[Sample]) -> tuple[list[int], np.ndarray]:
    """The distinct combinations of image, audio and prompt, so that a network encodes each once.

    Returns:
        the first sample of each of the K contexts, and for each of the n samples which context it has, int64 (n,)
    """
    numbers: dict[tuple[str, bytes, bytes], int] = {}
    firsts: list[int] = []
    contexts = np.empty(len(samples), np.int64)
    for i, sample in enumerate(samples):
        media = (b"" if x is None else x.tobytes() for x in (sample.image, sample.audio))
        contexts[i] = numbers.setdefault((sample.prompt, *media), len(firsts))  # type: ignore[arg-type]
        if contexts[i] == len(firsts):
            firsts.append(i)
    return firsts, contexts
