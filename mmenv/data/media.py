"""Pictures and sounds as arrays: any file of either kind, checked and named where it is broken."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from PIL import Image, ImageOps

RATE = 16_000
DEFAULT_SIDE = 48
LONGEST_SECONDS = 60
QUIETEST = 1e-4  # a peak below this is silence
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
# What a whole file ends with, and how much may follow it: cameras and editors append a little.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_TAIL = 4096


class DatasetError(ValueError):
    """A dataset that cannot be used as it is: names the file, the line and the remedy."""


class DatasetWarning(UserWarning):
    """A dataset that was used without some of its entries, as was asked for."""


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


def file_of(source: Source) -> Any:
    """What Pillow and soundfile read: a path, or bytes in memory."""
    return str(source) if isinstance(source, Path) else io.BytesIO(source.fetch())


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


def _opened(source: Source, where: str) -> Image.Image:
    """An image whose header is right; its pixels are not read yet."""
    file = file_of(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        remedy = "scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS"
        raise DatasetError(f"{where}: {source.name} is too large ({error}): {remedy}") from error
    except _BROKEN_IMAGE as error:
        raise DatasetError(f"{where}: {source.name} is no image ({error}): replace the file") from error


def check_image(path: Path, where: str) -> None:
    """What can be said without decoding: the header is right, and the file was not cut off.

    Raises:
        DatasetError: the file is broken.
    """
    with _opened(path, where) as image:
        end = _ENDS.get(image.format or "")
    if end is None:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        if end in file.read():
            return
    read_image(path, DEFAULT_SIDE, where)  # suspicious, and perhaps whole all the same


def read_image(source: Source, side: int, where: str) -> np.ndarray:
    """An image turned upright, made RGB, fitted into a white square: uint8 (side, side, 3), read-only.

    Args:
        source: its file, or where it lies in a table.
        side: of the square in pixels.
        where: file and line, for errors.

    Raises:
        DatasetError: the file is broken.
    """
    try:
        with _opened(source, where) as image:
            image.draft(None, (2 * side, 2 * side))  # a JPEG need not be decoded larger than it is used
            rgb = _rgb(ImageOps.exif_transpose(image), where)
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


def check_sound(source: Source, where: str) -> int:
    """A header that promises some sound, and not an hour of it.

    Returns:
        its length at 16 kHz.

    Raises:
        DatasetError: the file is broken, empty or too long.
    """
    file = file_of(source)
    try:
        info = soundfile.info(file)
    except soundfile.SoundFileError as error:
        raise DatasetError(f"{where}: {source.name} is no sound ({error}): replace the file") from error
    if info.frames == 0:
        raise DatasetError(f"{where}: {source.name} is empty: replace the file or remove the line")
    if info.duration > LONGEST_SECONDS:
        length = f"{info.duration:.0f} s, longer than {LONGEST_SECONDS} s"
        raise DatasetError(f"{where}: {source.name} lasts {length}: cut it into utterances")
    return round(info.frames * RATE / info.samplerate)


def read_audio(source: Source, where: str) -> np.ndarray:
    """A sound mixed to one channel, at 16 kHz: float32 (T,) in [-1, 1], read-only.

    Args:
        source: its file, or where it lies in a table.
        where: file and line, for errors.

    Raises:
        DatasetError: the file is broken, empty or silent.
    """
    check_sound(source, where)
    try:
        channels, rate = soundfile.read(file_of(source), dtype="float32", always_2d=True)  # (T, channels)
    except soundfile.SoundFileError as error:
        raise DatasetError(f"{where}: {source.name} is broken ({error}): replace the file") from error
    wave = resample(channels.mean(1), rate)
    if not np.isfinite(wave).all():
        raise DatasetError(f"{where}: {source.name} holds values that are not finite: save it as 16-bit PCM")
    if not wave.size or np.abs(wave).max() < QUIETEST:
        raise DatasetError(f"{where}: {source.name} is silent: record it again or remove the line")
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
