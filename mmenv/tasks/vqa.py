"""Visual question answering: a picture, a written question, a short answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmenv.data.sample import Response, Sample
from mmenv.data.world import SPLIT_SIZES, Scene, draw_scene, generator, paint, split_key
from mmenv.tasks.base import Task
from mmenv.tasks.questions import FAMILIES, HARD_FAMILIES, Question, answers, credit
from mmenv.tokenizer import Tokenizer

VARIANTS = ("plain", "hard", "shifted")


class WorldTask(Task):
    """A task on the embedded world.

    Args:
        dataset, image_size, tokenizer: see ``Task``.
        variant: ``"plain"``, ``"hard"`` (more things, harder questions), or ``"shifted"`` (its test split is drawn or
            spoken as no other split is).
    """

    counts: ClassVar[dict[str, tuple[int, int]]] = {"plain": (2, 4), "shifted": (2, 4), "hard": (4, 6)}
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
        return SPLIT_SIZES[split] if self.dataset is None else super().size(split)

    def rng(self, split: str, index: int, *more: int):  # type: ignore[no-untyped-def]
        """The generator of a sample: plain and shifted share theirs."""
        return generator(2026, self.key, int(self.variant == "hard"), split_key(split), index, *more)

    def style(self, split: str) -> str:
        return "twemoji" if self.variant == "shifted" and split == "test" else "noto"

    def metadata(self) -> dict[str, Any]:
        return {**super().metadata(), "variant": self.variant}


class VQA(WorldTask):
    """Questions of nine families about two to four things (four to six when hard)."""

    name = "vqa"
    key = 1

    def question(self, split: str, index: int) -> tuple[Scene, Question]:
        """The scene and question of a sample."""
        rng = self.rng(split, index)
        names = list(FAMILIES) if self.variant != "hard" else list(HARD_FAMILIES)
        family = names[int(rng.integers(len(names)))]
        low, high = self.counts[self.variant]
        held = False if split != "test" else None
        while True:
            odd = family == "odd one out"
            scene = draw_scene(rng, (max(low, 3) if odd else low, high), self.style(split), odd=odd)
            question = FAMILIES[family](scene, rng, held)
            if question is not None:
                return scene, question

    def sample(self, split: str, index: int) -> Sample:
        if self.dataset is not None:
            return super().sample(split, index)
        scene, question = self.question(split, index)
        return Sample(
            id=f"{self.name}/{self.variant}/{split}/{index}",
            index=index,
            prompt=question.text,
            image=paint(scene, self.image_size),
            references=answers(question),
            truth=(scene, question),
        )

    def gold(self, sample: Sample, response: Response) -> float | None:
        return credit(sample.references, response.text) if sample.truth is not None else None

