"""Captioning: say in a few sentences what a picture shows."""

from __future__ import annotations

from mmenv.data.sample import CAPTION_PROMPT, Response, Sample
from mmenv.tasks.world_task import WorldTask
from mmenv.worlds.captions import caption_parts
from mmenv.worlds.painter import paint
from mmenv.worlds.samples import draw_caption


class Captioning(WorldTask):
    """Captioning.

    ## Description

    A picture of two to four things (five to eight at the level "hard"), to be described in a few sentences: what is
    there and how many, on which plates, with which letters and digits, and how things lie to each other. Gold reads a
    caption claim by claim, in whatever order and wording: it is the F1 of the claims, what is said twice or
    wrongly counts against it, times a factor for brevity and grammar; silence earns nothing.

    ## Observation Space

    A `Dict`: `image` uint8 (96, 96, 3); `prompt` int64 (6,), always the same words; `response` int64 (48,), at the
    level "hard" (96,).
    """

    name = "captioning"
    max_prompt_tokens = 6
    budgets = {"plain": 48, "hard": 96}  # noqa: RUF012

    def draw(self, split: str, index: int) -> Sample:
        """Sample ``index`` of a split; its truth is the scene."""
        scene, caption = draw_caption(self.level, split, index, shift=self.shift_of(split))
        return Sample(
            id=self.sample_id(split, index),
            index=index,
            prompt=CAPTION_PROMPT,
            image=paint(scene, self.image_size),
            references=(caption,),
            truth=scene,
            family=self.name,
        )

    def gold_parts(self, sample: Sample, response: Response) -> dict[str, float]:
        """F1 of the claims, brevity and grammar; empty for samples of a dataset."""
        return caption_parts(sample.truth, response.text) if sample.truth is not None else {}
