"""Rewards by listening: a voice speaks the response, a recogniser transcribes it, and the transcript is judged."""

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
from mmenv.tokenizer import IN_WORDS

Recogniser = Callable[[np.ndarray], str]
Voice = Callable[[str], np.ndarray]
CACHED_TEXTS = 4096  # transcripts that a listener keeps


@dataclass(frozen=True)
class Whisper:
    """Whisper, run by faster-whisper: float32 (T,) at 16 kHz -> transcript in Whisper's spelling.

    Attributes:
        folder: a model in CTranslate2's format.
        threads: CPU threads; their number can change the transcript of unclear speech.
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
    """Words in lower case, with numbers up to twenty as words: recognisers write "2 cats." for "two cats".

    ``normalise`` would not do: a word error rate counts articles too.
    """
    words = re.findall(r"[\w']+", text.lower())
    return " ".join(IN_WORDS.get(word, word) for word in words)


def word_error_rate(said: str, heard: str) -> float:
    """Word error rate by jiwer: wrong, missing and added words over spoken words; it may exceed 1.

    Raises:
        ValueError: ``said`` has no words.
    """
    with require("speech"):
        import jiwer
    if not plain(said):
        raise ValueError(f"{said!r} has no words, and so no word error rate")
    return float(jiwer.wer(plain(said), plain(heard)))


class Listener:
    """Speaks texts and transcribes the sound; transcripts are cached.

    Args:
        recogniser: waves to text.
        voice: text to waves.
    """

    def __init__(self, recogniser: Recogniser, voice: Voice) -> None:
        self.recogniser = recogniser
        self.voice = voice
        self.heard: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The transcript of ``text`` spoken aloud; empty where it makes no sound."""
        if text not in self.heard:
            if len(self.heard) >= CACHED_TEXTS:
                self.heard.clear()
            wave = self.voice(text)
            self.heard[text] = plain(self.recogniser(wave)) if len(wave) else ""
        return self.heard[text]


class Intelligibility:
    """Intelligibility of the spoken response: 1 minus the word error rate, clipped to [0, 1]; 0 for silence.

    It ignores whether the response is right: combine it with a reward that does not.

    Args:
        recogniser: waves to text, such as ``Whisper``.
        voice: text to waves, such as ``mmenv.worlds.neural_voice.NeuralVoice``.
    """

    name = "intelligibility"

    def __init__(self, recogniser: Recogniser, voice: Voice) -> None:
        self.listener = Listener(recogniser, voice)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Shares of words understood, float32 (n,)."""
        return np.array([self._understood(r.text) for r in responses], np.float32)

    def _understood(self, text: str) -> float:
        return max(0.0, 1.0 - word_error_rate(text, self.listener(text))) if plain(text) else 0.0


class ListeningReward:
    """Passes the transcript of the spoken response to another reward, in place of the response.

    Transcripts have no tokens, so the wrapped reward must judge by text.

    Args:
        reward: judges the transcripts.
        recogniser: waves to text, such as ``Whisper``.
        voice: text to waves, such as ``mmenv.worlds.neural_voice.NeuralVoice``.
        user: whether to transcribe the user too: ``said`` is then the transcript of the sample's audio instead of the
            script, for judges that read text.
    """

    name = "listening"

    def __init__(self, reward: RewardFunction, recogniser: Recogniser, voice: Voice, user: bool = False) -> None:
        self.reward = reward
        self.user = user
        self.listener = Listener(recogniser, voice)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """The wrapped reward's scores of the transcripts, float32 (n,)."""
        heard = [replace(r, text=self.listener(r.text), tokens=()) for r in responses]
        return score(self.reward, [self._listened(s) for s in samples], heard)

    def _listened(self, sample: Sample) -> Sample:
        if not self.user or sample.audio is None:
            return sample
        return replace(sample, said=plain(self.listener.recogniser(sample.audio)))
