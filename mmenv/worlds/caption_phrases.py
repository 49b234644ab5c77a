"""Noun phrases of captions, and what can be said of a thing: its size, plate, mark, and where it lies.

Words are those of one sentence as ``words_of`` gives them, without case, punctuation and articles. A function reads
from a word's number on and gives what it read with the number of the next word, or None.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.things import categories, concepts
from mmenv.worlds.words import contents


class Noun(NamedTuple):
    """A noun in the singular: its kind is "name", "category" or "thing"."""

    kind: str
    value: str


class Detail(NamedTuple):
    """What is said of a thing.

    Attributes:
        kind: "size", "plate", "mark", "place" or "relation".
        value: a size, a color, a mark's word, one of ``scenes.PLACES``, or one of ``scenes.RELATIONS``.
        other: the second thing of a relation, or None.
    """

    kind: str
    value: str
    other: Phrase | None = None


class Phrase(NamedTuple):
    """A noun with what belongs to it: "two small dogs on red plates".

    Attributes:
        noun: None of a pronoun, which means what the subject before it means.
        number: how many; None of a plural without a number.
        details: what the phrase says of them.
        another: whether they are added to those that were listed before: "another dog".
    """

    noun: Noun | None
    number: int | None
    details: tuple[Detail, ...] = ()
    another: bool = False


_OPENINGS = (
    "there is", "there are", "here is", "here are", "i see", "we see", "you see", "i can see", "we can see",
    "you can see", "one can see", "picture shows", "picture has", "picture contains", "picture of",
    "this is picture of", "this is", "these are",
)  # fmt: skip
PICTURE = frozenset("picture image photo photograph scene".split())
_PARTICIPLES = frozenset("lying sitting standing placed located positioned found seen shown visible".split())
WRITTEN = frozenset("written printed painted drawn marked shown".split())
BE, _STAND, HAVE = (frozenset(x.split()) for x in ("is are was were", "lies lie sits sit stands stand", "has have"))
_OVER, UNDER = frozenset(("above", "over")), frozenset("below under underneath beneath".split())
MARKS = frozenset(("letter", "digit", "number"))
PLATES = frozenset(("plate", "plates"))
_IT = ("it", "them")
_PRONOUNS = {"it": 1, "one": 1, "other": 1, "they": None, "both": 2}
_PLACES = {
    frozenset(words.split()): name
    for name, spellings in {
        "top left": ("top left",), "top": ("top", "top middle"), "top right": ("top right",),
        "left": ("left", "left middle"), "middle": ("middle",), "right": ("right", "right middle"),
        "bottom left": ("bottom left",), "bottom": ("bottom", "bottom middle"), "bottom right": ("bottom right",),
    }.items()
    for words in spellings
}  # fmt: skip
_PARTS = frozenset("corner part side region area".split())

Words = tuple[str, ...]  # of a sentence, with a few empty ones behind it, so that one may look ahead
Details = tuple[tuple[Detail, ...], int]  # and the number of the next word
AHEAD = ("",) * 6


@functools.cache
def nouns() -> dict[str, tuple[Noun, bool]]:
    """Word -> the noun, and whether the word is its plural."""
    table = {}
    for kind, pairs in (
        ("name", [(c.name, c.plural) for c in concepts()]),
        ("category", [*categories().items()]),
        ("thing", [("thing", "things"), ("object", "objects")]),
    ):
        for singular, plural in pairs:
            noun = Noun(kind, "thing" if kind == "thing" else singular)
            table[singular] = noun, False
            table[plural] = noun, True
    return table


def value_of(word: str, kind: str) -> str | None:
    """What a word of a kind of content means; None of another word."""
    content = contents().get(word)
    return content.value if content is not None and content.kind == kind else None


def behind_opening(words: Words, i: int) -> int | None:
    """The number of the word behind "there is", "i see" and the like."""
    if words[i] == "in" and words[i + 1] == "picture":
        i += 2
    return next((i + len(o) for o in _openings().get(words[i], ()) if words[i : i + len(o)] == o), None)


@functools.cache
def _openings() -> dict[str, list[Words]]:
    """First word -> the openings with it, longer ones first."""
    table: dict[str, list[Words]] = {}
    for opening in sorted((tuple(o.split()) for o in _OPENINGS), key=len, reverse=True):
        table.setdefault(opening[0], []).append(opening)
    return table


def behind_verb(words: Words, i: int) -> int:
    """The number of the word behind a verb, or 0."""
    if words[i] in BE:
        return i + 2 if words[i + 1] in _PARTICIPLES else i + 1
    return i + 1 if words[i] in _STAND or words[i] in HAVE else 0


def is_subject(words: Words, i: int) -> bool:
    """Whether a noun before word ``i`` begins a statement: "the dog" + "is large", "the dog's" + "plate is red"."""
    return bool(behind_verb(words, i)) or (words[i] in PLATES and words[i + 1] in BE)


def inverts(words: Words, i: int) -> bool:
    """Whether a verb and a noun follow: "at the top left" + "is a dog" begins a statement of its own."""
    start = behind_opening(words, i) or behind_verb(words, i)
    return bool(start) and phrase_at(words, start) is not None


def phrase_at(words: Words, i: int) -> tuple[Phrase, int] | None:
    """A noun with its number, sizes and what follows it; or a pronoun with a verb."""
    if words[i] in _PRONOUNS and (behind_verb(words, i + 1) or words[i + 1] == ""):
        return Phrase(None, _PRONOUNS[words[i]]), i + 1
    start = i
    number, another = None, False
    if words[i] in ("another", "both"):
        number, another = (1, True) if words[i] == "another" else (2, False)
        i += 1
    elif (value := value_of(words[i], "number")) not in (None, "zero"):
        number = NUMBER_WORDS.index(str(value))
        another = words[i + 1] == "more"
        i += 2 if another else 1
    i += words[i] == "of" and i > start
    i += words[i] == "other"
    details: list[Detail] = []
    while (size := value_of(words[i], "size")) is not None:
        details.append(Detail("size", size))
        i += 1
    if words[i] not in nouns():
        return None
    noun, plural = nouns()[words[i]]
    modifiers, i = _modifiers(words, i + 1, noun)
    number = 1 if number is None and not plural else number
    return Phrase(noun, number, (*details, *modifiers), another), i


def _modifiers(words: Words, i: int, noun: Noun) -> Details:
    """What stands behind a noun: "on a red plate with the letter b", "that is above the car"."""
    details: list[Detail] = []
    while True:
        if words[i] in ("that", "which") and behind_verb(words, i + 1):
            result = predicate_at(words, behind_verb(words, i + 1), words[i + 1] in HAVE)
        else:
            result = detail_at(words, i + 1 if details and words[i] == "and" else i)
        if result is None or (noun.kind != "thing" and inverts(words, result[1])):
            return tuple(details), i
        details += result[0]
        i = result[1]


def predicate_at(words: Words, i: int, has: bool) -> Details | None:
    """One predicate behind its verb; a relation may have several second things: "above the cat and the dog"."""
    if has:
        return having_at(words, i)
    size = value_of(words[i], "size")
    if size is not None:
        is_adjective = words[i + 1] in nouns() or value_of(words[i + 1], "size") is not None
        return None if is_adjective else ((Detail("size", size),), i + 1)
    result = detail_at(words, i)
    if result is None or result[0][0].kind != "relation":
        return result
    details, i = list(result[0]), result[1]
    while words[i] == "and":
        other = phrase_at(words, i + 1)
        if other is None or is_subject(words, other[1]):
            break
        details.append(details[0]._replace(other=other[0]))
        i = other[1]
    return tuple(details), i


def detail_at(words: Words, i: int) -> Details | None:
    """A plate, a mark, or where something lies."""
    if words[i] == "on":
        at = i + 3 if words[i + 1 : i + 3] == ("top", "of") else i + 1
        at += value_of(words[at], "number") is not None
        color = value_of(words[at], "color")
        if color is not None:
            return ((Detail("plate", color),), at + 2) if words[at + 1] in PLATES else None
    if words[i] == "with":
        return having_at(words, i + 1)
    if words[i] in ("marked", "labeled"):
        mark = mark_at(words, i + 2 if words[i + 1] == "with" else i + 1)
        return None if mark is None else ((Detail("mark", mark[0]),), mark[1])
    return position_at(words, i)


def having_at(words: Words, i: int) -> Details | None:
    """What something has: "a red plate under it and the letter b"."""
    details: list[Detail] = []
    while True:
        at = i + 1 if details and words[i] == "and" else i
        result = _plate_had(words, at) or _mark_had(words, at)
        if result is None:
            return (tuple(details), i) if details else None
        details.append(result[0])
        i = result[1]


def _plate_had(words: Words, i: int) -> tuple[Detail, int] | None:
    """ "a red plate under it", which is no statement about a plate: "a red plate is under the dog"."""
    color = value_of(words[i], "color")
    if color is None or words[i + 1] not in PLATES or behind_verb(words, i + 2):
        return None
    if words[i + 2] not in UNDER:
        return Detail("plate", color), i + 2
    return (Detail("plate", color), i + 4) if words[i + 3] in _IT else None


def _mark_had(words: Words, i: int) -> tuple[Detail, int] | None:
    """ "the letter b written on it", which is no statement about a mark: "the letter b is written on the dog"."""
    mark = mark_at(words, i)
    if mark is None:
        return None
    value, at = mark
    if words[i] not in MARKS and words[at] in nouns():  # "with seven dogs"
        return None
    behind = at + (words[at] in BE)
    behind += words[behind] in WRITTEN
    if words[behind] != "on":
        return Detail("mark", value), at + (words[at] in WRITTEN)
    if words[behind + 1] in _IT:
        return Detail("mark", value), behind + 2
    return None if phrase_at(words, behind + 1) is not None else (Detail("mark", value), at)


def mark_at(words: Words, i: int) -> tuple[str, int] | None:
    """A letter or digit, with "letter", "digit" or without."""
    at = i + 1 if words[i] in MARKS else i
    value = value_of(words[at], "letter") or value_of(words[at], "number")
    return None if value is None else (value, at + 1)


def position_at(words: Words, i: int) -> Details | None:
    """ "above the car", "to the left of the car", "at the top left"."""
    at = i + 1 if words[i] in ("to", "on", "at", "in") else i
    relation, behind = None, at
    if words[at] in ("left", "right"):
        behind = at + 2 if words[at + 1] == "side" else at + 1
        if words[behind] == "of":
            relation, behind = f"{words[at]} of", behind + 1
    elif at == i and (words[at] in _OVER or words[at] in UNDER):
        relation, behind = "above" if words[at] in _OVER else "below", at + 1
    other = None if relation is None else phrase_at(words, behind)
    if relation is None and words[i] == "under":
        return None
    if relation is not None and words[behind] in _IT:
        other = Phrase(None, 1), behind + 1
    if relation is not None and other is not None:
        return (Detail("relation", relation, other[0]),), other[1]
    return None if at == i or words[i] == "to" else _place(words, at)


def _place(words: Words, i: int) -> Details | None:
    """One of the nine places: "top left corner of the picture"."""
    directions = []
    while (value := value_of(words[i], "direction")) not in (None, "above", "below"):
        directions.append(value)
        i += 1
    name = _PLACES.get(frozenset(directions))
    if name is None:
        return None
    i += words[i] in _PARTS
    return (Detail("place", name),), i + 2 if words[i] in ("of", "in") and words[i + 1] == "picture" else i
