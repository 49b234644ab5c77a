"""Utterances of the grid world, put together from recorded word clips: voices, speed, noise."""

from __future__ import annotations

import functools
import json

import numpy as np
import soundfile

from mmenv.data.media import RATE
from mmenv.worlds.grid import ASSETS

VOICES = ("slt", "rms")
SHIFTED_VOICE = "awb"


@functools.cache
def clips(voice: str) -> dict[str, np.ndarray]:
    """Word -> its recording, int16 at 16 kHz."""
    index = json.loads((ASSETS / "speech.json").read_text(encoding="utf-8"))["clips"][voice]
    samples, rate = soundfile.read(ASSETS / f"speech_{voice}.flac", dtype="int16")
    if rate != RATE:
        raise ValueError(f"the recording of voice {voice!r} has {rate} Hz, not {RATE}: install the package again")
    return {word: samples[start:end] for word, (start, end) in index.items()}


def words_of(text: str) -> list[str]:
    """The spoken words of a text: punctuation is not spoken."""
    return [w for w in text.lower().split() if w.isalpha()]


def speak(
    text: str, rng: np.random.Generator, longest: int, voice: str | None = None, noisy: bool = False
) -> np.ndarray:
    """Say ``text`` in a random voice, at a random speed, over a little noise.

    Args:
        text: words that were recorded.
        rng: source of randomness.
        longest: most samples; a longer utterance is said faster.
        voice: None for a random one of ``VOICES``.
        noisy: noise that the other utterances never have, louder and with a hum.

    Returns:
        float32 (T,), T <= longest, in [-1, 1], from integer arithmetic alone.

    Raises:
        ValueError: a word was never recorded.
    """
    return speak_aligned(text, rng, longest, voice, noisy)[0]


def speak_aligned(
    text: str, rng: np.random.Generator, longest: int, voice: str | None = None, noisy: bool = False
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """``speak``, and where each word starts and ends in samples."""
    name = voice or VOICES[int(rng.integers(len(VOICES)))]
    recordings = clips(name)
    words = words_of(text)
    missing = [w for w in words if w not in recordings]
    if missing:
        raise ValueError(f"no recording of {missing} in voice {name!r}: use words that were recorded")
    gaps = rng.integers(160, 640, len(words))
    parts = [np.zeros(int(rng.integers(400, 1600)), np.int16)]
    ends = [len(parts[0])]
    for word, gap in zip(words, gaps, strict=True):
        parts += [recordings[word], np.zeros(int(gap), np.int16)]
        ends.append(ends[-1] + len(recordings[word]) + int(gap))
    wave = np.concatenate(parts).astype(np.int32)
    utterance, percent = delivered(wave, rng, longest, noisy)
    edges = [end * 100 // percent for end in ends]
    spans = [(a, b - int(gap)) for a, b, gap in zip(edges, edges[1:], gaps, strict=False)]
    return utterance, spans


def delivered(wave: np.ndarray, rng: np.random.Generator, longest: int, noisy: bool) -> tuple[np.ndarray, int]:
    """An utterance at a random speed and loudness, over noise.

    Args:
        wave: int32 (T,), at 16 kHz.
        rng, longest, noisy: see ``speak``.

    Returns:
        float32 of at most ``longest`` values in [-1, 1], and its speed in percent.
    """
    percent = max(int(rng.integers(92, 113)), -(-len(wave) * 100 // longest))
    wave = wave[np.arange(len(wave) * 100 // percent) * percent // 100]
    wave = np.clip(wave * int(rng.integers(60, 101)) // 100 + _noise(len(wave), rng, noisy), -32768, 32767)[:longest]
    return wave.astype(np.float32) / 32768, percent


def _noise(n: int, rng: np.random.Generator, noisy: bool) -> np.ndarray:
    """White noise, and when ``noisy`` louder with a hum at 100 Hz."""
    level = int(rng.integers(600, 1200)) if noisy else int(rng.integers(0, 200))
    noise = rng.integers(-level, level + 1, n)
    return noise + np.where(np.arange(n) % 160 < 80, level, -level) if noisy else noise
