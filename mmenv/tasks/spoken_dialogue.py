"""Spoken dialogue: a user who asks aloud about a picture, follows up, and refers back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmenv.data.sample import REPLY_BYTES_KEPT, Response, Sample, kept_of_reply
from mmenv.tasks.vqa import WorldTask
from mmenv.tokenizer import Tokenizer, WordTokenizer
from mmenv.worlds.neural_voice import NeuralVoice
from mmenv.worlds.questions import Question, allowed, answers, category, count, credit, pick, what_is_at
from mmenv.worlds.scenes import RELATIONS, Scene, Thing, article, categories, concepts, draw_scene, paint
from mmenv.worlds.speech import SHIFTED_VOICE, speak

RECORDED = "recorded"
SAID = "you said {} ."


class Turn(NamedTuple):
    """The truth of one turn: the scene, what was asked, how many turns there will be, and what "it" now is."""

    scene: Scene
    question: Question
    turns: int
    it: Thing | None


def spoken_existence(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    """Whether something is there whose name was recorded, or anything of a category."""
    spoken = [c for c in concepts() if c.spoken]
    present = [t for t in scene.things if concepts()[t.concept].spoken]
    if rng.random() < 0.4:
        kinds = {t.category for t in scene.things}
        name = pick(rng, sorted(kinds) if rng.random() < 0.5 else list(categories()))
        return Question(f"are there any {categories()[name]} ?", "yes" if name in kinds else "no", "existence")
    name = pick(rng, present).name if present and rng.random() < 0.5 else pick(rng, spoken).name
    found = bool(scene.named(name))
    return Question(f"is there {article(name)} {name} ?", "yes" if found else "no", "existence")


def spoken_count(scene: Scene, rng: np.random.Generator, held: bool | None) -> Question | None:
    """How many things, or how many of a category."""
    question = count(scene, rng, held)
    return None if question is None or question.text.startswith("count") else question


OPENINGS = (what_is_at, what_is_at, category, spoken_existence, spoken_count)


def opening(scene: Scene, rng: np.random.Generator) -> Question:
    """A question that stands alone."""
    while True:
        question = pick(rng, OPENINGS)(scene, rng, None)
        if question is not None:
            return question


def referring(scene: Scene, it: Thing, rng: np.random.Generator, held: bool | None) -> Question | None:
    """A question about the thing spoken of last, called "it"."""
    form = rng.random()
    if form < 0.3:
        return Question("and what kind of thing is it ?", it.category, "category", None, it)
    if form < 0.4:
        return Question("and where is it ?", it.place, "where", None, it)
    options = [(r, n) for r in RELATIONS if allowed(it, r, held) and (n := scene.beside(it, r))]
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

    ## Action Space

    `Discrete(401)`: the next token. Token 0 is padding: the mask excludes it, and choosing it ends the response
    without being written. Token 1 ends a response, token 2 is the unknown word, the others are the words of the world.

    ## Rewards

    0 until the response ends, then the score of the reward function: by default the strong preference model, whose
    scores of the supervised start have mean 0 and standard deviation 1. `info["gold"]` says beside it what is true,
    in [0, 1].

    ## Starting State

    The first turn of a sample of the split, drawn uniformly by the lane's own generator or named by
    `options={"sample_index": i}`; an empty prompt and an empty response.

    ## Episode End

    A reply ends by an end token, after 16 tokens, or by padding; that step pays its score and brings the next
    utterance with an empty response. The last reply terminates the episode. Never truncated by itself.

    ## Arguments

    `dataset`, `split`, `reward`, `tokenizer`, `max_response_tokens`, `image_size` (48, 96 or 192),
    `action_masking`, `render_mode`; of the vector env also `autoreset_mode`, `copy`, `max_episode_steps`.

    ## Version History

    - v0: first version.
    """

    name = "dialogue"
    modalities = ("image", "audio")
    key = 3
    max_prompt_tokens = 32
    max_audio_samples = 40_000
    turns = (2, 4)

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
        return self._say(split, index, 0, "", Turn(scene, question, turns, named(question)), question.text)

    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        """The next thing the user says; it depends on whether the reply was right, but for a dataset's dialogues."""
        turn = sample.truth
        if not isinstance(turn, Turn):
            return super().follow_up(sample, response)
        if sample.turn + 1 >= turn.turns:
            return None
        split, index = sample.id.split("/")[2], sample.index
        number = sample.turn + 1
        # Of a script without spaces every character is a token: words alone would not bound the next prompt.
        split_up = self.tokenizer.pieces if isinstance(self.tokenizer, WordTokenizer) else str.split
        said = kept_of_reply(split_up(response.text))
        transcript = f"{sample.prompt} {SAID.format(said)}".strip()
        if credit(sample.references, response.text) < 0.5:
            again = Turn(turn.scene, turn.question, turn.turns, turn.it)
            return self._say(split, index, number, transcript, again, f"no {turn.question.text}")
        rng = self.rng(split, index, number)
        question = None
        if turn.it is not None:
            question = referring(turn.scene, turn.it, rng, False if split != "test" else None)
        question = question or opening(turn.scene, rng)
        it = named(question) or (turn.it if question.thing is turn.it else None)
        return self._say(split, index, number, transcript, Turn(turn.scene, question, turn.turns, it), question.text)

    def _say(self, split: str, index: int, number: int, transcript: str, truth: Turn, text: str) -> Sample:
        shifted = self.variant == "shifted" and split == "test"
        rng, longest = self.rng(split, index, number, 1), self.max_audio_samples
        if self.voice != RECORDED:
            audio = NeuralVoice(self.voice).deliver(text, rng, longest, noisy=shifted)
        else:
            audio = speak(text, rng, longest, SHIFTED_VOICE if shifted else None, noisy=shifted)
        return Sample(
            id=f"{self.name}/{self.variant}/{split}/{index}" + (f"/{number}" if number else ""),
            index=index,
            prompt=transcript,
            image=paint(truth.scene, self.image_size),
            audio=audio,
            references=answers(truth.question),
            truth=truth,
            turn=number,
            said=text,
        )

    def gold(self, sample: Sample, response: Response) -> float | None:
        return credit(sample.references, response.text) if sample.truth is not None else None


def named(question: Question) -> Thing | None:
    """The thing that a right reply names, if the question asks for a name."""
    return question.thing if question.thing is not None and question.answer == question.thing.name else None
