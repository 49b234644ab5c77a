"""Speech put together from recorded words: the speakers, their words, and noise at a ratio that can be relied on."""

import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest

from mmenv.data.media import RATE
from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds import speech
from mmenv.worlds.speech import (
    SHIFTED_VOICES,
    VOICES,
    deliver,
    draw_voice,
    recordings,
    speak,
    speak_aligned,
    words_of,
)
from mmenv.worlds.things import ASSETS, COLOURS, LETTERS, SIZES, categories, concepts

TEXT = "what color is the plate under the dog ?"
LONGEST = 64_000
EVERY_VOICE = (*VOICES, *SHIFTED_VOICES)


def test_seven_speakers_of_whom_two_speak_in_shifted_utterances_alone():
    assert len(VOICES) >= 5
    assert len(SHIFTED_VOICES) == 2
    assert not set(VOICES) & set(SHIFTED_VOICES)
    rng = random.Random(0)
    assert {draw_voice(rng) for _ in range(200)} == set(VOICES)
    assert {draw_voice(rng, 1.0) for _ in range(200)} == set(SHIFTED_VOICES)
    half = [draw_voice(rng, 0.5) in SHIFTED_VOICES for _ in range(2000)]
    assert 0.45 < np.mean(half) < 0.55


@pytest.mark.parametrize("voice", EVERY_VOICE)
def test_every_voice_has_every_word(voice):
    names = {word for c in concepts() if c.spoken for word in (c.name, c.plural)}
    kinds = {*categories(), *categories().values()}
    clips = recordings(voice)
    assert {*names, *kinds, *COLOURS, *SIZES, *LETTERS, *NUMBER_WORDS} <= set(clips)
    assert all(RATE // 12 < len(clip) < RATE for clip in clips.values())
    loudness = [np.sqrt((clip.astype(float) ** 2).mean()) / 32768 for clip in clips.values()]
    assert all(0.08 < level < 0.11 for level in loudness)


def test_recordings_are_small():
    files = [*ASSETS.glob("voice_*.flac"), *ASSETS.glob("speech_*.flac")]
    assert sum(path.stat().st_size for path in files) < 13e6


def test_the_same_draw_is_the_same_sound_everywhere():
    waves = [speak(TEXT, voice, random.Random(7), LONGEST, shift) for voice in EVERY_VOICE for shift in (0.0, 0.5)]
    digest = hashlib.sha256(b"".join(wave.tobytes() for wave in waves)).hexdigest()
    assert digest == "234ef0b112dc5ca4222300c62ee2f0c9f179f07ea59f06c3349e792d36ef6802"


def test_another_process_says_the_same():
    code = (
        "import hashlib, random; from mmenv.worlds.speech import draw_voice, speak; rng = random.Random(3);"
        f"print(hashlib.sha256(speak({TEXT!r}, draw_voice(rng), rng, {LONGEST}).tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    rng = random.Random(3)
    assert there == hashlib.sha256(speak(TEXT, draw_voice(rng), rng, LONGEST).tobytes()).hexdigest()


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 30), (0.5, 16), (1.0, 3)])
def test_noise_lies_as_far_below_speech_as_the_shift_says(shift, expected, monkeypatch):
    silent = ((np.zeros(1 << 18, np.int32), 1),) * 2
    ratios = []
    for seed in range(40):
        noisy = speak(TEXT, VOICES[seed % len(VOICES)], random.Random(seed), LONGEST, shift)
        with monkeypatch.context() as patch:
            patch.setattr(speech, "_noises", lambda: silent)
            clean = speak(TEXT, VOICES[seed % len(VOICES)], random.Random(seed), LONGEST, shift)
        spoken = clean[clean != 0]
        ratios.append(10 * np.log10((spoken**2).mean() / ((noisy - clean) ** 2).mean()))
    assert abs(np.mean(ratios) - expected) < 1.2
    assert max(ratios) - min(ratios) < 8


def test_shift_changes_the_noise_and_not_the_words():
    clean, spans = speak_aligned(TEXT, "heart", random.Random(5), LONGEST)
    noisy, the_same = speak_aligned(TEXT, "heart", random.Random(5), LONGEST, 1.0)
    assert spans == the_same
    assert clean.shape == noisy.shape
    assert (clean != noisy).any()


def test_spans_hold_the_words():
    wave, spans = speak_aligned(TEXT, "rms", random.Random(2), LONGEST)
    assert len(spans) == len(words_of(TEXT))
    inside = np.zeros(len(wave), bool)
    for start, end in spans:
        inside[start:end] = True
    assert (wave[inside] ** 2).mean() > 100 * (wave[~inside] ** 2).mean()


def test_utterances_fit_and_stay_in_range():
    text = " ".join(["animals"] * 20)
    wave = speak(text, "michael", random.Random(0), 40_000, 1.0)
    assert wave.dtype == np.float32
    assert len(wave) <= 40_000
    assert np.abs(wave).max() <= 1


def test_any_speech_is_delivered_as_recorded_words_are():
    tone = np.sin(np.arange(20_000) / 20).astype(np.float32)
    wave = deliver(tone, random.Random(1), LONGEST)
    assert wave.dtype == np.float32
    assert 18_000 < len(wave) < 27_000
    assert 0.5 < np.abs(wave).max() <= 1


def test_errors_name_the_word_the_voice_and_the_shift():
    with pytest.raises(ValueError, match="zeppelin"):
        speak("what is a zeppelin", "heart", random.Random(1), LONGEST)
    with pytest.raises(ValueError, match="nobody"):
        speak(TEXT, "nobody", random.Random(1), LONGEST)
    with pytest.raises(ValueError, match="shift"):
        speak(TEXT, "heart", random.Random(1), LONGEST, 1.5)
