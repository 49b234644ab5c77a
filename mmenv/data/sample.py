"""Sample and Response: what tasks, environments, rewards and feedback speak of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CAPTION_PROMPT = "what do you see ?"
REPLY_WORDS_KEPT = 5  # of what an agent said, in the prompt of a dialogue's next turn
REPLY_BYTES_KEPT = (
    80  # of these words; no tokenizer makes more tokens of a text than it has bytes, so prompts have room
)


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
        said: words of the audio, for people who read; no observation holds them. ``""`` where they are not known.
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


@dataclass(frozen=True, slots=True)
class Response:
    """A finished response.

    Attributes:
        text: the decoded words, end token left out.
        tokens: the actions as taken, end token included, padding never.
        stop: ``"eos"``, ``"budget"``, or ``"pad"`` where padding was taken, which ends a response too.
    """

    text: str
    tokens: tuple[int, ...] = ()
    stop: str = "eos"


def kept_of_reply(words: Sequence[str]) -> str:
    """The first words of a reply, as many as the prompt of the next turn has room for."""
    kept = ""
    for word in words[:REPLY_WORDS_KEPT]:
        longer = f"{kept} {word}".strip()
        if len(longer.encode("utf-8", "replace")) > REPLY_BYTES_KEPT:
            break
        kept = longer
    return kept


class SplitDataset(Sequence[Sample]):
    """Samples that know their splits, their texts, and how their dialogues go on."""

    @abstractmethod
    def split(self, name: str) -> Sequence[Sample]:
        """The samples of ``"train"``, ``"validation"`` or ``"test"``; all of them where there are no splits."""

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


def distinct_contexts(samples: Sequence[Sample]) -> tuple[list[int], np.ndarray]:
    """Where several samples have the same image, audio and prompt, so that a network reads them once.

    Returns:
        the first sample of each of the K contexts, and for each of the n samples which context it has, int64 (n,)
    """
    known: dict[tuple[str, bytes, bytes], int] = {}
    firsts: list[int] = []
    contexts = np.empty(len(samples), np.int64)
    for i, sample in enumerate(samples):
        media = (b"" if x is None else x.tobytes() for x in (sample.image, sample.audio))
        contexts[i] = known.setdefault((sample.prompt, *media), len(firsts))  # type: ignore[arg-type]
        if contexts[i] == len(firsts):
            firsts.append(i)
    return firsts, contexts
