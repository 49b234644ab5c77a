"""The shape that every training script here measures, read from the command line."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Shape:
    """Sizes of the network, of the sequences and of the work; one number each.

    Attributes:
        width, layers, heads: of the transformer.
        image, prompt: tokens before the response; the prompt's include the start token.
        response: tokens of a response.
        vocab: number of tokens.
        batch: responses of one update.
        group: responses to one context, in mmenv alone: TRL's GRPO always has eight, the bare loop one.
        epochs: passes over them.
        updates: timed updates, after one that is not timed.
        threads: torch threads.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    image: int = 9
    prompt: int = 17
    response: int = 16
    vocab: int = 64
    batch: int = 256
    group: int = 1
    epochs: int = 2
    updates: int = 4
    threads: int = 1

    @property
    def prefix(self) -> int:
        return self.image + self.prompt

    def arguments(self) -> list[str]:
        """The command line that gives this shape."""
        return [f"--{name}={value}" for name, value in asdict(self).items()]


def read_shape() -> Shape:
    """The shape that the command line asks for."""
    parser = argparse.ArgumentParser()
    for field in fields(Shape):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    return Shape(**vars(parser.parse_args()))


def report(tokens: int, seconds: float, **more: float) -> None:
    """Print the one line that the parent reads: response tokens trained on, and seconds."""
    print(json.dumps({"tokens_per_second": tokens / seconds, "tokens": tokens, "seconds": seconds, **more}))
