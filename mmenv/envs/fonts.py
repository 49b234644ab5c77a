"""Typefaces for text of any language: Pillow's own, and those of the machine for characters that it lacks."""

from __future__ import annotations

import functools
import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_COMPARED_SIZE = 24  # size at which glyphs are compared
_LAST = (
    "color",
    "emoji",
    "bold",
    "italic",
    "oblique",
    "mono",
    "serif",
    "condensed",
    "narrow",
    "light",
    "black",
    "thin",
)
# Typefaces with a placeholder for every character, or with symbols in place of letters.
_NEVER = tuple(
    """
    lastresort adobeblank notosansblank wingdings webdings symbol.ttf cmb10 cmex10 cmmi10 cmr10 cmss10 cmsy10 cmti10
    cmtt10 stixnonuni stixsiz
    """.split()
)
_NO_CHARACTER = "\uffff"  # no font has it, so that it shows the glyph for missing characters
_EAST_ASIA = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH", "BOPOMOFO"}
_recommended: set[str] = set()  # packages that a warning has named
_candidates: dict[str, list[Path]] = {}  # typefaces by script


class FontWarning(UserWarning):
    """No typeface of this machine has some of the characters."""


@functools.cache
def default_font(size: int) -> Font:
    """Pillow's own typeface for Latin letters; reads no file of the machine."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType: install its wheel"
    return font


def folders() -> list[Path]:
    """Folders in which this platform and matplotlib keep typefaces."""
    home = Path.home()
    if sys.platform == "win32":
        system = [
            Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
            home / "AppData/Local/Microsoft/Windows/Fonts",
        ]
    elif sys.platform == "darwin":
        system = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        data = os.environ.get("XDG_DATA_HOME") or home / ".local/share"
        system = [Path(data) / "fonts", home / ".fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts")]
    return [*system, *(Path(p) / "matplotlib/mpl-data/fonts/ttf" for p in sys.path if p)]


@functools.cache
def files() -> tuple[Path, ...]:
    """All typefaces, upright sans serif ones first."""
    typefaces = [
        Path(folder) / name
        for root in folders()
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.lower().startswith(_NEVER)
    ]
    return tuple(sorted(typefaces, key=lambda path: (_unlikely(path.stem.lower()), len(path.stem), str(path))))


def _unlikely(name: str) -> tuple[int, bool]:
    plain = name.replace("sansserif", "").replace("sans", "")
    return sum(word in plain for word in _LAST), plain == name


@functools.lru_cache(maxsize=256)
def opened(path: Path, size: int) -> Font | None:
    """The typeface of a file; None if it has no glyphs of this size, such as bitmaps of emoji."""
    try:
        return ImageFont.truetype(str(path), size)
    except (OSError, ValueError):
        return None


@functools.lru_cache(maxsize=1 << 14)
def has(path: Path | None, character: str) -> bool:
    """Whether a typeface (None: Pillow's own) has a character; true for spaces and marks."""
    if unicodedata.category(character)[0] in "ZCM":
        return True
    font = default_font(_COMPARED_SIZE) if path is None else opened(path, _COMPARED_SIZE)
    if font is None:
        return False
    try:
        glyph, lacking = font.getmask(character), font.getmask(_NO_CHARACTER)
    except (OSError, UnicodeError):
        return False
    return glyph.getbbox() is not None and (glyph.size, bytes(glyph)) != (lacking.size, bytes(lacking))


@functools.lru_cache(maxsize=1 << 14)
def fallback(character: str) -> Path | None:
    """The typeface of this machine that has a character; None, with a warning, if there is none."""
    package, script, probes = _script(character)
    if script not in _candidates:  # one walk over all files for a script, not for each of its characters
        _candidates[script] = [path for path in files() if any(has(path, probe) for probe in probes)]
    typeface = next((path for path in _candidates[script] if has(path, character)), None)
    if typeface is None and package not in _recommended:
        _recommended.add(package)
        remedy = f"install one and start again, on Debian and Ubuntu: apt install {package}"
        warnings.warn(f"no typeface has {character!r}, drawn as a box: {remedy}", FontWarning, stacklevel=2)
    return typeface


def _script(character: str) -> tuple[str, str, str]:
    """The Debian package with a typeface for a character, its script, and sample characters of that script."""
    name = unicodedata.name(character, "?").split()[0].partition("-")[0]
    if name in _EAST_ASIA:
        return "fonts-noto-cjk", "East Asia", "日か한"
    if unicodedata.category(character)[0] == "S":
        return "fonts-symbola", "symbols", f"{character}☀😀"
    return "fonts-noto-core", name, character


def drawable(text: str) -> str:
    """Remove control characters and lone surrogates, which Pillow cannot draw."""
    return "".join(
        " " if unicodedata.category(c) == "Cc" else "\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text
    )


def runs(text: str, size: int) -> Iterator[tuple[str, Font]]:
    """Split a line into parts of one typeface each; a mark stays with the letter before it."""
    run = ""
    last: Path | None = None
    for character in text:
        path = next((p for p in (last, None) if has(p, character)), None)
        if path is None and not has(None, character):
            path = fallback(character)
        if run and path != last:
            yield run, _of(last, size)
            run = ""
        run, last = run + character, path
    if run:
        yield run, _of(last, size)


def _of(path: Path | None, size: int) -> Font:
    return default_font(size) if path is None else opened(path, size) or default_font(size)


def draw_line(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, fill: tuple[int, int, int], right: bool = False
) -> None:
    """Draw a line of any language from its top left corner, or its top right one."""
    parts = list(runs(drawable(text), size))
    widths = [font.getlength(part) for part, font in parts]
    x -= sum(widths) if right else 0
    baseline = y + default_font(size).getmetrics()[0]
    for (part, font), width in zip(parts, widths, strict=True):
        draw.text((x, baseline), part, fill=fill, font=font, anchor="ls")
        x += width


def cells(text: str) -> int:
    """Width of a text in cells: East Asian characters take two, marks none."""
    return sum(_cells(c) for c in text)


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """A text as at most so many lines of ``width`` cells, broken at spaces, and between characters of East Asia.

    Where it is longer an ellipsis ends it.
    """
    filled: list[str] = [""]
    for word in text.split():
        space = " " if filled[-1] else ""
        if cells(word) <= width and not any(_cells(c) == 2 for c in word):
            if cells(filled[-1] + space + word) > width:
                filled.append("")
                space = ""
            filled[-1] += space + word
            continue
        filled[-1] += space
        for character in word:
            if cells(filled[-1] + character) > width:
                filled.append("")
            filled[-1] += character
    filled = [line.strip() for line in filled if line.strip()]
    if len(filled) <= lines:
        return filled
    last = filled[lines - 1]
    while cells(last) > width - 2:
        last = last[:-1]
    return [*filled[: lines - 1], f"{last.rstrip()} …"]
