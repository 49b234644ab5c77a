"""Captioning: say in a few sentences what a picture shows."""

from __future__ import annotations

from mmenv.data.sample import CAPTION_PROMPT, Response, Sample
from mmenv.tasks.world_task import WorldTask
from mmenv.worlds.captions import caption_parts
from mmenv.worlds.painter import paint
from mmenv.worlds.samples import draw_caption


class Captioning(WorldTask):
    """Captioning: a picture, described in a few sentences.

    ## Description

    The picture shows two to four things (five to eight at the level "hard"). A caption should say which things there
    are and how many, which plates they are on, which letters and digits they have, and where they are.

    Gold splits a caption into such claims; order and wording make no difference. It is the F1 of the claims: wrong and
    repeated claims reduce precision, missing claims reduce recall. This value is multiplied by two factors, for brevity
    and for grammar. An empty caption has gold 0.

    ## Observation Space

    A `Dict`: `image` uint8 (96, 96, 3); `prompt` int64 (6,), always the same words; `response` int64 (48,), the
    tokens written so far, right-padded; at the level "hard" (96,).
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
