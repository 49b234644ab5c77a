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
    """Visual question answering: a picture, a written question, a short answer.

    ## Description

    The picture shows two to eight things (six to twelve at the level "hard"). Some are on coloured plates, some have a
    letter or a digit. The question belongs to one of fifteen families, such as existence, count, relation, or the sum
    of digits; at the level "hard" only the harder families are asked.

    Gold says how correct the answer is; its wording makes no difference. It is 1 for the right answer, one third for
    the category of the thing instead of its name, and 0 for a wrong answer or for several answers. This value is
    multiplied by two factors, for brevity and for grammar.

    ## Observation Space

    A `Dict`: `image` uint8 (96, 96, 3); `prompt` int64 (20,), the question, right-padded; `response` int64 (16,),
    the tokens written so far, right-padded.
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
