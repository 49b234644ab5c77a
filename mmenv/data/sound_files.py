"""Detects truncated and damaged sound files by counting their chunks, pages or frames.

libsndfile accepts them: it reads the first part of a truncated WAV or Ogg file, and of an MP3 without a header as many
frames as it estimates from the first.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO, NamedTuple

LARGEST_FILE = 1 << 28  # bytes
KINDS = "WAV, FLAC, Ogg, MP3 or AIFF"
_UNKNOWN_LENGTH = 0x7FFFF000  # what programs write that cannot go back in a pipe, or more
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_BITRATES = {  # in kbit/s by (MPEG 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
_PADDING = 4096  # zeros at a file's end that are not yet an unfinished download,
_SHORT_PADDING = 128  # or the shortest frame, where no header says how many frames there are
_DELAY = 1152  # frames that a decoder leaves out at the beginning, or fewer
_GAPLESS = 8192  # frames that a LAME header takes off both ends, or fewer


class BrokenSound(ValueError):
    """A sound file that is truncated or damaged; the message gives the reason, without file or remedy."""


class NoSound(BrokenSound):
    """A file of another kind."""


class WholeSound(NamedTuple):
    """A complete file for soundfile to read.

    Attributes:
        file: the content, perhaps with another header.
        frames: how many it holds at least; 0 where the header is right about them.
    """

    file: BinaryIO
    frames: int = 0


def whole_sound(file: BinaryIO) -> WholeSound:
    """A sound whose structure is complete.

    Raises:
        BrokenSound: it was cut off or is damaged.
        NoSound: it is of another kind.
    """
    head, size = file.read(16), file.seek(0, io.SEEK_END)
    file.seek(0)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return WholeSound(file, _chunked(file, size, "<" if head[:4] != b"RIFX" else ">"))
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return WholeSound(file, _chunked(file, size, ">"))
    if head[:4] == b"fLaC":  # its decoder notices both a missing end and a wrong checksum
        return WholeSound(file)
    if size > LARGEST_FILE:
        raise BrokenSound(f"it has {size >> 20} MB, more than {LARGEST_FILE >> 20}")
    if head[:4] == b"OggS":
        _check_ogg(file.read())
        file.seek(0)
        return WholeSound(file)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return _mpeg(file.read())
    raise NoSound(f"it is no {KINDS} file" if head else "it has no content")


def _chunked(file: BinaryIO, size: int, order: str) -> int:
    """Check the chunks of a RIFF or AIFF file up to that of the sound; returns the frames that an AIFF promises."""
    at, frames, long = 12, 0, 0
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack(f"{order}4sI", file.read(8))
        if kind == b"ds64":
            long = struct.unpack("<8xQ", file.read(16))[0]
        if kind == b"COMM":
            frames = struct.unpack(">2xI", file.read(6))[0]
        if kind in (b"data", b"SSND"):
            length = long or length
            if at + 8 + length > size and (long or length < _UNKNOWN_LENGTH):
                raise BrokenSound(f"it was cut off: {size - at - 8} of {length} bytes of sound are there")
            file.seek(0)
            return int(frames)
        at += 8 + length + length % 2
    raise BrokenSound("it has no chunk of sound: it was cut off")


def _check_ogg(data: bytes) -> None:
    """All pages of one stream: numbered, with right checksums, the last one marked as such."""
    at, number, last = 0, 0, False
    serial = data[14:18]
    while at < len(data):
        head = data[at : at + 27]
        if len(head) < 27 or head[:4] != b"OggS":
            raise BrokenSound(f"byte {at} begins no page: it is damaged or was cut off")
        segments = data[at + 27 : at + 27 + head[26]]
        end = at + 27 + head[26] + sum(segments)
        if end > len(data) or len(segments) < head[26]:
            raise BrokenSound(f"it was cut off in page {number}")
        if head[14:18] != serial:
            raise BrokenSound("it holds several streams")
        page = head[:22] + bytes(4) + data[at + 26 : end]
        if _ogg_checksum(page) != int.from_bytes(head[22:26], "little"):
            raise BrokenSound(f"the checksum of page {number} is wrong")
        if int.from_bytes(head[18:22], "little") != number:
            raise BrokenSound(f"page {number} is missing")
        last = bool(head[5] & 4)
        at, number = end, number + 1
    if not last:
        raise BrokenSound("its last page is missing: it was cut off")


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC: zlib's polynomial, but bits in the other order, and no inversions."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED), "big")


class _Frame(NamedTuple):
    """The header of a frame of MPEG audio: its bytes, its frames of sound, and what may not change within a file."""

    length: int
    samples: int
    constant: tuple[int, int, bool]  # version and layer, rate, one channel
    layer: int
    side: int  # bytes between the header and a Xing header

    @classmethod
    def at(cls, data: bytes, at: int) -> _Frame | None:
        """The header that begins at byte ``at``; None where none does."""
        head = data[at : at + 4]
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
            return None
        version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
        bits, rate = head[2] >> 4, head[2] >> 2 & 3
        if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
            return None
        first = version == 3
        hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
        samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
        unit = 4 if layer == 1 else 1
        bitrate = 1000 * _BITRATES[first, layer][bits - 1]
        length = (samples // 8 * bitrate // hertz // unit + (head[2] >> 1 & 1)) * unit
        mono = head[3] >> 6 == 3
        side = (17 if mono else 32) if first else (9 if mono else 17)
        return cls(length, samples, (head[1] & 0xFE, rate, mono), layer, side)


def _mpeg(data: bytes) -> WholeSound:
    """An MP3 whose frames were counted, with a header that says how many there are; or what else follows a tag."""
    data = _without_end_tags(data)
    begin = at = _after_tags(data, 0)
    if data[at : at + 4] == b"fLaC":
        return WholeSound(io.BytesIO(data[at:]))
    first, n, zeros = _Frame.at(data, at), 0, 0
    if first is None:
        raise BrokenSound(f"byte {at} begins no frame of MPEG audio of a known bit rate")
    shortest = first.length
    while at < len(data):
        frame = _Frame.at(data, at)
        if frame is None:
            after = _after_tags(data, at)
            if after == at:
                raise BrokenSound(f"byte {at} begins no frame: it is damaged")
            zeros = 0 if any(data[at:after]) else after - at
            at = after
            continue
        if frame.constant != first.constant:
            raise BrokenSound(f"rate or channels change at byte {at}")
        if at + frame.length > len(data):
            raise BrokenSound(f"it was cut off in frame {n}")
        at, n, shortest = at + frame.length, n + 1, min(shortest, frame.length)
    if zeros >= max(shortest, _SHORT_PADDING) and not _has_count(data[begin:], first):
        raise BrokenSound(f"it ends in {zeros} zeros: the download was not finished")
    if first.layer != 3:
        return WholeSound(io.BytesIO(data[begin:]), n * first.samples)
    return _with_count(data[begin:], first, n)


def _has_count(data: bytes, first: _Frame) -> bool:
    """Whether a header says how many frames follow."""
    place = 4 + first.side
    if data[place : place + 4] in (b"Xing", b"Info"):
        return bool(data[place + 7] & 1)
    return data[36:40] == b"VBRI"


def _with_count(data: bytes, first: _Frame, n: int) -> WholeSound:
    """The frames behind a Xing header with their number: without one, or with a wrong one, some would not be read."""
    place = 4 + first.side
    if data[place : place + 4] in (b"Xing", b"Info"):
        flags, promised, size = struct.unpack_from(">3I", data, place + 4)
        if (flags & 1 and promised > n) or (flags & 3 == 3 and size > len(data)):
            raise BrokenSound(f"it was cut off: {n - 1} of {promised} frames are there")
        if flags & 1:
            data = data[: place + 8] + (n - 1).to_bytes(4, "big") + data[place + 12 :]
            return WholeSound(io.BytesIO(data), max(1, (n - 1) * first.samples - _GAPLESS))
    if data[36:40] == b"VBRI":
        promised = int.from_bytes(data[50:54], "big")
        if promised > n:
            raise BrokenSound(f"it was cut off: {n - 1} of {promised} frames are there")
        data, n = data[first.length :], n - 1
    head = bytes([data[0], data[1] | 1, 0xB0 | data[2] & 0x0C, data[3]])  # no checksum, and room for the header
    frame = _Frame.at(head, 0)
    assert frame is not None
    xing = head + bytes(first.side) + struct.pack(">4s2I", b"Info", 1, n)
    return WholeSound(io.BytesIO(xing.ljust(frame.length, b"\0") + data), max(1, n * first.samples - _DELAY))


def _without_end_tags(data: bytes) -> bytes:
    """The content before an APE tag and ID3's first kind of tag, which are found from the end."""
    end = len(data)
    if data[-128:-125] == b"TAG":
        end -= 128
    if data[max(0, end - 32) : end].startswith(b"APETAGEX"):
        size, flags = struct.unpack_from("<I4xI", data, end - 20)
        end = max(0, end - size - (32 if flags >> 31 else 0))
    return data[:end]


def _after_tags(data: bytes, at: int) -> int:
    """Where ID3 tags and lyrics that begin there end; at the end of a file some zeros count as one."""
    while at < len(data):
        head = data[at : at + 11]
        if head[:3] == b"ID3" and len(head) == 11:
            at += 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10])) + 10 * (head[5] >> 4 & 1)
        elif head == b"LYRICSBEGIN" and (end := data.find(b"LYRICS200", at)) != -1:
            at = end + 9
        elif len(data) - at <= _PADDING and not any(data[at:]):
            return len(data)
        else:
            return at
    return at
