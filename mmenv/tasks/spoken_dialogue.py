"""Spoken dialogue: a user who asks aloud about a picture, follows up, and refers back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmenv.data.sample import REPLY_BYTES_KEPT, Response, Sample, kept_of_reply
from mmenv.tasks.world_task import COMP, WorldTask
from mmenv.tokenizer import Tokenizer, WordTokenizer
from mmenv.worlds.answers import answer_parts
from mmenv.worlds.dialogues import SAID, TURNS, Turn, draw_turns, follow_up, opening
from mmenv.worlds.neural_voice import NeuralVoice
from mmenv.worlds.painter import paint
from mmenv.worlds.scenes import LEVELS, Scene, draw_scene, seed_of
from mmenv.worlds.speech import draw_voice, speak

RECORDED = "recorded"
RIGHT = 0.5  # correctness of a reply from which on the user goes on


class TurnTruth(NamedTuple):
    """The truth of one turn.

    Attributes:
        split: of the dialogue.
        scene: what the picture shows.
        turn: what the user asks.
        turns: number of turns of the dialogue.
        speaker: whose voice the user has.
    """

    split: str
    scene: Scene
    turn: Turn
    turns: int
    speaker: str


class SpokenDialogue(WorldTask):
    """Spoken dialogue: a user asks several questions about a picture aloud.

    ## Description

    The picture shows two to eight things, and a dialogue has two to four turns (six to twelve things and three to five
    turns at the level "hard"). In each turn the user asks a question aloud and the agent writes a reply. The user has
    one of five voices and speaks at varying speed, with a little noise. The written `prompt` contains only the agent's
    own earlier replies.

    After a right reply the next question may refer back: "it" is the thing that was named last, "that color" the color
    of the last reply. After a wrong reply the user says "no" and asks again. Each reply has its own reward and gold.
    With `shift` the user has other voices and there is more noise, and the drawings look different.

    ## Observation Space

    A `Dict`: `image` uint8 (96, 96, 3); `audio` float32 (72000,) at 16 kHz in [-1, 1], what the user
    says in this turn, zero-padded; `prompt` int64 (32,), the agent's earlier replies, right-padded; `response` int64
    (16,), the tokens of this turn, right-padded.
    """

    name = "dialogue"
    modalities = ("image", "audio")
    max_prompt_tokens = 32
    max_audio_samples = 72_000
    starting_state = """\
An episode starts with the first turn of a sample, an empty prompt and an empty response. The lane's own generator draws
the sample uniformly from the split; `options={"sample_index": i}` chooses it. With `options={"replies": [tokens, ...]}`
the episode starts after these earlier replies. With `options={"response": tokens}` the response already contains these
tokens."""
    episode_end = """\
A reply ends with an end token or after {budget} tokens. This step returns the reward of the reply, the next utterance
of the user and an empty response. The last reply terminates the episode. The environment never truncates an episode
unless `max_episode_steps` is given."""

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        level: str = "plain",
        shift: float = 0.0,
        voice: str = RECORDED,
    ) -> None:
        """``voice`` is ``"recorded"`` or the path of a Piper voice (``.onnx``); for the rest see ``WorldTask``."""
        if voice != RECORDED and not Path(voice).is_file():
            raise ValueError(f"voice={voice!r} is neither {RECORDED!r} nor the path of a voice: give one of the two")
        self.voice = voice
        super().__init__(dataset, image_size, tokenizer, level, shift)
        if dataset is None and not isinstance(self.tokenizer, WordTokenizer):
            # Whatever a reply is to another tokenizer, what is kept of it has no more tokens than bytes.
            self.max_prompt_tokens = (TURNS[level][1] - 1) * (REPLY_BYTES_KEPT + len(SAID))

    def metadata(self) -> dict[str, Any]:
        return super().metadata() | ({} if self.voice == RECORDED else {"voice": self.voice})

    def draw(self, split: str, index: int) -> Sample:
        """The first turn of dialogue ``index`` of a split; its truth is a ``TurnTruth``."""
        rng = self._random(split, index)
        scene = draw_scene(rng, LEVELS[self.level], split, shift=self.shift_of(split))
        turns, speaker = draw_turns(rng, self.level), draw_voice(rng, self.shift_of(split))
        turn = opening(scene, rng, self.level, split == COMP)
        return self._say(index, 0, "", TurnTruth(split, scene, turn, turns, speaker))

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
        rng = self._random(truth.split, sample.index, number)
        is_right = self.gold_parts(sample, response)["correct"] >= RIGHT
        turn = follow_up(truth.scene, truth.turn, rng, is_right, self.level, truth.split == COMP)
        return self._say(sample.index, number, transcript, truth._replace(turn=turn))

    def _random(self, split: str, index: int, *more: int | str) -> random.Random:
        """The generator of a dialogue or of a part of it."""
        return random.Random(seed_of(self.name, self.level, split, index, *more))

    def _say(self, index: int, number: int, transcript: str, truth: TurnTruth) -> Sample:
        """The sample of turn ``number``: the user asks aloud."""
        rng = self._random(truth.split, index, number, "sound")
        longest, shift = self.max_audio_samples, self.shift_of(truth.split)
        if self.voice != RECORDED:
            audio = NeuralVoice(self.voice).deliver(truth.turn.text, rng, longest, shift)
        else:
            audio = speak(truth.turn.text, truth.speaker, rng, longest, shift)
        return Sample(
            id=self.sample_id(truth.split, index) + (f"/turn-{number}" if number else ""),
            index=index,
            prompt=transcript,
            image=paint(truth.scene, self.image_size),
            audio=audio,
            references=(truth.turn.answer,),
            truth=truth,
            turn=number,
            said=truth.turn.text,
            family=truth.turn.family,
        )

    def gold_parts(self, sample: Sample, response: Response) -> dict[str, float]:
        """Correctness, brevity and grammar; empty for samples of a dataset."""
        if sample.truth is None:
            return {}
        turn: Turn = sample.truth.turn
        return answer_parts(turn.full, turn.answer, response.text, turn.rough, scene=sample.truth.scene)
