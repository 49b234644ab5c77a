"""A neural voice for utterances of the user and for replies read aloud: Piper's engine and a voice file of yours."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmenv.arguments import require
from mmenv.data.media import RATE
from mmenv.worlds.speech import deliver

CACHED_UTTERANCES = 1024  # about 50 MB


@dataclass(frozen=True)
class NeuralVoice:
    """A voice of Piper: text -> float32 (T,) at 16 kHz.

    The engine's own noise is off: the same text gives the same sound on a machine; another build of onnxruntime may
    differ in the last bits.

    Attributes:
        path: the voice's ``.onnx`` file; its ``.onnx.json`` lies beside it.
    """

    path: str

    def __call__(self, text: str) -> np.ndarray:
        """The text as speech.

        Args:
            text: any English; a text without a word gives no samples.

        Returns:
            float32 (T,) at 16 kHz in [-1, 1], read-only, its loudest value 1.

        Raises:
            ImportError: the extra ``speech`` is missing.
            FileNotFoundError: there is no voice at ``path``.
        """
        return _synthesise(self.path, text)

    def deliver(self, text: str, rng: random.Random, longest: int, shift: float = 0.0) -> np.ndarray:
        """The text at a random speed and loudness over noise, as ``speech.speak`` does with recorded words.

        Args:
            text: what is said.
            rng: source of randomness.
            longest: most samples; a longer utterance is said faster.
            shift: in [0, 1]; noise grows with it.

        Returns:
            float32 (T,), T <= longest, in [-1, 1].
        """
        return deliver(self(text), rng, longest, shift)


@functools.lru_cache(maxsize=4)
def _engine(path: str) -> Any:
    """The engine with a voice, loaded once in a process."""
    with require("speech"):
        from piper import PiperVoice
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no voice at {path!r}: give the .onnx file of a Piper voice")
    return PiperVoice.load(path)


@functools.lru_cache(maxsize=CACHED_UTTERANCES)
def _synthesise(path: str, text: str) -> np.ndarray:
    voice = _engine(path)
    from piper import SynthesisConfig
    from scipy.signal import resample_poly

    spoken = " ".join(text.split()).strip(" ?.!,")
    still = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0)
    parts = [chunk.audio_float_array for chunk in voice.synthesize(spoken, still)] if spoken else []
    if not parts:
        return np.zeros(0, np.float32)
    wave = resample_poly(np.concatenate(parts).astype(np.float64), RATE, voice.config.sample_rate)
    wave = np.clip(wave, -1.0, 1.0).astype(np.float32)
    wave.flags.writeable = False
    return wave
