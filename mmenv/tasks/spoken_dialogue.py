"""Spoken dialogue: a user who asks aloud about a picture, follows up, and refers back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmenv.data.sample import REPLY_BYTES_KEPT, Response, Sample, kept_of_reply
from mmenv.tasks.world_task import WorldTask
from mmenv.tokenizer import Tokenizer, WordTokenizer
from mmenv.worlds.dialogues import SAID
from mmenv.worlds.grid import RELATIONS, Scene, Thing, article, categories, concepts, draw_scene, paint
from mmenv.worlds.grid_questions import (
    Family,
    Question,
    allowed,
    answers,
    category,
    count,
    credit,
    credit_parts,
    pick,
    what_is_at,
    yes_or_no,
)
from mmenv.worlds.grid_speech import SHIFTED_VOICE, speak
from mmenv.worlds.neural_voice import NeuralVoice

RECORDED = "recorded"


class TurnTruth(NamedTuple):
    """The truth of one turn.

    Attributes:
        split: of the dialogue.
        scene: what the picture shows.
        question: what the user asks.
        turns: number of turns of the dialogue.
        it: the thing that the user may call "it", or None.
    """

    split: str
    scene: Scene
    question: Question
    turns: int
    it: Thing | None


def spoken_existence(scene: Scene, rng: np.random.Generator) -> Question:
    """``existence`` with names that were recorded: ``is there a dog ?`` - ``yes``."""
    spoken = [c for c in concepts() if c.spoken]
    present = [t for t in scene.things if concepts()[t.concept].spoken]
    if rng.random() < 0.4:
        kinds = {t.category for t in scene.things}
        name = pick(rng, sorted(kinds) if rng.random() < 0.5 else list(categories()))
        return Question(f"are there any {categories()[name]} ?", yes_or_no(name in kinds), "existence")
    name = pick(rng, present).name if present and rng.random() < 0.5 else pick(rng, spoken).name
    return Question(f"is there {article(name)} {name} ?", yes_or_no(bool(scene.named(name))), "existence")


def spoken_count(scene: Scene, rng: np.random.Generator) -> Question | None:
    """``count`` of all things or of a category: ``how many animals are there ?`` - ``two``.

    None where ``count`` draws a concept, whose name may not have been recorded.
    """
    question = count(scene, rng)
    return None if question.text.startswith("count") else question


OPENINGS: tuple[Family, ...] = (what_is_at, what_is_at, category, spoken_existence, spoken_count)


def opening(scene: Scene, rng: np.random.Generator) -> Question:
    """A question that does not refer to an earlier turn."""
    while True:
        question = pick(rng, OPENINGS)(scene, rng)
        if question is not None:
            return question


def referring(scene: Scene, it: Thing, rng: np.random.Generator, test: bool) -> Question | None:
    """A question about the thing that was named last: ``and what is left of it ?`` - ``car``.

    Args:
        scene: what the picture shows.
        it: the thing.
        rng: source of randomness.
        test: whether combinations of thing and relation are allowed that only the test split has.
    """
    form = rng.random()
    if form < 0.3:
        return Question("and what kind of thing is it ?", it.category, "category", None, it)
    if form < 0.4:
        return Question("and where is it ?", it.place, "where", None, it)
    options = [(r, n) for r in RELATIONS if allowed(it, r, test) and (n := scene.beside(it, r))]
    if not options:
        return None
    name, neighbour = pick(rng, options)
    return Question(f"and what is {name} it ?", neighbour.name, "relation", neighbour.category, neighbour)


class SpokenDialogue(WorldTask):
    """Spoken dialogue.

    ## Description

    Two to four turns about a picture of two to four things (five or six in the Hard id). The user asks aloud, in
    one of two voices, at varying speed, over a little noise; the written `prompt` holds what the agent itself has
    said so far. After a right reply that named a thing the user may call it "it"; after a wrong one the user says
    "no" and asks again. Each reply is one response with a reward and a gold of its own. The Shifted id's test split
    has another voice, louder noise with a hum, and another drawing style, and is shown unless told otherwise; its
    other splits are the plain id's.

    ## Observation Space

    A `Dict`: `image` uint8 (48, 48, 3); `audio` float32 (40000,) at 16 kHz in [-1, 1], what the user says now,
    zero-padded; `prompt` int64 (32,); `response` int64 (16,).
    """

    name = "dialogue"
    modalities = ("image", "audio")
    key = 3
    max_prompt_tokens = 32
    max_audio_samples = 40_000
    turns = (2, 4)
    starting_state = """\
