"""The base class of tasks on the embedded world."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mmenv.arguments import one_of
from mmenv.data.sample import Sample
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer
from mmenv.worlds.grid import SPLIT_SIZES, Scene, generator, paint, split_key

VARIANTS = ("plain", "hard", "shifted")
# What follows the observations in the docstring of every task on the world.
SECTIONS = """

## Action Space

`Discrete(401)`: the next token. Token 0 is padding: the mask excludes it, and the environment refuses it as
an invalid action. Token 1 ends a response, token 2 is the unknown word, the others are the words of the world.

## Rewards

0 until the response ends, then the score of the reward function (one that offers `per_token` pays at the
tokens, too): by default the strong preference model, whose
scores of the supervised start have mean 0 and standard deviation 1. `info["gold"]` says beside it what is true,
in [0, 1].

## Starting State

{starting_state}

## Episode End

{episode_end}

## Arguments

`dataset`, `split`, `reward`, `tokenizer`, `max_response_tokens`, `image_size` (48, 96 or 192),
`action_masking`, `render_mode`; of the vector env also `autoreset_mode`, `copy`, `max_episode_steps`.

## Version History

- v0: first version.
"""


class WorldTask(Task):
    """A task on the embedded world; a subclass overrides ``compose``, or ``sample``.

    Class attributes:
        counts: least and greatest number of things in a scene, by variant.
        key: number of the task in the key of its random generators.
        starting_state, episode_end: sections of the docstring; ``SECTIONS`` is appended to it.

    Args:
        dataset, image_size, tokenizer: see ``Task``.
        variant: ``"plain"``, ``"hard"`` (more things, harder questions), or ``"shifted"`` (its test split is drawn or
            spoken as no other split is).

    Raises:
        ValueError: there is no such variant.
    """

    counts: ClassVar[dict[str, tuple[int, int]]] = {"plain": (2, 4), "shifted": (2, 4), "hard": (5, 6)}
    key: ClassVar[int] = 0
    starting_state: ClassVar[str] = """\
A sample of the split, drawn uniformly by the lane's own generator or named by `options={"sample_index": i}`; an
empty response, or one that begins with the tokens of `options={"response": tokens}`."""
    episode_end: ClassVar[str] = """\
Terminated by an end token (`info["stop"]` is "eos") or after {budget} tokens ("budget"). Never truncated by
itself."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__doc__ and "## Observation Space" in cls.__doc__:
            end = cls.episode_end.replace("{budget}", str(cls.max_response_tokens))
            sections = SECTIONS.replace("{starting_state}", cls.starting_state).replace("{episode_end}", end)
            cls.__doc__ = inspect.cleandoc(cls.__doc__) + sections

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        variant: str = "plain",
    ) -> None:
        self.variant = one_of("variant", variant, VARIANTS)
        super().__init__(dataset, image_size, tokenizer)

    def size(self, split: str) -> int:
        """Number of samples in a split."""
        return SPLIT_SIZES[split] if self.dataset is None else super().size(split)

    def rng(self, split: str, index: int, *more: int) -> np.random.Generator:
        """The generator of a sample; the plain and the shifted variant have the same one."""
        return generator(2026, self.key, int(self.variant == "hard"), split_key(split), index, *more)

    def compose(self, split: str, index: int) -> tuple[Scene, str, tuple[str, ...], Any]:
        """Scene, prompt, references and truth of a sample."""
        raise NotImplementedError(f"{type(self).__name__} composes no samples: override compose or sample")

    def family(self, truth: Any) -> str:
        """Family of the question that ``compose`` made: the task's name where a task has one kind of question."""
        return self.name

    def sample(self, split: str, index: int) -> Sample:
        """Sample ``index`` of ``split``: a function of both alone, the same on every machine."""
        if self.dataset is not None:
            return super().sample(split, index)
        scene, prompt, references, truth = self.compose(split, index)
        return Sample(
            id=f"{self.name}/{self.variant}/{split}/{index}",
            index=index,
            prompt=prompt,
            image=paint(scene, self.image_size),
            references=references,
            truth=truth,
            family=self.family(truth),
        )

    def style(self, split: str) -> str:
        """Drawing style of a split."""
        return "twemoji" if self.variant == "shifted" and split == "test" else "noto"

    def metadata(self) -> dict[str, Any]:
        """What distinguishes this task in a run's record."""
        return {**super().metadata(), "variant": self.variant}
