"""Detects truncated and damaged picture files, from the lengths and checksums that each format holds.

Pillow decodes damaged files too, and fills missing parts with grey.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

# The formats that are read. Others are not opened: Pillow gives some of them to programs of the machine.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_TAIL_OF_ZEROS = 64  # no compressed picture ends so; an unfinished download does
_FILLER = bytes(range(1, 97, 2))  # no marker of a JPEG, which begins with 0xFF
_END = 8  # bytes at the end of compressed data that are changed to see whether they matter
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers of a JPEG without a length


def seems_cut(form: str, head: bytes, tail: bytes, size: int) -> bool:
    """A quick check: whether the end of a file is missing, according to its format.

    Args:
        form: as Pillow names it.
        head: the first bytes.
        tail: the last ones.
        size: of the file.
    """
    if form in ("JPEG", "MPO"):
        return b"\xff\xd9" not in tail
    if form == "PNG":
        return b"IEND\xaeB`\x82" not in tail
    if form == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    if form == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    return form == "BMP" and int.from_bytes(head[2:6], "little") > size


def damage(form: str, data: bytes) -> str | None:
    """The first fault in the structure of a file; None where there is none.

    Args:
        form: as Pillow names it.
        data: the content.
    """
    if form == "PNG":
        return _png(data)
    if form == "GIF":
        return _gif(data)
    if form in ("JPEG", "MPO"):
        return (
            None if any(marker == 0xD9 for marker, _, _ in jpeg_parts(data)) else "it has no end marker: it was cut off"
        )
    if form == "WEBP" and not any(data[-_TAIL_OF_ZEROS:]):
        return "it ends in zeros: the download was not finished"
    # Pillow checks this too, unless LOAD_TRUNCATED_IMAGES is set.
    return "it was cut off" if seems_cut(form, data[:16], b"", len(data)) else None


def _png(data: bytes) -> str | None:
    """Chunks up to IEND, each with a checksum over its type and content."""
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"the checksum of its chunk {kind.decode('latin-1')!r} is wrong"
        if kind == b"IEND":
            return None
        at = end
    return "it has no end chunk: it was cut off"


def _gif(data: bytes) -> str | None:
    """Blocks up to the trailer: images and extensions, whose content is in blocks of at most 255 bytes."""

    def colours(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    try:
        at = 13 + colours(data[10])
        while data[at] != 0x3B:
            if data[at] == 0x2C:
                at += 11 + colours(data[at + 9])
            elif data[at] == 0x21:
                at += 2
            elif data[at] == 0:
                at += 1
                continue
            else:
                return f"byte {at} begins no block"
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        return "it has no trailer: it was cut off"
    return None


def jpeg_parts(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each part up to the end marker: segments, and after SOS and RST what was compressed.

    Of a part of compressed data the marker is 0.
    """
    at, size = 2, len(data)
    while at + 1 < size:
        if data[at] != 0xFF or data[at + 1] == 0xFF:  # 0xFF may be repeated before a marker
            at += 1
            continue
        marker = data[at + 1]
        length = 0 if marker in _ALONE or marker == 0xD9 else int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, at + 2 + length
        if marker == 0xD9:
            return
        at += 2 + length
        if marker == 0xDA or 0xD0 <= marker <= 0xD7:
            begin = at
            while (at := data.find(b"\xff", at)) != -1 and data[at + 1 : at + 2] in (b"\0", b"\xff"):
                at += 2 if data[at + 1] == 0 else 1
            if at == -1:
                return
            yield 0, begin, at


def jpeg_variants(data: bytes, size: tuple[int, int]) -> tuple[bytes | None, bytes | None]:
    """Two other files that tell whether a decoder took all compressed data of a JPEG, and no more than that.

    Args:
        data: the file.
        size: width and height that it promises.

    Returns:
        one with more behind each compressed part, which a decoder skips unless it lacks some of the part; and one whose
        only part ends otherwise, which a decoder notices unless it was done before. None where this says nothing: of
        arithmetic code, which may leave zeros out, and the second where there are several parts or, as of a picture of
        one colour, so little that a decoder need not mind what it is.
    """
    parts = []
    for marker, begin, end in jpeg_parts(data):
        if 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None, None
        if marker == 0:
            parts.append((begin, end))
    pieces, done = [], 0
    for _, end in parts:
        pieces += [data[done:end], _FILLER]
        done = end
    longer = b"".join([*pieces, data[done:]])
    if len(parts) != 1:
        return longer, None
    begin, end = parts[0]
    end = begin + len(data[begin:end].rstrip(b"\0"))  # some programs fill up with zeros
    blocks = -(-size[0] // 16) * -(-size[1] // 16) * 4  # of 8 x 8 pixels
    last = bytes(0x55 if byte != 0x55 else 0xAA for byte in data[end - _END : end])
    return longer, data[: end - _END] + last + data[end:] if end - begin > max(4 * _END, blocks) else None
