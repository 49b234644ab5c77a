"""The grammar of captions: sentences about a scene become statements, before anything is compared with a scene.

A sentence lists things ("there are two dogs and a cat on a red plate"), or says something of them ("the cat is above
the car", "at the top left is a dog", "the letter b is written on the car"). Words are read as ``words_of`` gives them:
without case, punctuation and articles. A word that fits no statement is a stray.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from mmenv.worlds.caption_phrases import (
    AHEAD,
    BE,
    HAVE,
    MARKS,
    PICTURE,
    PLATES,
    UNDER,
    WRITTEN,
    Detail,
    Details,
    Phrase,
    Words,
    behind_opening,
    behind_verb,
    inverts,
    is_subject,
    mark_at,
    phrase_at,
    position_at,
    predicate_at,
    value_of,
)
from mmenv.worlds.words import words_of

_LINKS = frozenset("and but while plus".split())
_FREE = frozenset("also too very just only again".split())  # may stand anywhere
_NEGATIONS = frozenset("no not never neither nor without except nothing none".split())  # there is no end of what is not
_LONGEST = 120  # words of a sentence that are read: phrases nest ("the dog above the cat above ...")
_SINGULAR = frozenset("is was lies sits stands has".split())


class Statement(NamedTuple):
    """Things that are listed; or subjects and what is said of each of them.

    Attributes:
        subjects: what it is about.
        details: what it says beside the details of each subject; a listing has none.
        listed: whether it is a listing, which claims how many there are.
    """

    subjects: tuple[Phrase, ...]
    details: tuple[Detail, ...]
    listed: bool


class Reading(NamedTuple):
    """The statements of a sentence, its number of words, and how many of them fit no statement."""

    statements: tuple[Statement, ...]
    words: int
    strays: int


@functools.lru_cache(maxsize=1 << 14)
def read(sentence: str) -> Reading:
    """The statements of one sentence, however spelt; a sentence that denies something has none."""
    spoken = ["picture" if word in PICTURE else word for word in words_of(sentence)]
    if not _NEGATIONS.isdisjoint(spoken):
        return Reading((), len(spoken), len(spoken))
    words = (*(word for word in spoken[:_LONGEST] if word not in _FREE), *AHEAD)
    statements: list[Statement] = []
    strays, i, end = max(0, len(spoken) - _LONGEST), 0, len(words) - len(AHEAD)
    linked = False
    while i < end:
        result = _statement(words, i)
        opening = behind_opening(words, i)
        if result is not None:
            statements.append(result[0])
            i, linked = result[1], False
        elif opening is not None and words[opening]:  # "there is a unicorn": one stray
            i = opening
        elif words[i] == "in" and words[i + 1] == "picture":
            i += 2
        else:
            strays += linked or words[i] not in _LINKS
            linked = words[i] in _LINKS
            i += 1
    return Reading(tuple(statements), len(spoken), strays)


def sentences(text: str) -> list[str]:
    """The sentences of a text: the parts between full stops and the like."""
    return [part for part in re.split(r"[.!?;:\n]+", text) if part and not part.isspace()]


def _statement(words: Words, i: int) -> tuple[Statement, int] | None:
    """The statement that begins at word ``i``, and the number of the next word."""
    start = behind_opening(words, i)
    if start is not None:
        return _listing(words, start)
    return _of_mark(words, i) or _of_plate(words, i) or _place_first(words, i) or _of_things(words, i)


def _listing(words: Words, i: int) -> tuple[Statement, int] | None:
    """Things behind an opening; a noun with a verb behind it begins the next statement. Or a mark or plate."""
    special = _of_mark(words, i) or _of_plate(words, i)
    if special is not None:
        return special
    subjects, i = _phrases(words, i)
    if not subjects:
        return None
    return Statement(subjects, (), True), i


def _phrases(words: Words, i: int) -> tuple[tuple[Phrase, ...], int]:
    """As many phrases as follow each other, with "and" or without, up to one with a verb of its own."""
    phrases: list[Phrase] = []
    while True:
        at = i + 1 if phrases and words[i] in ("and", "plus") else i
        item = phrase_at(words, at)
        if item is None or is_subject(words, item[1]):
            return tuple(phrases), i
        phrases.append(item[0])
        i = item[1]


def _of_things(words: Words, i: int) -> tuple[Statement, int] | None:
    """ "the dog is large", "the dog and the cat are on red plates"; or a list without an opening: "a dog and a cat"."""
    listed, after = _phrases(words, i)
    at = after + 1 if listed and words[after] == "and" else after
    last = phrase_at(words, at)
    if last is not None and (not listed or (words[last[1]] not in _SINGULAR and last[0].number == 1)):
        clause = _clause(words, (*listed, last[0]), last[1])
        if clause is not None:
            return clause
    if listed:
        return Statement(listed, (), True), after
    if last is not None:  # its verb goes nowhere
        return Statement((last[0],), (), True), last[1]
    return None


def _clause(words: Words, subjects: tuple[Phrase, ...], i: int) -> tuple[Statement, int] | None:
    """What is said of subjects, from the verb on."""
    if words[i] in PLATES and words[i + 1] in BE:  # "the dog's plate is red"
        color = value_of(words[i + 2], "color")
        return None if color is None else (Statement(subjects, (Detail("plate", color),), False), i + 3)
    noun = subjects[0].noun
    if noun is not None and noun.kind == "thing" and words[i] in BE:  # "the thing on the red plate is a dog"
        named = phrase_at(words, i + 1)
        if named is not None and named[0].noun is not None:
            return Statement((named[0],), subjects[0].details, False), named[1]
    predicates = _predicates(words, i)
    if predicates is None:
        return None
    return Statement(subjects, predicates[0], False), predicates[1]


def _predicates(words: Words, i: int) -> Details | None:
    """ "is large and on a red plate", "lies above the car and has the letter b"."""
    details: list[Detail] = []
    while True:
        at = i + 1 if details and words[i] in ("and", "but") else i
        verb = behind_verb(words, at)
        if not verb and not details:
            return None
        result = predicate_at(words, verb or at, words[at] in HAVE)
        if result is None or (details and not verb and inverts(words, result[1])):
            break
        details += result[0]
        i = result[1]
    return (tuple(details), i) if details else None


def _place_first(words: Words, i: int) -> tuple[Statement, int] | None:
    """ "at the top left is a dog", "left of the dog there are two cats"."""
    result = position_at(words, i)
    if result is None:
        return None
    start = behind_opening(words, result[1]) or behind_verb(words, result[1]) or result[1]
    subjects, end = _phrases(words, start)
    return (Statement(subjects, result[0], False), end) if subjects else None


def _of_mark(words: Words, i: int) -> tuple[Statement, int] | None:
    """ "the letter b is written on the dog"."""
    mark = mark_at(words, i)
    if mark is None:
        return None
    value, at = mark
    at += words[at] in BE
    written = words[at] in WRITTEN
    at += written
    if words[at] != "on" or not (written or words[i] in MARKS):
        return None
    subjects, end = _phrases(words, at + 1)
    return (Statement(subjects, (Detail("mark", value),), False), end) if subjects else None


def _of_plate(words: Words, i: int) -> tuple[Statement, int] | None:
    """ "the plate under the dog is red", "a red plate is under the dog"."""
    if words[i] in PLATES and (words[i + 1] == "of" or words[i + 1] in UNDER):
        return _plate_under(words, i + 2)
    color = value_of(words[i], "color")
    if color is None or words[i + 1] not in PLATES:
        return None
    at = behind_verb(words, i + 2) or i + 2
    if words[at] not in UNDER:
        return None
    subjects, end = _phrases(words, at + 1)
    return (Statement(subjects, (Detail("plate", color),), False), end) if subjects else None


def _plate_under(words: Words, i: int) -> tuple[Statement, int] | None:
    """What follows "the plates under": "the dog and the cat are red"."""
    phrases: list[Phrase] = []
    result = phrase_at(words, i)
    while result is not None:
        phrases.append(result[0])
        i = result[1]
        result = phrase_at(words, i + 1) if words[i] == "and" else None
    color = value_of(words[i + 1], "color")
    if not phrases or words[i] not in BE or color is None:
        return None
    return Statement(tuple(phrases), (Detail("plate", color),), False), i + 2
