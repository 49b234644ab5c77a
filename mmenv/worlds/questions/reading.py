"""Questions of what is written on things: reading a letter or a digit, and the sum of digits."""

from __future__ import annotations

from collections.abc import Sequence

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.questions.forms import Draw, Finding, Form, unique
from mmenv.worlds.scenes import Scene, Thing
from mmenv.worlds.things import DIGITS, concepts, mark_word

GREATEST_SUM = 20


def mark_with_kind(mark: str) -> str:
    """What is written, as a question names it: ``letter b``, or ``digit seven``."""
    return f"{'digit' if mark in DIGITS else 'letter'} {mark_word(mark)}"


def with_own_mark(scene: Scene) -> list[Thing]:
    """Things with a mark that no other thing has."""
    marks = [t.mark for t in scene.things]
    return [t for t in scene.things if t.mark is not None and marks.count(t.mark) == 1]


def _read(things: Sequence[Thing], draw: Draw) -> Finding | None:
    """What is written on one of these things."""
    if not things:
        return None
    thing = draw.pick(things)
    return Finding({"name": concepts()[thing.concept].name}, mark_word(thing.mark or ""), thing)


def written(scene: Scene, draw: Draw) -> Finding | None:
    """What is written on a thing: ``what is written on the dog ?`` - ``seven``."""
    return _read([t for t in unique(scene) if t.mark is not None], draw)


def letter(scene: Scene, draw: Draw) -> Finding | None:
    """The letter on a thing: ``which letter is written on the dog ?`` - ``b``."""
    return _read([t for t in unique(scene) if t.mark is not None and t.mark not in DIGITS], draw)


def digit(scene: Scene, draw: Draw) -> Finding | None:
    """The digit on a thing: ``which digit is written on the dog ?`` - ``seven``."""
    return _read([t for t in unique(scene) if t.mark is not None and t.mark in DIGITS], draw)


def bearer(scene: Scene, draw: Draw) -> Finding | None:
    """Which thing has a mark: ``which thing has the letter b ?`` - ``dog``."""
    things = with_own_mark(scene)
    if not things:
        return None
    thing = draw.pick(things)
    return Finding({"mark": mark_with_kind(thing.mark or "")}, concepts()[thing.concept].name, thing)


def sum_of_all(scene: Scene, draw: Draw) -> Finding | None:
    """The sum of all digits, of two at least: ``what is the sum of the digits ?`` - ``eleven``."""
    digits = [int(t.mark) for t in scene.things if t.mark is not None and t.mark in DIGITS]
    if len(digits) < 2 or sum(digits) > GREATEST_SUM:
        return None
    return Finding({}, NUMBER_WORDS[sum(digits)])


def sum_of_two(scene: Scene, draw: Draw) -> Finding | None:
    """The sum of two digits: ``what is the sum of the digits on the dog and the cat ?`` - ``eleven``."""
    things = draw.rotated([t for t in unique(scene) if t.mark is not None and t.mark in DIGITS])
    if len(things) < 2:
        return None
    first, second = things[:2]
    slots = {"name": concepts()[first.concept].name, "other": concepts()[second.concept].name}
    return Finding(slots, NUMBER_WORDS[int(first.mark or 0) + int(second.mark or 0)])


FORMS = (
    Form(
        "reading",
        "mark",
        written,
        ("what is written on the {name} ?", "what does the {name} have written on it ?"),
        "a letter or a number",
        digits=0.5,
    ),
    Form("reading", "letter", letter, ("which letter is written on the {name} ?",), "a letter", digits=0.2),
    Form("reading", "digit", digit, ("which digit is written on the {name} ?",), "zero to nine", digits=0.8),
    Form(
        "reading",
        "thing",
        bearer,
        ("which thing has the {mark} ?", "what is the {mark} written on ?"),
        "the name of a thing",
        digits=0.5,
    ),
    Form(
        "sum of digits",
        "all",
        sum_of_all,
        ("what is the sum of the digits ?", "add up all digits .", "what do the digits add up to ?"),
        "zero to twenty",
        digits=0.8,
        least=3,
    ),
    Form(
        "sum of digits",
        "two",
        sum_of_two,
        (
            "what is the sum of the digits on the {name} and the {other} ?",
            "what do the digits on the {name} and the {other} add up to ?",
        ),
        "zero to eighteen",
        digits=0.8,
        least=3,
    ),
)
