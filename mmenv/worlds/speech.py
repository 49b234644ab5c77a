"""Utterances put together from recorded words: speakers, speed, loudness and noise, in integer arithmetic."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random

import numpy as np
import soundfile

from mmenv.data.media import RATE
from mmenv.worlds.things import ASSETS

VOICES = ("heart", "michael", "slt", "rms", "kal")
SHIFTED_VOICES = ("emma", "george")  # in shifted utterances alone

SPEEDS = tuple(range(90, 113, 2))  # percent
LOUDNESS = (60, 100)  # percent, least and greatest
STILLNESS = (400, 1600)  # samples before the first word
GAP = (160, 640)  # samples after each word
PLAIN_SNR, SHIFTED_SNR, SNR_SPREAD = 30, 3, 3  # decibels; an utterance draws up to 3 less or more
_NOISE_SAMPLES = 1 << 18  # 16 seconds, at a power of two
_OCTAVES = 10  # of pink noise
_TENTHS = (1_000_000, 1_258_925, 1_584_893, 1_995_262, 2_511_886, 3_162_278, 3_981_072, 5_011_872, 6_309_573, 7_943_282)


@functools.cache
def _index() -> dict[str, dict[str, tuple[int, int]]]:
    """Voice -> word -> where its recording starts and ends, in samples."""
    table = json.loads((ASSETS / "voices.json").read_text(encoding="utf-8"))
    words = table["words"]
    return {
        voice: dict(zip(words, zip([0, *ends], ends, strict=False), strict=True))
        for voice, ends in table["ends"].items()
    }


@functools.cache
def recorded_words() -> frozenset[str]:
    """The words that every voice says."""
    return frozenset(_index()[VOICES[0]])


@functools.cache
def recordings(voice: str) -> dict[str, np.ndarray]:
    """Word -> its recording, int16 (T,) at 16 kHz, read-only.

    Raises:
        ValueError: there is no such voice.
    """
    if voice not in _index():
        raise ValueError(f"no voice {voice!r}: choose one of {', '.join(_index())}")
    samples, rate = soundfile.read(ASSETS / f"voice_{voice}.flac", dtype="int16")
    if rate != RATE:
        raise ValueError(f"the recording of voice {voice!r} has {rate} Hz, not {RATE}: install the package again")
    samples.flags.writeable = False
    return {word: samples[start:end] for word, (start, end) in _index()[voice].items()}


def words_of(text: str) -> list[str]:
    """The spoken words of a text: punctuation is not spoken."""
    return [word for word in text.lower().split() if word.isalpha()]


def speakable(text: str) -> bool:
    """Whether every word of a text was recorded."""
    return recorded_words().issuperset(words_of(text))


def draw_voice(rng: random.Random, shift: float = 0.0) -> str:
    """The speaker of an utterance or of a dialogue: one of ``SHIFTED_VOICES`` with probability ``shift``.

    The same seed gives the same speaker for every ``shift`` that does not replace it.
    """
    shifted = rng.random() < shift
    place = rng.random()
    voices = SHIFTED_VOICES if shifted else VOICES
    return voices[int(place * len(voices))]


def speak(text: str, voice: str, rng: random.Random, longest: int, shift: float = 0.0) -> np.ndarray:
    """Say ``text`` at a random speed and loudness, over noise.

    Args:
        text: words that were recorded; marks are not spoken.
        voice: of ``VOICES`` or ``SHIFTED_VOICES`` (``draw_voice``).
        rng: source of randomness; only ``random()`` is called.
        longest: most samples; a longer utterance is said faster.
        shift: in [0, 1]; the ratio of signal to noise falls with it from about 30 dB to about 3 dB.

    Returns:
        float32 (T,) at 16 kHz, T <= longest, in [-1, 1]: from integer arithmetic alone, the same on every machine.

    Raises:
        ValueError: a word was never recorded, there is no such voice, or ``shift`` is outside [0, 1].
    """
    return speak_aligned(text, voice, rng, longest, shift)[0]


def speak_aligned(
    text: str, voice: str, rng: random.Random, longest: int, shift: float = 0.0
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """``speak``, and where each spoken word starts and ends, in samples."""
    clips = recordings(voice)
    words = words_of(text)
    missing = [word for word in words if word not in clips]
    if missing:
        raise ValueError(f"no recording of {missing} in voice {voice!r}: use words of speech.recorded_words()")
    parts = [np.zeros(_between(rng, *STILLNESS), np.int16)]
    spans = []
    at = len(parts[0])
    for word in words:
        gap = _between(rng, *GAP)
        parts += [clips[word], np.zeros(gap, np.int16)]
        spans.append((at, at + len(clips[word])))
        at += len(clips[word]) + gap
    utterance, percent = _deliver(np.concatenate(parts).astype(np.int32), rng, longest, shift)
    return utterance, [(start * 100 // percent, end * 100 // percent) for start, end in spans]


def deliver(wave: np.ndarray, rng: random.Random, longest: int, shift: float = 0.0) -> np.ndarray:
    """Any speech at a random speed and loudness over noise, as ``speak`` does with recorded words.

    Args:
        wave: float (T,) at 16 kHz in [-1, 1], with a sample that is not 0, say of ``NeuralVoice``.
        rng, longest, shift: see ``speak``.

    Returns:
        float32 (T',), T' <= longest, in [-1, 1].
    """
    before, after = (np.zeros(_between(rng, *STILLNESS), np.int32) for _ in range(2))
    samples = np.round(wave * 32767).astype(np.int32)
    return _deliver(np.concatenate([before, samples, after]), rng, longest, shift)[0]


def _deliver(wave: np.ndarray, rng: random.Random, longest: int, shift: float) -> tuple[np.ndarray, int]:
    """The utterance, float32, and its speed in percent."""
    if not 0 <= shift <= 1:
        raise ValueError(f"shift {shift} is outside [0, 1]")
    drawn = SPEEDS[int(rng.random() * len(SPEEDS))]
    percent = max(drawn, -(-len(wave) * 100 // longest))
    wave = _faster(wave, percent)[:longest]
    wave = wave * _between(rng, *LOUDNESS) // 100
    middle = PLAIN_SNR - round((PLAIN_SNR - SHIFTED_SNR) * shift)
    decibels = middle + _between(rng, -SNR_SPREAD, SNR_SPREAD)
    bank, bank_power = _noises()[int(rng.random() * 2)]
    start = int(rng.random() * (_NOISE_SAMPLES - longest))
    noise = bank[start : start + len(wave)]
    wave += noise * _gain(_power(wave), bank_power, decibels) >> 12
    return np.clip(wave, -32768, 32767).astype(np.float32) / 32768, percent


def _between(rng: random.Random, least: int, greatest: int) -> int:
    return least + int(rng.random() * (greatest - least + 1))


def _power(wave: np.ndarray) -> int:
    """Mean square of the samples that are not 0: stillness and gaps do not count."""
    loud = np.count_nonzero(wave)
    return int(np.dot(wave, wave.astype(np.int64))) // max(1, int(loud))


def _gain(power: int, noise_power: int, decibels: int) -> int:
    """What to multiply noise by, times 4096, so that it lies ``decibels`` below a signal."""
    tens, rest = divmod(decibels, 10)
    return math.isqrt((power << 24) * 10**6 // (noise_power * 10**tens * _TENTHS[rest]))


def _faster(wave: np.ndarray, percent: int) -> np.ndarray:
    """The wave at ``percent`` of its speed and pitch, with the samples between two drawn by a straight line."""
    n = (len(wave) - 1) * 100 // percent
    blocks = -(-n // 100)
    left, weight = _positions(percent)
    # Each 100 samples are made of ``percent`` samples: the same places and weights in every block.
    padded = np.zeros(blocks * percent + 1, np.int32)
    padded[: min(len(wave), len(padded))] = wave[: len(padded)]
    rows = np.lib.stride_tricks.as_strided(
        padded, (blocks, percent + 1), (percent * padded.itemsize, padded.itemsize), writeable=False
    )
    before = rows[:, left]
    result: np.ndarray = (before * 100 + (rows[:, left + 1] - before) * weight) // 100
    return result.ravel()[:n]


@functools.cache
def _positions(percent: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of 100 samples the sample to its left in the recording, and how far right of it, in hundredths."""
    places = np.arange(100, dtype=np.int32) * percent
    return places // 100, places % 100


@functools.cache
def _noises() -> tuple[tuple[np.ndarray, int], ...]:
    """White and pink noise, int32 of 15 bits, each with its power; from a hash, so that no library can change it."""
    bits = hashlib.shake_256(b"noise").digest(2 * _NOISE_SAMPLES * (_OCTAVES + 1))
    uniform = np.frombuffer(bits, "<i2").astype(np.int32).reshape(_OCTAVES + 1, _NOISE_SAMPLES)
    # Pink noise (Voss): octave k holds each value for 2**k samples, so that every octave has the same power.
    pink = np.zeros(_NOISE_SAMPLES, np.int32)
    for octave in range(_OCTAVES):
        pink += np.repeat(uniform[1 + octave, : _NOISE_SAMPLES >> octave], 1 << octave)
    noises = uniform[0] >> 1, pink >> 3
    return tuple((noise, _power(noise)) for noise in noises)
