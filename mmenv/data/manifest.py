"""Samples from a folder of images and sounds with a ``metadata.jsonl`` beside them, or from a ``.jsonl`` file.

The layout is that of Hugging Face's image and audio folders: one JSON object a line. Columns:

- ``file_name`` (image or sound, by its suffix), or ``image`` and ``audio``: paths inside the folder;
- ``prompt`` or ``question``: may be missing where the user speaks (audio) or where a caption is asked for;
- ``references``, ``answers``, ``answer``, ``captions``, ``caption`` or ``text``: a string or a list of them, optional;
- ``id``: unique, optional.

Lines, paths and the headers of the media are checked when the dataset is read; pixels and waves when they are used.
"""

from __future__ import annotations

import functools
import json
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import soundfile
from PIL import Image, ImageOps

from mmenv.data.sample import Sample

MANIFEST = "metadata.jsonl"
RATE = 16_000
DEFAULT_SIDE = 48
LONGEST_SECONDS = 60
QUIETEST = 1e-4  # a peak below this is silence
CAPTION_PROMPT = "what do you see ?"
_AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
_PROMPTS = ("prompt", "question")
_ANSWERS = ("references", "answers", "answer", "captions", "caption", "text")
_CAPTIONS = ("captions", "caption", "text")
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


class DatasetError(ValueError):
    """A dataset that cannot be used as it is: names the file, the line and the remedy."""


class Row(NamedTuple):
    """A checked line: its number, and what it says."""

    line: int
    id: str
    prompt: str
    image: Path | None
    audio: Path | None
    references: tuple[str, ...]


class ManifestDataset(Sequence[Sample]):
    """Samples of a manifest, read when asked for; the last ``kept`` stay in memory.

    Args:
        manifest: the ``.jsonl`` file.
        rows: its checked lines.
        image_size: side of the square that images are fitted into.
        kept: number of samples remembered.
    """

    def __init__(self, manifest: Path, rows: list[Row], image_size: int, kept: int = 1024) -> None:
        self.manifest, self.rows, self.image_size, self.kept = manifest, rows, image_size, kept
        self._recent: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        sample = self._recent.pop(position, None)
        if sample is None:
            sample = self._read(position)
            if len(self._recent) >= self.kept:
                del self._recent[next(iter(self._recent))]  # used longest ago: every use moves to the end
        self._recent[position] = sample
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": {}}

    def _read(self, index: int) -> Sample:
        row = self.rows[index]
        where = f"{self.manifest}, line {row.line}"
        image = None if row.image is None else read_image(row.image, self.image_size, where)
        audio = None if row.audio is None else read_audio(row.audio, where)
        return Sample(row.id, index, row.prompt, image, audio, row.references)


def read_dataset(path: str | Path, image_size: int | None = None) -> ManifestDataset:
    """The samples of a folder or a ``.jsonl`` file; read once a process, and again when the file has changed.

    Args:
        path: a folder that holds ``metadata.jsonl``, or such a file; media are looked for beside it.
        image_size: side in pixels of the square that images are fitted into; None for 48.

    Raises:
        DatasetError: names the file, the line and the remedy.
    """
    manifest = Path(path)
    if manifest.is_dir():
        manifest = manifest / MANIFEST
        if not manifest.is_file():
            raise DatasetError(f"{path} holds no {MANIFEST}: write one JSON object a line, for example {_EXAMPLE}")
    elif manifest.suffix != ".jsonl":
        raise DatasetError(f"dataset={str(path)!r} is neither a folder nor a .jsonl file: give one that exists")
    if not manifest.is_file():
        raise DatasetError(f"dataset={str(path)!r} does not exist: check the path")
    return _read_manifest(manifest.absolute(), image_size or DEFAULT_SIDE, manifest.stat().st_mtime_ns)


_EXAMPLE = '{"file_name": "1.png", "prompt": "what is it ?", "answer": "a dog"}'


