"""What the world is made of: the things that can be drawn, with their words, and the plates, sizes and marks."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from mmenv.tokenizer import NUMBER_WORDS

ASSETS = Path(str(files("mmenv.worlds") / "assets"))
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "gray")  # of plates
SIZES = ("small", "medium", "large")
LETTERS = ("b", "c", "e", "f", "h", "k", "m", "r", "t", "x")  # painted as capitals, told apart at 5 x 7 pixels
DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


class Concept(NamedTuple):
    """A kind of thing that can be drawn: its words, and whether the voices recorded its name and plural."""

    name: str
    category: str
    plural: str
    article: str
    spoken: bool


@functools.cache
def _table() -> dict[str, object]:
    table: dict[str, object] = json.loads((ASSETS / "things.json").read_text(encoding="utf-8"))
    return table


@functools.cache
def concepts() -> tuple[Concept, ...]:
    """All 128 concepts, in the order of the drawings."""
    rows = _table()["concepts"]
    assert isinstance(rows, list)
    return tuple(Concept(r["name"], r["category"], r["plural"], r["article"], r["spoken"]) for r in rows)


@functools.cache
def categories() -> dict[str, str]:
    """Category -> its plural."""
    names = _table()["categories"]
    assert isinstance(names, dict)
    return names


@functools.cache
def members() -> dict[str, tuple[int, ...]]:
    """Category -> the indices of its concepts."""
    return {c: tuple(i for i, x in enumerate(concepts()) if x.category == c) for c in categories()}


@functools.cache
def concept_index() -> dict[str, int]:
    """Name of a concept -> its index in ``concepts()``."""
    return {c.name: i for i, c in enumerate(concepts())}


@functools.cache
def plurals() -> dict[str, str]:
    """Plural of every concept and category -> the singular."""
    singulars = {c.plural: c.name for c in concepts()}
    return singulars | {plural: name for name, plural in categories().items()}


def article(noun: str) -> str:
    """``a`` or ``an``, for a concept, a category, a colour or a size."""
    index = concept_index().get(noun)
    if index is not None:
        return concepts()[index].article
    return "an" if noun[0] in "aeio" else "a"


def mark_word(mark: str) -> str:
    """What a text calls a mark: a letter itself ("b"), a digit by its number word ("seven")."""
    return NUMBER_WORDS[int(mark)] if mark in DIGITS else mark
