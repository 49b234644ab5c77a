"""The guessing game: the agent asks which thing the user has in mind, listens to the answers, and names it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from mmenv.data.sample import REPLY_BYTES_KEPT, Response, Sample, kept_of_reply
from mmenv.tasks.world_task import WorldTask
from mmenv.tokenizer import Tokenizer, WordTokenizer
from mmenv.worlds.guessing import Query, answer, reply, text_of
from mmenv.worlds.painter import paint
from mmenv.worlds.questioner import Questioner, random_question
from mmenv.worlds.samples import draw_guess
from mmenv.worlds.scenes import Scene, Thing, seed_of
from mmenv.worlds.speech import draw_voice, speak

OPENING = "which thing is it ?"
TURNS = {"plain": 4, "hard": 5}  # replies of a game, the guess included
QUESTION_WORDS, ANSWER_WORDS = 8, 4  # of an earlier turn, in the prompt


class GuessTruth(NamedTuple):
    """The truth of one turn.

    Attributes:
        split: of the game.
        scene: what the picture shows.
        target: the thing that the user has in mind.
        candidates: the things that fit all answers so far.
        speaker: whose voice the user has.
    """

    split: str
    scene: Scene
    target: Thing
    candidates: tuple[Thing, ...]
    speaker: str


class Guess(WorldTask):
    """Guess: the agent asks a user which thing of a picture is meant.

    ## Description

    The picture shows six to eight different things (nine to twelve at the level "hard"). The user has chosen one of
    them, and the agent has to find out which. In each turn the agent writes a question about "it" or a guess. Examples
    of questions are "is it an animal ?", "what color is the plate under it ?" and "is it left of the dog ?"; an example
    of a guess is "it is the dog .". The user answers aloud with "yes", "no" or the word asked for, and with "what ?" to
    anything else. A guess ends the game. There are four turns (five at the level "hard"), so the last reply must be the
    guess. The user has one of five voices in a game. With `shift` the user has other voices and there is more noise,
    and the drawings look different.

    The `prompt` contains the agent's earlier replies, at most 8 words of each, and the user's answers to them. It does
    not contain the latest answer, which is only in the audio. For example, the prompt is "is it an animal ? yes where
    is it ?" in the turn in which the user answers the second question.

    ## Observation Space

    A `Dict`: `image` uint8 (96, 96, 3); `audio` float32 (36800,) at 16 kHz in [-1, 1], what the user
    says in this turn, zero-padded; `prompt` int64 (32,), the dialogue so far, right-padded, at the level "hard" (44,);
    `response` int64 (12,), the tokens of this turn, right-padded.
    """

    name = "guess"
    modalities = ("image", "audio")
    max_audio_samples = 36_800
    pays_at_end = True
    budgets = {"plain": 12, "hard": 12}  # noqa: RUF012
    max_prompt_tokens = 32
    rewards = """\
Only the last reply of a game has a reward: the score of the reward function, which gets this reply alone. All earlier
rewards are 0. The default is gold, because no preference model is shipped for this task. With the last reply of a game
come `info["gold"]` and `info["gold/correct"]`: 1 if it names the thing that the user has chosen, otherwise 0."""
    starting_state = """\
An episode starts with the first turn of a sample, an empty prompt and an empty response. The lane's own generator draws
the sample uniformly from the split; `options={"sample_index": i}` chooses it. With `options={"replies": [tokens, ...]}`
the episode starts after these earlier replies. With `options={"response": tokens}` the response already contains these
tokens."""
    episode_end = """\