@functools.lru_cache(maxsize=16)
def _read_manifest(manifest: Path, image_size: int, stamp: int) -> ManifestDataset:
    root = manifest.parent.resolve()
    rows = [_row(root, manifest, line, entry) for line, entry in _lines(manifest)]
    if not rows:
        raise DatasetError(f"{manifest} is empty: write one JSON object a line, for example {_EXAMPLE}")
    met: dict[str, int] = {}
    for row in rows:
        if row.id in met:
            raise DatasetError(f"{manifest}, line {row.line}: id {row.id!r} is that of line {met[row.id]}: rename one")
        met[row.id] = row.line
    return ManifestDataset(manifest, rows, image_size)


def _lines(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line that is not blank."""
    for number, raw in enumerate(manifest.read_bytes().splitlines(), 1):
        where = f"{manifest}, line {number}"
        try:
            text = raw.decode("utf-8-sig").strip()
            entry = json.loads(text) if text else None
        except UnicodeDecodeError as error:
            raise DatasetError(f"{where}: no UTF-8 text ({error}): save the file as UTF-8") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise DatasetError(f"{where}: invalid JSON ({error}): write one object a line, as {_EXAMPLE}") from error
        if not text:
            continue
        if not isinstance(entry, dict):
            raise DatasetError(f"{where}: {text[:60]} is no object: write one object a line, as {_EXAMPLE}")
        yield number, entry


def _row(root: Path, manifest: Path, line: int, entry: dict[str, Any]) -> Row:
    """A line, checked as far as that is cheap."""
    where = f"{manifest}, line {line}"
    image, audio = _media(root, where, entry)
    if image is not None:
        with _opened(image, where):
            pass
    if audio is not None:
        _check_sound(audio, where)
    references = _references(where, entry)
    name = entry.get("id", f"{manifest.parent.name}/{line}")
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        raise DatasetError(f"{where}: id {name!r} is no text: write a unique string, or leave the column out")
    return Row(line, str(name), _prompt(where, entry, audio is not None), image, audio, references)


def _media(root: Path, where: str, entry: dict[str, Any]) -> tuple[Path | None, Path | None]:
    """Paths of the image and the sound, at least one of them."""
    paths = {key: path_inside(root, where, key, entry[key]) for key in ("file_name", "image", "audio") if key in entry}
    if not paths:
        raise DatasetError(
            f"{where}: no column file_name, image or audio among {sorted(entry)}: add one with the path of the media"
        )
    image, audio, either = paths.get("image"), paths.get("audio"), paths.get("file_name")
    if either is not None and either.suffix.lower() in _AUDIO:
        audio = audio or either
    else:
        image = image or either
    return image, audio


def path_inside(root: Path, where: str, key: str, name: Any) -> Path:
    """A path that exists and stays in the folder, also after its links are followed."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise DatasetError(f"{where}: {key} {name!r} is no path: write one relative to {root}")
    path = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not path.resolve().is_relative_to(root):
        raise DatasetError(f"{where}: {key} {name!r} leaves the folder {root}: copy the file into it")
    if not path.is_file():
        raise DatasetError(f"{where}: {key} {name!r} is no file in {root}: put it there or remove the line")
    return path


def _prompt(where: str, entry: dict[str, Any], spoken: bool) -> str:
    for key in _PROMPTS:
        if key in entry:
            if not isinstance(entry[key], str):
                raise DatasetError(f"{where}: {key} {entry[key]!r} is no text: write a string")
            return str(entry[key])
    if spoken:
        return ""
    if any(key in entry for key in _CAPTIONS):
        return CAPTION_PROMPT
    raise DatasetError(
        f"{where}: no column prompt among {sorted(entry)}: add what is asked, or a caption where captions are wanted"
    )


def _references(where: str, entry: dict[str, Any]) -> tuple[str, ...]:
    for key in _ANSWERS:
        if key in entry:
            given = [entry[key]] if isinstance(entry[key], str) else entry[key]
            if not isinstance(given, list) or not all(isinstance(g, str) for g in given):
                raise DatasetError(f"{where}: {key} {entry[key]!r} is no text: write a string or a list of strings")
            return tuple(given)
    return ()


def _opened(path: Path, where: str) -> Image.Image:
    """An image whose header is right; its pixels are not read yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(
            f"{where}: {path.name} is too large ({error}): scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except _BROKEN_IMAGE as error:
        raise DatasetError(f"{where}: {path.name} is no image ({error}): replace the file") from error


def read_image(path: Path, side: int, where: str) -> np.ndarray:
    """An image turned upright, made RGB, fitted into a white square: uint8 (side, side, 3), read-only.

    Args:
        path: its file.
        side: of the square in pixels.
        where: file and line, for errors.

    Raises:
        DatasetError: the file is broken.
    """
    try:
        with _opened(path, where) as image:
            rgb = _rgb(ImageOps.exif_transpose(image), where)
    except DatasetError:
        raise
    except _BROKEN_IMAGE as error:
        raise DatasetError(f"{where}: {path.name} is broken ({error}): replace the file") from error
    scale = side / max(rgb.size)
    size = tuple(max(1, round(n * scale)) for n in rgb.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(rgb.resize((size[0], size[1])), ((side - size[0]) // 2, (side - size[1]) // 2))
    pixels = np.array(square)
    pixels.flags.writeable = False
    return pixels


def _rgb(image: Image.Image, where: str) -> Image.Image:
    """Any mode as RGB: 16 bits are scaled, transparency lies over white."""
    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        return Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DatasetError(f"{where}: pixels are floating point numbers, of unknown range: save them with 8 bits")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def _check_sound(path: Path, where: str) -> None:
    """A header that promises some sound, and not an hour of it."""
    try:
        info = soundfile.info(str(path))
    except soundfile.SoundFileError as error:
        raise DatasetError(f"{where}: {path.name} is no sound ({error}): replace the file") from error
    if info.frames == 0:
        raise DatasetError(f"{where}: {path.name} is empty: replace the file or remove the line")
    if info.duration > LONGEST_SECONDS:
        raise DatasetError(
            f"{where}: {path.name} lasts {info.duration:.0f} s, longer than {LONGEST_SECONDS} s: cut it into utterances"
        )


def read_audio(path: Path, where: str) -> np.ndarray:
    """A sound mixed to one channel, at 16 kHz: float32 (T,) in [-1, 1], read-only.

    Args:
        path: its file.
        where: file and line, for errors.

    Raises:
        DatasetError: the file is broken, empty or silent.
    """
    _check_sound(path, where)
    try:
        channels, rate = soundfile.read(str(path), dtype="float32", always_2d=True)  # (T, channels)
    except soundfile.SoundFileError as error:
        raise DatasetError(f"{where}: {path.name} is broken ({error}): replace the file") from error
    wave = resample(channels.mean(1), rate)
    if not np.isfinite(wave).all():
        raise DatasetError(f"{where}: {path.name} holds values that are not finite: save it as 16-bit PCM")
    if not wave.size or np.abs(wave).max() < QUIETEST:
        raise DatasetError(f"{where}: {path.name} is silent: record it again or remove the line")
    wave = np.clip(wave, -1.0, 1.0).astype(np.float32)
    wave.flags.writeable = False
    return wave


def resample(wave: np.ndarray, rate: int) -> np.ndarray:
    """A wave (T,) at ``rate`` -> the same at 16 kHz, band-limited: its spectrum is cut or padded.

    The Fourier transform takes the wave for periodic, which shows at its very ends alone.
    """
    n = round(len(wave) * RATE / rate)
    if rate == RATE or n == 0:
        return wave[: len(wave) if rate == RATE else 0]
    return np.fft.irfft(np.fft.rfft(wave)[: n // 2 + 1], n) * (n / len(wave))
