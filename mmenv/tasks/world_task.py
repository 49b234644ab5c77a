"""The base class of tasks on the embedded world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mmenv.data.sample import Sample
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer
from mmenv.worlds.scenes import SPLIT_SIZES, Scene, generator, paint, split_key

VARIANTS = ("plain", "hard", "shifted")


class WorldTask(Task):
    """A task on the embedded world; a subclass overrides ``compose``, or ``sample``.

    Class attributes:
        counts: least and greatest number of things in a scene, by variant.
        key: number of the task in the key of its random generators.

    Args:
        dataset, image_size, tokenizer: see ``Task``.
        variant: ``"plain"``, ``"hard"`` (more things, harder questions), or ``"shifted"`` (its test split is drawn or
            spoken as no other split is).

    Raises:
        ValueError: there is no such variant.
    """

    counts: ClassVar[dict[str, tuple[int, int]]] = {"plain": (2, 4), "shifted": (2, 4), "hard": (5, 6)}
    key: ClassVar[int] = 0

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        variant: str = "plain",
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r} is none of {VARIANTS}")
        self.variant = variant
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
        )

    def style(self, split: str) -> str:
        """Drawing style of a split."""
        return "twemoji" if self.variant == "shifted" and split == "test" else "noto"

    def metadata(self) -> dict[str, Any]:
        """What distinguishes this task in a run's record."""
        return {**super().metadata(), "variant": self.variant}
