"""Rewards that listen: a reply is said aloud, a recogniser writes down what it hears, and that is judged."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.arguments import require
from mmenv.data.media import RATE
from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import RewardFunction, score
from mmenv.tokenizer import NUMBER_WORDS

Recogniser = Callable[[np.ndarray], str]
Voice = Callable[[str], np.ndarray]
REMEMBERED = 4096


@dataclass(frozen=True)
class Whisper:
    """Whisper by faster-whisper: float32 (T,) at 16 kHz -> what was said, with its own spelling.

    Attributes:
        folder: a model as CTranslate2 reads it.
        threads: of the processor; more may change a transcript that was a close call.
    """

    folder: str
    threads: int = 1

    def __call__(self, wave: np.ndarray) -> str:
        # Whisper was trained on speech that does not begin with the first sample.
        segments, _ = _whisper(self.folder, self.threads).transcribe(
            padded(wave), language="en", beam_size=1, temperature=0.0, without_timestamps=True,
            condition_on_previous_text=False,
        )  # fmt: skip
        return " ".join(segment.text.strip() for segment in segments)


@functools.lru_cache(maxsize=4)
def _whisper(folder: str, threads: int) -> Any:
    with require("speech"):
        from faster_whisper import WhisperModel
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no model at {folder!r}: give the folder of a Whisper model for CTranslate2")
    return WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)


def padded(wave: np.ndarray) -> np.ndarray:
    """Half a second of silence on both sides, float32 (T + 16000,)."""
    still = np.zeros(RATE // 2, np.float32)
    return np.concatenate([still, wave.astype(np.float32), still])


def plain(text: str) -> str:
    """Words alone, small, and small numbers as words: recognisers write "2 cats." where "two cats" was said."""
    words = re.findall(r"[\w']+", text.lower())
    return " ".join(NUMBER_WORDS[int(w)] if w.isdecimal() and int(w) < len(NUMBER_WORDS) else w for w in words)


def word_error_rate(said: str, heard: str) -> float:
    """Wrong, missing and added words over the words that were said, by jiwer; 0 is perfect, above 1 is possible.

    Raises:
        ValueError: nothing was said.
    """
    with require("speech"):
        import jiwer
    if not plain(said):
        raise ValueError(f"{said!r} has no words, and so no word error rate")
    return float(jiwer.wer(plain(said), plain(heard)))


class Listener:
    """Says texts and writes down what a recogniser hears; what was heard before is remembered.

    Args:
        recogniser: waves to text.
        voice: text to waves.
    """

    def __init__(self, recogniser: Recogniser, voice: Voice) -> None:
        self.recogniser = recogniser
        self.voice = voice
        self.heard: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """What was heard of ``text``; nothing of what makes no sound."""
        if text not in self.heard:
            if len(self.heard) >= REMEMBERED:
                self.heard.clear()
            wave = self.voice(text)
            self.heard[text] = plain(self.recogniser(wave)) if len(wave) else ""
        return self.heard[text]


class Intelligibility:
    """How well a reply can be understood when it is said aloud: 1 less the word error rate, in [0, 1].

    Silence is not understood: 0. What is right or wrong does not matter here; weigh it with a reward for which it does.

    Args:
        recogniser: waves to text, such as ``Whisper``.
        voice: text to waves, such as ``mmenv.worlds.neural_voice.NeuralVoice``.
    """

    name = "intelligibility"

    def __init__(self, recogniser: Recogniser, voice: Voice) -> None:
        self.listener = Listener(recogniser, voice)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Shares understood, float32 (n,)."""
        return np.array([self._understood(r.text) for r in responses], np.float32)

    def _understood(self, text: str) -> float:
        return max(0.0, 1.0 - word_error_rate(text, self.listener(text))) if plain(text) else 0.0


class ListeningReward:
    """Another reward that is told what was heard, and not what was written.

    The heard response has no tokens, since nobody took them: a wrapped reward has to judge by text.

    Args:
        reward: what judges.
        recogniser: waves to text, such as ``Whisper``.
        voice: text to waves, such as ``mmenv.worlds.neural_voice.NeuralVoice``.
        user: whether the user is listened to as well: ``said`` is then what the recogniser made of the sample's audio,
            for judges that read text, where it would be the words of the script.
    """

    name = "listening"

    def __init__(self, reward: RewardFunction, recogniser: Recogniser, voice: Voice, user: bool = False) -> None:
        self.reward = reward
        self.user = user
        self.listener = Listener(recogniser, voice)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The wrapped reward's scores of what was heard, float32 (n,)."""
        heard = [replace(r, text=self.listener(r.text), tokens=()) for r in responses]
        return score(self.reward, [self._listened(s) for s in samples], heard)

    def _listened(self, sample: Sample) -> Sample:
        if not self.user or sample.audio is None:
            return sample
        return replace(sample, said=plain(self.listener.recogniser(sample.audio)))
