"""Pictures and sounds as arrays: any file of either kind, checked and named where it is broken."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
from PIL import Image, ImageOps, UnidentifiedImageError

from mmenv.data.picture_files import FORMATS, damage, jpeg_variants, seems_cut
from mmenv.data.sound_files import LARGEST_FILE, BrokenSound, NoSound, WholeSound, whole_sound

RATE = 16_000
DEFAULT_SIDE = 96
LONGEST_SECONDS = 60
QUIETEST = 1e-4  # a peak below this is silence
MOST_PIXELS = 30_000_000  # of a picture: decoding so many takes up to 900 MB
MOST_HERTZ, MOST_CHANNELS = 192_000, 8
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc")
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, OverflowError, RuntimeError)
_TAIL = 4096  # bytes in which a file's end is looked for: cameras and editors append a little
_BLOCK = 1 << 16  # frames of sound that are decoded at once
_UNKNOWN_FRAMES = 1 << 40  # more than this libsndfile says of a FLAC that was written into a pipe
_SILENCE = 0.05  # seconds around a wave while it is resampled
_SOFT = 0.1  # share of the lower Nyquist frequency over which a resampled spectrum fades out


class DatasetError(ValueError):
    """A dataset that cannot be used; the message names the file, the line and the remedy."""


class Packed(NamedTuple):
    """A picture or sound inside a table of ``datasets``: its bytes are fetched when they are used.

    Attributes:
        name: for errors.
        table: a ``datasets.Dataset`` whose media columns are not decoded.
        column: of the table.
        number: of the row.
    """

    name: str
    table: Any
    column: str
    number: int

    def fetch(self) -> bytes:
        """The file's content.

        Raises:
            DatasetError: there is none.
        """
        value = self.table[self.number][self.column]
        if isinstance(value, dict) and value.get("bytes"):
            return bytes(value["bytes"])
        path = value.get("path") if isinstance(value, dict) else value
        try:
            return Path(path or "").read_bytes()
        except OSError as error:
            raise DatasetError(f"{self.name}: no file {path!r} ({error}): put it there or drop the row") from error


Source = Path | Packed


@contextmanager
def opened(source: Source, where: str) -> Iterator[BinaryIO]:
    """The content of a picture or sound as a file.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        file = source.open("rb") if isinstance(source, Path) else io.BytesIO(source.fetch())
    except OSError as error:
        raise DatasetError(f"{where}: {source.name} cannot be read ({error}): make it readable") from error
    with file:
        yield file


def path_inside(root: Path, where: str, key: str, name: Any) -> Path:
    """A path that exists and stays in the folder, also after its links are followed."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise DatasetError(f"{where}: {key} {repr(name)[:80]} is no path: write one relative to {root}")
    path = root / name
    try:
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts and path.resolve().is_relative_to(root)
        is_file = inside and path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name too long, half a surrogate
        short = ascii(name if len(name) < 80 else f"{name[:77]}...")
        raise DatasetError(f"{where}: {key} {short} names no file ({type(error).__name__}): rename it") from error
    if not inside:
        raise DatasetError(f"{where}: {key} {name!r} leaves the folder {root}: copy the file into it")
    if not is_file:
        raise DatasetError(f"{where}: {key} {name!r} is no file in {root}: put it there or remove the line")
    return path


@contextmanager
def _picture(file: BinaryIO, name: str, where: str) -> Iterator[Image.Image]:
    """An image whose header is right and promises no more pixels than are read; they are not read yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{where}: {name} is too large ({error}): scale it down") from error
    except _BROKEN_IMAGE as error:
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        reason = f"it is damaged, or no {kinds}" if isinstance(error, UnidentifiedImageError) else error
        raise DatasetError(f"{where}: {name} is no image ({reason}): replace the file") from error
    with image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            pixels = f"{width} x {height} pixels, more than {MOST_PIXELS // 1_000_000} million"
            raise DatasetError(f"{where}: {name} is too large ({pixels}): scale it down")
        yield image


