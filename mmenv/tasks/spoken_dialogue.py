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
    """Spoken dialogue.

    ## Description

    Two to four turns about a picture of two to eight things (three to five turns and six to twelve things at the level
    "hard"). The user asks aloud, in one of five voices, at varying speed, over a little noise; the written `prompt`
    holds what the agent itself has said so far. After a right reply the user may refer back: "it" is the thing
    that was named last, "that color" the color of the last reply. After a wrong one the user says "no" and asks again.
    Each reply is one response with a reward and a gold of its own. With `shift` there are other voices, louder
    noise and other drawings.

    ## Observation Space

    A `Dict`: `image` uint8 (96, 96, 3); `audio` float32 (72000,) at 16 kHz in [-1, 1], what the user says now,
    zero-padded; `prompt` int64 (32,); `response` int64 (16,).
    """

    name = "dialogue"
    modalities = ("image", "audio")
    max_prompt_tokens = 32
    max_audio_samples = 72_000
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
