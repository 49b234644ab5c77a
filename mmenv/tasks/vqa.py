"""Visual question answering: a picture, a written question, a short answer."""

from __future__ import annotations

from typing import Any

from mmenv.data.sample import Response, Sample
from mmenv.tasks.world_task import WorldTask
from mmenv.worlds.grid import Scene, draw_scene
from mmenv.worlds.grid_questions import FAMILIES, HARD_FAMILIES, answers, ask, credit_parts, pick


class VQA(WorldTask):
    """Visual question answering.

    ## Description

    A picture of two to four things on a three by three grid, and a written question of one of nine families:
    existence, count, comparison of counts, what is at a place, relation, category, odd one out, two steps, where.
    The Hard id shows five or six things and asks the hardest three families: count, comparison, two steps. The
    Shifted id draws its test split in a style never trained on, and shows that split unless told otherwise; its
    other splits are the plain id's. Gold is the accuracy of VQA (three of ten people make an answer right), times a
    factor for brevity and grammar.

    ## Observation Space

    A `Dict`: `image` uint8 (48, 48, 3); `prompt` int64 (16,), right-padded; `response` int64 (16,), the tokens so
    far.
    """

    name = "vqa"
    key = 1

    def compose(self, split: str, index: int) -> tuple[Scene, str, tuple[str, ...], Any]:
        """Scene, question, answers of ten people, and the truth: scene and ``Question``."""
        rng = self.rng(split, index)
        family = pick(rng, HARD_FAMILIES if self.variant == "hard" else FAMILIES)
        odd = family == "odd one out"
        low, high = self.counts[self.variant]
        while True:
            scene = draw_scene(rng, (max(low, 3) if odd else low, high), self.style(split), odd=odd)
            question = ask(family, scene, rng, test=split == "test")
            if question is not None:
                return scene, question.text, answers(question), (scene, question)

    def family(self, truth: Any) -> str:
        """Family of the question."""
        return str(truth[1].family)

    def gold_parts(self, sample: Sample, response: Response) -> dict[str, float]:
        """Accuracy of VQA, brevity and grammar; empty for samples of a dataset."""
        return credit_parts(sample.references, response.text) if sample.truth is not None else {}