def check_image(source: Source, where: str) -> tuple[int, int]:
    """Check a picture without decoding it: its header, and that the file is not truncated.

    Returns:
        width and height.

    Raises:
        DatasetError: the file is broken.
    """
    with opened(source, where) as file, _picture(file, source.name, where) as image:
        form, size = image.format or "", image.size
        head, length = _part(file, 0, 16), file.seek(0, io.SEEK_END)
        suspicious = seems_cut(form, head, _part(file, max(0, length - _TAIL), _TAIL), length)
    if suspicious:
        read_image(source, DEFAULT_SIDE, where)  # says what it is
    return size


def _part(file: BinaryIO, begin: int, length: int) -> bytes:
    file.seek(begin)
    return file.read(length)


def read_image(source: Source, side: int, where: str) -> np.ndarray:
    """An image turned upright, made RGB, fitted into a white square: uint8 (side, side, 3), read-only.

    Args:
        source: its file, or where it lies in a table.
        side: of the square in pixels.
        where: file and line, for errors.

    Raises:
        DatasetError: the file is broken, or holds more than ``MOST_PIXELS``.
    """
    with opened(source, where) as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise DatasetError(f"{where}: {source.name} has more than {LARGEST_FILE >> 20} MB: save it smaller")
    try:
        rgb = _decoded(data, side, source.name, where)
    except DatasetError:
        raise
    except _BROKEN_IMAGE as error:
        raise DatasetError(f"{where}: {source.name} is broken ({error}): replace the file") from error
    scale = side / max(rgb.size)
    size = tuple(max(1, round(n * scale)) for n in rgb.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(rgb.resize((size[0], size[1])), ((side - size[0]) // 2, (side - size[1]) // 2))
    pixels = np.array(square)
    pixels.flags.writeable = False
    return pixels


def _decoded(data: bytes, side: int, name: str, where: str) -> Image.Image:
    """All pixels of a picture as RGB, or about as many as ``side`` needs."""
    with _picture(io.BytesIO(data), name, where) as image:
        form = image.format or ""
        reason = damage(form, data)
        if reason:
            raise ValueError(reason)
        size = image.size
        image.draft(None, (2 * side, 2 * side))  # a JPEG need not be decoded larger than it is used
        image.load()
        if form in ("JPEG", "MPO"):
            longer, other_end = jpeg_variants(data, size)
            if longer is not None and _jpeg(longer, side) != image.tobytes():
                raise ValueError("some of its data is missing")
            # Decoded small, the end of a block may not matter; decoded in full it does.
            same = other_end is not None and _jpeg(other_end, side) == image.tobytes()
            if same and _jpeg(other_end or b"", max(size)) == _jpeg(data, max(size)):
                raise ValueError("its data is damaged")
        return _rgb(ImageOps.exif_transpose(image), where)


def _jpeg(data: bytes, side: int) -> bytes:
    """The pixels of a JPEG as ``_decoded`` gets them before they become RGB; none where it cannot be decoded."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(None, (2 * side, 2 * side))
        try:
            return image.tobytes()
        except OSError:
            return b""


def _rgb(image: Image.Image, where: str) -> Image.Image:
    """Any mode as RGB: 16 bits are scaled, transparency lies over white."""
    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DatasetError(f"{where}: pixels are floating point numbers, of unknown range: save them with 8 bits")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _sound(source: Source, where: str) -> Iterator[tuple[soundfile.SoundFile, WholeSound]]:
    """A sound whose file is complete and whose header has a length, a rate and channels within the limits."""
    with opened(source, where) as file:
        try:
            whole = whole_sound(file)
            sound = soundfile.SoundFile(whole.file)
        except (BrokenSound, soundfile.SoundFileError, struct.error) as error:
            reason = str(error).rpartition(">: ")[2]  # soundfile names the object that it read from
            kind = "no sound" if isinstance(error, NoSound) else "broken"
            raise DatasetError(f"{where}: {source.name} is {kind} ({reason}): replace the file") from error
        with sound:
            if sound.frames == 0:
                raise DatasetError(f"{where}: {source.name} is empty: replace the file or remove the line")
            if sound.frames > _UNKNOWN_FRAMES:
                remedy = "save it again, as in ffmpeg -i old.flac new.flac"
                raise DatasetError(f"{where}: {source.name} does not say how long it is: {remedy}")
            if sound.samplerate > MOST_HERTZ or sound.channels > MOST_CHANNELS:
                has = f"{sound.channels} channels at {sound.samplerate:,} Hz"
                most = f"{MOST_CHANNELS} at {MOST_HERTZ:,} Hz are read"
                raise DatasetError(f"{where}: {source.name} has {has}, at most {most}: convert it")
            yield sound, whole


def check_sound(source: Source, where: str) -> int:
    """Check a sound without decoding it: that the file is complete, neither empty nor too long.

    Returns:
        its length at 16 kHz.

    Raises:
        DatasetError: the file is broken, empty or too long.
    """
    with _sound(source, where) as (sound, _):
        _refuse_long(sound.frames, sound.samplerate, source.name, where)
        return round(sound.frames * RATE / sound.samplerate)


def _refuse_long(frames: int, rate: int, name: str, where: str) -> None:
    if frames > LONGEST_SECONDS * rate:
        length = f"{frames / rate:.0f} s, longer than {LONGEST_SECONDS} s"
        raise DatasetError(f"{where}: {name} lasts {length}: cut it into utterances")


def read_audio(source: Source, where: str) -> np.ndarray:
    """A sound mixed to one channel, at 16 kHz: float32 (T,) in [-1, 1], read-only.

    Args:
        source: its file, or where it lies in a table.
        where: file and line, for errors.

    Raises:
        DatasetError: the file is broken, empty or silent.
    """
    with _sound(source, where) as (sound, whole):
        rate = sound.samplerate
        mixed, least = _mixed(sound, source.name, where), whole.frames or sound.frames
    if len(mixed) < least:
        decoded = f"{len(mixed):,} of {least:,} frames could be decoded"
        raise DatasetError(f"{where}: {source.name} is broken ({decoded}): replace the file")
    wave = resample(mixed, rate)
    if not np.isfinite(wave).all():
        raise DatasetError(f"{where}: {source.name} holds values that are not finite: save it as 16-bit PCM")
    if not wave.size or np.abs(wave).max() < QUIETEST:
        raise DatasetError(f"{where}: {source.name} is silent: record it again or remove the line")
    wave = np.clip(wave, -1.0, 1.0).astype(np.float32)
    wave.flags.writeable = False
    return wave


def _mixed(sound: soundfile.SoundFile, name: str, where: str) -> np.ndarray:
    """All frames as the mean of their channels, (frames,), decoded block by block."""
    blocks, n = [np.empty(0, np.float32)], 0
    while True:
        try:
            block = sound.read(_BLOCK, dtype="float32", always_2d=True)  # (frames, channels)
        except soundfile.SoundFileError as error:
            raise DatasetError(f"{where}: {name} is broken ({error}): replace the file") from error
        if not len(block):
            return np.concatenate(blocks)
        n += len(block)
        _refuse_long(n, sound.samplerate, name, where)
        blocks.append(block.mean(1))


def resample(wave: np.ndarray, rate: int) -> np.ndarray:
    """A wave (T,) at ``rate`` -> the same at 16 kHz, without what 16 kHz, or the rate, cannot hold.

    Its spectrum is cut or padded, softly, so that edges do not ring for long. The Fourier transform takes the wave for
    periodic: silence around it keeps its end out of its beginning. ``scipy.signal.resample_poly`` would be shorter, but
    fades out over a quarter of the band instead of a tenth, and mmenv needs no scipy otherwise.
    """
    n = round(len(wave) * RATE / rate)
    if rate == RATE or n == 0:
        return wave[: len(wave) if rate == RATE else 0]
    step = rate // math.gcd(rate, RATE)  # so many values become a whole number at 16 kHz
    around = -(-math.ceil(rate * _SILENCE) // step) * step
    length = -(-(len(wave) + 2 * around) // step) * step
    padded = np.zeros(length)
    padded[around : around + len(wave)] = wave
    longer = length * RATE // rate
    edge = min(rate, RATE) / 2
    hertz = np.arange(min(length, longer) // 2 + 1) * (rate / length)
    keep = np.cos(np.pi / 2 * np.clip((hertz / edge - 1) / _SOFT + 1, 0, 1)) ** 2
    spectrum = np.fft.rfft(padded)[: len(keep)] * keep
    begin = around * RATE // rate
    return np.fft.irfft(spectrum, longer)[begin : begin + n] * (longer / length)