A reply ends with an end token or after {budget} tokens. This step returns the next utterance of the user and an empty
response. A guess, right or wrong, terminates the episode, and so does the fourth reply (the fifth at the level "hard").
The environment never truncates an episode unless `max_episode_steps` is given."""

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        level: str = "plain",
        shift: float = 0.0,
    ) -> None:
        """See ``WorldTask``."""
        super().__init__(dataset, image_size, tokenizer, level, shift)
        self.turns = TURNS[level]
        if dataset is None:
            # Whatever a reply is to another tokenizer, what is kept of it has no more tokens than bytes.
            words = isinstance(self.tokenizer, WordTokenizer)
            asked = QUESTION_WORDS if words else REPLY_BYTES_KEPT + 1
            answered = ANSWER_WORDS if words else REPLY_BYTES_KEPT + 1
            self.max_prompt_tokens = (self.turns - 1) * asked + (self.turns - 2) * answered

    def draw(self, split: str, index: int) -> Sample:
        """The first turn of game ``index`` of a split; its truth is a ``GuessTruth``."""
        shift = self.shift_of(split)
        scene, target = draw_guess(self.level, split, index, shift=shift)
        speaker = draw_voice(self._random(split, index, "speaker"), shift)
        return self._say(index, 0, "", OPENING, GuessTruth(split, scene, target, scene.things, speaker))

    def follow_up(self, sample: Sample, response: Response) -> Sample | None:
        """The next turn, with the user's answer; None after a guess and after the last turn."""
        truth = sample.truth
        if not isinstance(truth, GuessTruth):
            return super().follow_up(sample, response)
        result = reply(truth.scene, truth.target, response.text)
        number = sample.turn + 1
        if result.is_guess or number >= self.turns:
            return None
        # Of a script without spaces every character is a token: words alone would not bound the next prompt.
        split_up = self.tokenizer.pieces if isinstance(self.tokenizer, WordTokenizer) else str.split
        heard = kept_of_reply(sample.said.split(), ANSWER_WORDS) if sample.turn else ""
        asked = kept_of_reply(split_up(response.text), QUESTION_WORDS)
        transcript = " ".join(filter(None, (sample.prompt, heard, asked)))
        if result.query is not None:
            fit = [t for t in truth.candidates if answer(truth.scene, t, result.query) == result.text]
            truth = truth._replace(candidates=tuple(fit))
        return self._say(sample.index, number, transcript, result.text, truth)

    def _random(self, split: str, index: int, *more: int | str) -> random.Random:
        """The generator of a part of a game."""
        return random.Random(seed_of(self.name, self.level, split, index, *more))

    def _say(self, index: int, number: int, transcript: str, said: str, truth: GuessTruth) -> Sample:
        """The sample of turn ``number``: the user speaks."""
        rng = self._random(truth.split, index, number, "sound")
        audio = speak(said, truth.speaker, rng, self.max_audio_samples, self.shift_of(truth.split))
        return Sample(
            id=self.sample_id(truth.split, index) + (f"/turn-{number}" if number else ""),
            index=index,
            prompt=transcript,
            image=paint(truth.scene, self.image_size),
            audio=audio,
            references=(self._right_play(index, number, truth),),
            truth=truth,
            turn=number,
            said=said,
            family=f"{len(truth.scene.things)} things",
        )

    def _right_play(self, index: int, number: int, truth: GuessTruth) -> str:
        """A question, drawn from those that tell the candidates apart, or the guess when one is left or it is due."""
        rng = self._random(truth.split, index, number, "right play")
        candidates = truth.candidates
        if len(candidates) > 1 and number + 1 < self.turns:
            query = random_question(truth.scene, candidates, rng)
            if query is not None:
                return text_of(query)
        return text_of(Query("name", None, candidates[int(rng.random() * len(candidates))].name))

    def gold_parts(self, sample: Sample, response: Response) -> dict[str, float]:
        """Whether the last reply of a game names the thing; empty for earlier replies and for samples of a dataset."""
        truth = sample.truth
        if not isinstance(truth, GuessTruth):
            return {}
        result = reply(truth.scene, truth.target, response.text)
        if not result.is_guess and sample.turn + 1 < self.turns:
            return {}
        return {"correct": float(result.correct)}

    def optimal_success(self, split: str = "test", episodes: int = 128) -> float:
        """How often the best questioner that sees the scene and hears every answer names the thing, in [0, 1].

        Args:
            split: of the task.
            episodes: the first so many games of the split; at the level "hard" each takes some tenths of a second.
        """
        total = 0.0
        for index in range(episodes):
            scene, _ = draw_guess(self.level, split, index)
            total += Questioner(scene).success(self.turns - 1)
        return total / episodes
