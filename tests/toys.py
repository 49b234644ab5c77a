"""Small tasks with known answers, for tests that need no drawings and no weights."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
from collections.abc import Sequence

import numpy as np

from mmenv.data.sample import Response, Sample
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer, WordTokenizer

WORDS = ("red", "green", "blue", "what", "colour", "is", "it", "?", "you", "said", "again")
RED, GREEN, BLUE, END, PAD = 3, 4, 5, 1, 0
NAMES = ("red", "green", "blue")


def colour(index: int, side: int = 8) -> Sample:
    """A picture of one colour, and its name."""
    image = np.zeros((side, side, 3), np.uint8)
    image[..., index % 3] = 255 - index % 50
    return Sample(f"colours/{index}", index, "what colour is it ?", image=image, references=(NAMES[index % 3],))


def pictured(index: int) -> Sample:
    """A colour with every field filled in."""
    plain = colour(index)
    tone = np.full(9, index % 97 / 97, np.float32)
    return Sample(plain.id, index, plain.prompt, plain.image, tone, plain.references, turn=index % 3, said=f"é {index}")


class Colours(Task):
    """Name the colour: gold is the share of words that are right."""

    name = "colours"
    modalities = ("image",)
    max_prompt_tokens = 6
    max_response_tokens = 4
    image_sizes = (8, 16)

    def default_tokenizer(self) -> Tokenizer:
        return WordTokenizer(WORDS)

    def size(self, split: str) -> int:
        return 300 if self.dataset is None else super().size(split)

    def sample(self, split: str, index: int) -> Sample:
        return colour(index, self.image_size) if self.dataset is None else super().sample(split, index)

    def gold(self, sample: Sample, response: Response) -> float | None:
        words = response.text.split()
        return sum(w == sample.references[0] for w in words) / max(1, len(words))


class Unknown(Colours):
    """The same pictures, and nobody knows the truth of the odd ones."""

    def gold(self, sample: Sample, response: Response) -> float | None:
        return super().gold(sample, response) if sample.index % 2 == 0 else None


class Talk(Colours):
    """Two or three replies about a colour, asked by a tone."""

    name = "talk"
    modalities = ("image", "audio")
    max_prompt_tokens = 24
    max_audio_samples = 64

    def sample(self, split: str, index: int) -> Sample:
        return self.turn(index, 0, "")

    def turn(self, index: int, turn: int, prompt: str) -> Sample:
        """What the user says in a turn."""
        tone = np.full(20 + turn, 0.1 * (turn + 1), np.float32)
        picture = colour(index, self.image_size)
        return Sample(
            f"talk/{index}/{turn}", index, prompt, picture.image, tone, references=picture.references, turn=turn,
            said="what colour is it ?",
        )  # fmt: skip

    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        if sample.turn + 1 >= 2 + sample.index % 2:
            return None
        words = [w for w in response.text.split() if w in WORDS]
        return self.turn(sample.index, sample.turn + 1, " ".join([sample.prompt, "you said", *words]).strip())


def characters(samples: Sequence[Sample], responses: Sequence[Response]) -> list[float]:
    """A plain function as reward: the length of the text."""
    return [float(len(r.text)) for r in responses]


class Counted:
    """A reward that remembers how often it was called and with how many responses."""

    name = "counted"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        self.calls.append(len(samples))
        return np.array([len(r.tokens) + 0.25 * s.index for s, r in zip(samples, responses, strict=True)], np.float32)


def exact(samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
    """A reward in which everything counts that a score may hang on: any two questions differ in it."""
    said = (
        repr((s.id, s.index, s.prompt, s.references, s.turn, s.said, r.text, r.tokens, r.stop)).encode()
        + b"".join(x.tobytes() for x in (s.image, s.audio) if x is not None)
        for s, r in zip(samples, responses, strict=True)
    )
    return np.array([int.from_bytes(hashlib.sha256(x).digest()[:3]) / 2**24 for x in said], np.float32)


_calls = itertools.count(1)


def mortal(samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
    """``exact`` in a process that is killed in its call of number ``DIES_AT`` of the environment, if that is set."""
    if next(_calls) == int(os.environ.get("DIES_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return exact(samples, responses)
