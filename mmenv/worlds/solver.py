"""Answers to questions from their text alone: each phrasing is read back, and the answer is looked up in the scene.

The solver shares the phrasings with the writer of questions, and the geometry of ``mmenv.worlds.scenes``; how a form is
answered it knows by itself. It checks the writer, and serves whoever has a text without its ``Question``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.questions import FORMS
from mmenv.worlds.scenes import (
    PLACES,
    RELATIONS,
    Scene,
    Thing,
    at_place,
    beside,
    lies,
    nearest,
    place,
    unclear,
)
from mmenv.worlds.things import COLOURS, DIGITS, LETTERS, categories, concepts, mark_word, plurals

Slots = dict[str, str]
Lookup = Callable[[Scene, Slots], str]


def solve(text: str, scene: Scene) -> str | None:
    """The right answer to a question about a scene.

    Args:
        text: as ``Question.text``: lower case, words and marks separated by spaces.
        scene: what it is about.

    Returns:
        The answer, or None: the text is no question of this world, or the scene does not settle it (it speaks of "the
        dog" where there are two, or asks what is left of it where nothing is).
    """
    reading = _read(text)
    if reading is None:
        return None
    form, _, slots = reading
    try:
        return _LOOKUPS[form](scene, slots)
    except _UnsettledError:
        return None


def phrasing_of(text: str) -> str | None:
    """The phrasing of a question, with its slots: ``where is the {name} ?``; None of a text that is no question."""
    reading = _read(text)
    return None if reading is None else reading[1]


def _read(text: str) -> tuple[tuple[str, str], str, Slots] | None:
    """Family and form of a question, its phrasing, and the words in the slots."""
    words = text.split()
    for form, phrasing, pattern in _patterns(words[0] if words else ""):
        match = pattern.fullmatch(" ".join(words))
        if match is not None:
            return form, phrasing, match.groupdict()
    return None


def _one_of(words: Iterable[str]) -> str:
    """A pattern for any of these words, the longest first: "top left" before "top"."""
    return "|".join(sorted(words, key=len, reverse=True))


@functools.cache
def _slots() -> dict[str, str]:
    """Name of a slot -> pattern for what may stand there. A second slot of a kind begins with other or second."""
    names = _one_of(c.name for c in concepts())
    kinds = _one_of(categories().values())
    marks = _one_of([f"letter {x}" for x in LETTERS] + [f"digit {mark_word(x)}" for x in DIGITS])
    return {
        "name": names,
        "other": names,
        "a_name": _one_of(f"{c.article} {c.name}" for c in concepts()),
        "names": _one_of([*plurals(), "things"]),
        "kinds": kinds,
        "other_kinds": kinds,
        "place": _one_of(PLACES),
        "relation": _one_of(RELATIONS),
        "second_relation": _one_of(RELATIONS),
        "colour": _one_of(COLOURS),
        "other_colour": _one_of(COLOURS),
        "mark": marks,
    }


@functools.cache
def _patterns(first_word: str) -> tuple[tuple[tuple[str, str], str, re.Pattern[str]], ...]:
    """Family and form, phrasing and its pattern, for all phrasings that begin with a word."""
    patterns = []
    for forms in FORMS.values():
        for form in forms:
            for phrasing in form.phrasings:
                if phrasing.split()[0] == first_word:
                    patterns.append(((form.family, form.name), phrasing, re.compile(_pattern(phrasing))))
    return tuple(patterns)


def _pattern(phrasing: str) -> str:
    """The pattern of a phrasing: ``where is the {name} ?`` -> ``where is the (?P<name>dog|cat) \\?``."""
    pieces = re.split(r"\{(\w+)\}", phrasing)
    for i, piece in enumerate(pieces):
        pieces[i] = f"(?P<{piece}>{_slots()[piece]})" if i % 2 else re.escape(piece)
    return "".join(pieces)


# What a text speaks of. Each raises _UnsettledError where the scene has no such thing, or several.


class _UnsettledError(Exception):
    """The scene does not settle what a text asks."""


def _single(things: Iterable[Thing | None]) -> Thing:
    candidates = list(things)
    if len(candidates) != 1 or candidates[0] is None:
        raise _UnsettledError
    return candidates[0]


def _named(scene: Scene, name: str) -> Thing:
    """The dog."""
    return _single(t for t in scene.things if t.name == name)


def _on_plate(scene: Scene, colour: str) -> Thing:
    """The thing on the red plate."""
    return _single(t for t in scene.things if t.plate == colour)


def _with_mark(scene: Scene, mark: str) -> Thing:
    """The thing with the letter b, or the digit seven."""
    kind, word = mark.split()
    digit = kind == "digit"
    return _single(t for t in scene.things if t.mark_word == word and (t.mark in DIGITS) == digit)


def _at(scene: Scene, where: str) -> Thing:
    """The thing at the top left."""
    return _single([at_place(scene, where)])


def _beside(scene: Scene, slots: Slots) -> Thing:
    """The thing left of the dog."""
    return _single([beside(scene, slots["relation"], _named(scene, slots["name"]))])


def _beside_that(scene: Scene, slots: Slots) -> Thing:
    """The thing above the thing left of the dog."""
    return _single([beside(scene, slots["second_relation"], _beside(scene, slots))])


def _number(scene: Scene, noun: str) -> int:
    """How many there are: dogs, animals, or things."""
    return len(scene.things) if noun == "things" else len(scene.named(plurals()[noun]))


# How each form is answered.


def _truth(value: bool) -> str:
    return "yes" if value else "no"


def _is_there(scene: Scene, slots: Slots) -> str:
    return _truth(bool(scene.named(slots["a_name"].split()[1])))


def _are_there(scene: Scene, slots: Slots) -> str:
    return _truth(_number(scene, slots["kinds"]) > 0)


def _how_many(scene: Scene, slots: Slots) -> str:
    return NUMBER_WORDS[_number(scene, slots["names"])]


def _difference(scene: Scene, slots: Slots) -> int:
    return _number(scene, slots["kinds"]) - _number(scene, slots["other_kinds"])


def _which_more(scene: Scene, slots: Slots) -> str:
    difference = _difference(scene, slots)
    if difference == 0:
        raise _UnsettledError
    return slots["kinds"] if difference > 0 else slots["other_kinds"]


def _where(scene: Scene, slots: Slots) -> str:
    where = place(_named(scene, slots["name"]))
    if where is None:
        raise _UnsettledError
    return where


def _whether_it_lies(scene: Scene, slots: Slots) -> str:
    first, second = _named(scene, slots["name"]), _named(scene, slots["other"])
    if first is second or unclear(first, slots["relation"], second):
        raise _UnsettledError
    return _truth(lies(first, slots["relation"], second))


def _nearest(scene: Scene, slots: Slots) -> str:
    return _single([nearest(scene, _named(scene, slots["name"]))]).name


def _odd_one_out(scene: Scene, slots: Slots) -> str:
    for thing in scene.things:
        others = {t.category for t in scene.things if t is not thing}
        if len(scene.things) > 2 and len(others) == 1 and thing.category not in others:
            return thing.name
    raise _UnsettledError


def _colour(thing: Thing) -> str:
    if thing.plate is None:
        raise _UnsettledError
    return thing.plate


def _mark(thing: Thing, kinds: Iterable[str]) -> str:
    if thing.mark is None or thing.mark not in kinds:
        raise _UnsettledError
    return mark_word(thing.mark)


def _sum(things: Iterable[Thing]) -> str:
    digits = [int(t.mark) for t in things if t.mark is not None and t.mark in DIGITS]
    if len(digits) < 2 or sum(digits) >= len(NUMBER_WORDS):
        raise _UnsettledError
    return NUMBER_WORDS[sum(digits)]


def _both(scene: Scene, slots: Slots) -> tuple[Thing, Thing]:
    """The two things that a question names."""
    return _named(scene, slots["name"]), _named(scene, slots["other"])


def _same(pair: tuple[Thing, Thing], attribute: Callable[[Thing], str]) -> str:
    if pair[0] is pair[1]:
        raise _UnsettledError
    return _truth(attribute(pair[0]) == attribute(pair[1]))


_LOOKUPS: dict[tuple[str, str], Lookup] = {
    ("existence", "thing"): _is_there,
    ("existence", "kind"): _are_there,
    ("count", "number"): _how_many,
    ("comparison", "more"): lambda scene, slots: _truth(_difference(scene, slots) > 0),
    ("comparison", "fewer"): lambda scene, slots: _truth(_difference(scene, slots) < 0),
    ("comparison", "which"): _which_more,
    ("what is where", "thing"): lambda scene, slots: _at(scene, slots["place"]).name,
    ("where is what", "place"): _where,
    ("relation", "whether"): _whether_it_lies,
    ("relation", "what"): lambda scene, slots: _beside(scene, slots).name,
    ("attribute", "color"): lambda scene, slots: _colour(_named(scene, slots["name"])),
    ("attribute", "size"): lambda scene, slots: _named(scene, slots["name"]).size_word,
    ("attribute", "thing"): lambda scene, slots: _on_plate(scene, slots["colour"]).name,
    ("attribute of relation", "color"): lambda scene, slots: _colour(_beside(scene, slots)),
    ("attribute of relation", "size"): lambda scene, slots: _beside(scene, slots).size_word,
    ("category", "place"): lambda scene, slots: _at(scene, slots["place"]).category,
    ("category", "plate"): lambda scene, slots: _on_plate(scene, slots["colour"]).category,
    ("category", "mark"): lambda scene, slots: _with_mark(scene, slots["mark"]).category,
    ("odd one out", "thing"): _odd_one_out,
    ("nearest", "thing"): _nearest,
    ("two steps", "thing"): lambda scene, slots: _beside_that(scene, slots).name,
    ("reading", "mark"): lambda scene, slots: _mark(_named(scene, slots["name"]), (*LETTERS, *DIGITS)),
    ("reading", "letter"): lambda scene, slots: _mark(_named(scene, slots["name"]), LETTERS),
    ("reading", "digit"): lambda scene, slots: _mark(_named(scene, slots["name"]), DIGITS),
    ("reading", "thing"): lambda scene, slots: _with_mark(scene, slots["mark"]).name,
    ("sum of digits", "all"): lambda scene, slots: _sum(scene.things),
    ("sum of digits", "two"): lambda scene, slots: _sum(_both(scene, slots)),
    ("same or different", "color"): lambda scene, slots: _same(_both(scene, slots), _colour),
    ("same or different", "size"): lambda scene, slots: _same(_both(scene, slots), lambda t: t.size_word),
    ("same or different", "kind"): lambda scene, slots: _same(
        (_on_plate(scene, slots["colour"]), _on_plate(scene, slots["other_colour"])), lambda t: t.category
    ),
}
