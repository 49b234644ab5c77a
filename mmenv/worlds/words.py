"""The words that carry content in texts about scenes: nouns, colours, sizes, numbers, letters and directions."""

from __future__ import annotations

import functools
from typing import NamedTuple

from mmenv.tokenizer import NUMBER_WORDS, normalise
from mmenv.worlds.things import COLOURS, LETTERS, SIZES, categories, concepts


class Content(NamedTuple):
    """What a word means.

    Attributes:
        kind: "name", "category", "color", "size", "number", "letter" or "direction".
        value: the singular of a noun; one word for all synonyms of it.
    """

    kind: str
    value: str


_SYNONYMS = {
    "little": Content("size", "small"),
    "tiny": Content("size", "small"),
    "big": Content("size", "large"),
    "huge": Content("size", "large"),
    "violet": Content("color", "purple"),
    "none": Content("number", "zero"),
    "upper": Content("direction", "top"),
    "lower": Content("direction", "bottom"),
    "center": Content("direction", "middle"),
    "centre": Content("direction", "middle"),
    "central": Content("direction", "middle"),
}


@functools.cache
def contents() -> dict[str, Content]:
    """Every word that carries content, in the form that ``normalise`` gives it."""
    table = dict(_SYNONYMS)
    for concept in concepts():
        table[concept.name] = table[concept.plural] = Content("name", concept.name)
    for singular, plural in categories().items():
        table[singular] = table[plural] = Content("category", singular)
    for kind, words in (
        ("color", COLOURS),
        ("size", SIZES),
        ("number", NUMBER_WORDS),
        ("letter", LETTERS),
        ("direction", ("top", "bottom", "left", "right", "middle", "above", "below")),
    ):
        table |= {word: Content(kind, word) for word in words}
    return table


@functools.lru_cache(maxsize=1 << 14)
def words_of(text: str) -> tuple[str, ...]:
    """The words of a text after ``normalise``, a compound written apart as one word: "hot dog", "sail-boats"."""
    table = contents()
    words: list[str] = []
    for word in normalise(text).split():
        if words and words[-1] not in table and words[-1] + word in table:
            words[-1] += word
        else:
            words.append(word)
    return tuple(words)