The first turn of a sample of the split, drawn uniformly by the lane's own generator or named by
`options={"sample_index": i}`; an empty prompt, and an empty response or one that begins with the tokens of
`options={"response": tokens}`."""
    episode_end = """\
A reply ends by an end token or after {budget} tokens; that step pays its score and brings the next
utterance with an empty response. The last reply terminates the episode. Never truncated by itself."""

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        variant: str = "plain",
        voice: str = RECORDED,
    ) -> None:
        """``voice`` is ``"recorded"`` or the path of a Piper voice (``.onnx``); for the rest see ``WorldTask``."""
        if voice != RECORDED and not Path(voice).is_file():
            raise ValueError(f"voice={voice!r} is neither {RECORDED!r} nor the path of a voice: give one of the two")
        self.voice = voice
        super().__init__(dataset, image_size, tokenizer, variant)
        if dataset is None and not isinstance(self.tokenizer, WordTokenizer):
            # Whatever a reply is to another tokenizer, what is kept of it has no more tokens than bytes.
            self.max_prompt_tokens = (self.turns[1] - 1) * (REPLY_BYTES_KEPT + len(SAID))

    def metadata(self) -> dict[str, Any]:
        return super().metadata() | ({} if self.voice == RECORDED else {"voice": self.voice})

    def sample(self, split: str, index: int) -> Sample:
        if self.dataset is not None:
            return super().sample(split, index)
        rng = self.rng(split, index)
        scene = draw_scene(rng, self.counts[self.variant], self.style(split))
        turns = int(rng.integers(self.turns[0], self.turns[1] + 1))
        question = opening(scene, rng)
        truth = TurnTruth(split, scene, question, turns, named(question))
        return self._say(index, 0, "", truth, question.text)

    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        """The next turn: after a wrong reply the same question again; a dataset's dialogue goes on in any case."""
        truth = sample.truth
        if not isinstance(truth, TurnTruth):
            return super().follow_up(sample, response)
        number = sample.turn + 1
        if number >= truth.turns:
            return None
        # Of a script without spaces every character is a token: words alone would not bound the next prompt.
        split_up = self.tokenizer.pieces if isinstance(self.tokenizer, WordTokenizer) else str.split
        said = kept_of_reply(split_up(response.text))
        transcript = f"{sample.prompt} {SAID.format(said)}".strip()
        if credit(sample.references, response.text) < 0.5:
            return self._say(sample.index, number, transcript, truth, f"no {truth.question.text}")
        rng = self.rng(truth.split, sample.index, number)
        question = None
        if truth.it is not None:
            question = referring(truth.scene, truth.it, rng, test=truth.split == "test")
        question = question or opening(truth.scene, rng)
        it = named(question) or (truth.it if question.thing is truth.it else None)
        return self._say(sample.index, number, transcript, truth._replace(question=question, it=it), question.text)

    def _say(self, index: int, number: int, transcript: str, truth: TurnTruth, text: str) -> Sample:
        """The sample of turn ``number``: the user says ``text``."""
        shifted = self.variant == "shifted" and truth.split == "test"
        rng = self.rng(truth.split, index, number, 1)
        longest = self.max_audio_samples
        if self.voice != RECORDED:
            audio = NeuralVoice(self.voice).deliver(text, rng, longest, noisy=shifted)
        else:
            audio = speak(text, rng, longest, SHIFTED_VOICE if shifted else None, noisy=shifted)
        return Sample(
            id=f"{self.name}/{self.variant}/{truth.split}/{index}" + (f"/{number}" if number else ""),
            index=index,
            prompt=transcript,
            image=paint(truth.scene, self.image_size),
            audio=audio,
            references=answers(truth.question),
            truth=truth,
            turn=number,
            said=text,
            family=truth.question.family,
        )

    def gold_parts(self, sample: Sample, response: Response) -> dict[str, float]:
        """Accuracy of VQA, brevity and grammar; empty for samples of a dataset."""
        return credit_parts(sample.references, response.text) if sample.truth is not None else {}


def named(question: Question) -> Thing | None:
    """The thing that a right reply names; None where the question asks for no name."""
    return question.thing if question.thing is not None and question.answer == question.thing.name else None
