"""Visual question answering: a picture, a written question, a short answer."""

from __future__ import annotations

from mmenv.data.sample import Response, Sample
from mmenv.tasks.world_task import WorldTask
from mmenv.worlds.answers import answer_parts
from mmenv.worlds.painter import paint
from mmenv.worlds.questions import Question
from mmenv.worlds.samples import draw_question

PEOPLE = 10  # whose answers are the references, as in the data set VQA


class VQA(WorldTask):
    """Visual question answering.

    ## Description

    A picture of two to eight things that lie freely, some on coloured plates, some with a letter or a digit (six to
    twelve at the level "hard"), and a written question of one of fifteen families, from existence and count to
    two steps and sums of digits; at the level "hard" of the harder families. Gold is what the reply says, however it
    is worded: 1 for the right answer, a third for a rougher one (a category for a name), 0 for a wrong answer or for
    several; times a factor for brevity and grammar.

    ## Observation Space

    A `Dict`: `image` uint8 (96, 96, 3); `prompt` int64 (20,), right-padded; `response` int64 (16,), the tokens so
    far.
    """

    name = "vqa"
    max_prompt_tokens = 20

    def draw(self, split: str, index: int) -> Sample:
        """Sample ``index`` of a split; its truth is (scene, ``Question``)."""
        scene, question = draw_question(self.level, split, index, shift=self.shift_of(split))
        return Sample(
            id=self.sample_id(split, index),
            index=index,
            prompt=question.text,
            image=paint(scene, self.image_size),
            references=answers_of_people(question),
            truth=(scene, question),
            family=question.family,
        )

    def gold_parts(self, sample: Sample, response: Response) -> dict[str, float]:
        """Correctness, brevity and grammar; empty for samples of a dataset."""
        if sample.truth is None:
            return {}
        scene, question = sample.truth
        return answer_parts(question.text, question.answer, response.text, question.rough, scene=scene)


def answers_of_people(question: Question) -> tuple[str, ...]:
    """The answers of ten people: nine times the right one, and once the rougher one where there is one."""
    return (question.answer,) * (PEOPLE - 1) + (question.rough or question.answer,)
