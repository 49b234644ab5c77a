"""A guessing game: the user has a thing of the scene in mind, and answers questions about it in recorded words.

``reply`` is what the user says to whatever the agent writes: a question about "it" ("is it an animal ?", "what color is
the plate under it ?"), or a guess ("it is the dog ."). ``mmenv.worlds.questioner`` asks as well as one can.
"""

from __future__ import annotations

from typing import NamedTuple

from mmenv.worlds.caption_phrases import AHEAD, Detail, Words, having_at, mark_at, nouns, predicate_at, value_of
from mmenv.worlds.questions.forms import yes_or_no
from mmenv.worlds.questions.reading import mark_with_kind
from mmenv.worlds.scenes import PLACES, RELATIONS, THIRDS, Scene, Thing, lies
from mmenv.worlds.things import DIGITS, LETTERS, article
from mmenv.worlds.words import words_of

UNREAD = "what ?"
NO_PLATE, NO_MARK = "no plate", "no letter or digit"
MOST_WORDS = 20  # of a question
ANY = "any"  # value of "is it on a plate ?"
ASKABLE = {
    "category": "what kind of thing is it ?",
    "size": "what size is it ?",
    "plate": "what color is the plate under it ?",
    "mark": "what is written on it ?",
    "place": "where is it ?",
}  # what can be asked for by a word, and how


class Query(NamedTuple):
    """A question about the thing in mind, or a guess.

    Attributes:
        kind: a key of ``ASKABLE``, "relation", or "name" for a guess.
        value: the category, size, colour, mark's word, place or relation that the thing may have; ``ANY`` for a plate
            of any colour, "letter" or "digit" for any such mark; None where the question asks for the value itself.
        name: of the second thing of a relation, or of the guess; else "".
    """

    kind: str
    value: str | None = None
    name: str = ""


class GuessReply(NamedTuple):
    """What the user says.

    Attributes:
        text: in recorded words.
        query: what the agent's text was read as; None if it was not understood.
        is_guess: whether it named a thing, which ends the game.
        correct: whether it was the thing in mind.
    """

    text: str
    query: Query | None
    is_guess: bool = False
    correct: bool = False


def reply(scene: Scene, target: Thing, text: str) -> GuessReply:
    """What the user says to a text of the agent.

    Args:
        scene: what both see.
        target: the thing in mind, of ``scene.things``.
        text: one question or one guess in plain words; case, punctuation and articles do not matter.

    Returns:
        "yes", "no", or the word asked for; ``UNREAD`` to anything else: to two questions at once, or to a relation to a
        thing that is not there or not there once.
    """
    query = read_query(text)
    if query is None or (query.kind == "relation" and scene.only(query.name) is None):
        return GuessReply(UNREAD, None)
    if query.kind == "name":
        correct = query.name == target.name
        return GuessReply(yes_or_no(correct), query, True, correct)
    return GuessReply(answer(scene, target, query), query)


def answer(scene: Scene, target: Thing, query: Query) -> str:
    """The true answer to a question about the thing in mind.

    Raises:
        ValueError: the query is about the relation to a thing that is not in the scene, or there more than once.
    """
    kind, value, name = query
    if kind == "name":
        return yes_or_no(name == target.name)
    if kind == "relation":
        other = scene.only(name)
        if other is None:
            raise ValueError(f"the scene has not exactly one {name}: ask for a relation to another thing")
        return yes_or_no(lies(target, value or "", other))
    state = _state(target, kind)
    if value is None:
        return state
    if value == ANY:
        return yes_or_no(target.plate is not None)
    if value in ("letter", "digit"):
        return yes_or_no(target.mark in (LETTERS if value == "letter" else DIGITS))
    return yes_or_no(state == value)


def _state(thing: Thing, kind: str) -> str:
    """The value of a thing that a kind of question is about."""
    if kind == "category":
        return thing.category
    if kind == "size":
        return thing.size_word
    if kind == "plate":
        return thing.plate or NO_PLATE
    if kind == "mark":
        return thing.mark_word or NO_MARK
    return ninth(thing)


def ninth(thing: Thing) -> str:
    """The ninth of the picture that holds a thing's centre, of ``PLACES``, however near the border is."""
    column, row = (sum(at >= border for border in THIRDS) for at in (thing.x, thing.y))
    return PLACES[3 * row + column]


def queries(scene: Scene, words: bool = True) -> tuple[Query, ...]:
    """Every question about a scene whose answer is not the same whatever the user has in mind.

    Args:
        scene: what is asked about.
        words: whether one may ask for words, and not only for yes or no.
    """
    things = scene.things
    values = {kind: dict.fromkeys(_state(t, kind) for t in things) for kind in ASKABLE}
    every = [Query(kind) for kind in ASKABLE] if words else []
    every += [Query(kind, value) for kind in ASKABLE for value in values[kind] if value not in (NO_PLATE, NO_MARK)]
    every += [Query("plate", ANY), Query("mark", "letter"), Query("mark", "digit")]
    every += [Query("relation", r, t.name) for r in RELATIONS for t in things if scene.only(t.name) is not None]
    return tuple(q for q in every if len({answer(scene, t, q) for t in things}) > 1)


def text_of(query: Query) -> str:
    """A question or guess in words that every agent of the world knows."""
    kind, value, name = query
    if kind == "name":
        return f"it is the {name} ."
    if value is None:
        return ASKABLE[kind]
    if kind == "relation":
        return f"is it {value} the {name} ?"
    if kind == "place":
        return f"is it at the {value} ?"
    if kind == "mark":
        return f"does it have {_marks(value)} ?"
    if kind == "plate":
        return "is it on a plate ?" if value == ANY else f"is it on {article(value)} {value} plate ?"
    return f"is it {value} ?" if kind == "size" else f"is it {article(value)} {value} ?"


def _marks(value: str) -> str:
    if value in ("letter", "digit"):
        return f"a {value}"
    mark = next(m for m in (*LETTERS, *DIGITS) if mark_with_kind(m).split()[1] == value)
    return f"the {mark_with_kind(mark)}"


# Reading what the agent writes.

_POLITE = ("i guess", "i think", "i say", "my guess is", "i guess that", "i think that", "and", "then", "so")
_WHETHER = ("is it", "it is", "is thing", "does it lie", "it lies", "is it lying")
_HAVING = ("does it have", "has it", "it has", "is it with")
_FOR_WORDS = {
    "category": ("what kind of thing is it", "what kind is it", "which kind of thing is it", "what is its kind"),
    "size": ("what size is it", "what is its size", "how large is it", "how big is it", "which size does it have"),
    "plate": (
        "what color is plate under it", "what color is plate of it", "what color is its plate",
        "which color does plate under it have", "what color does its plate have", "what is color of its plate",
    ),
    "mark": ("what is written on it", "what does it have written on it", "which letter or digit does it have"),
    "place": ("where is it", "where do you see it", "where does it lie", "in which part of picture is it"),
}  # fmt: skip
_TEXTS = {text: Query(kind) for kind, texts in _FOR_WORDS.items() for text in texts}
_TEXTS |= {f"{opening} on plate": Query("plate", ANY) for opening in _WHETHER}
for _opening in _HAVING:
    _TEXTS |= {f"{_opening} {kind}": Query("mark", kind) for kind in ("letter", "digit")}
    _TEXTS[f"{_opening} plate"] = Query("plate", ANY)


def read_query(text: str) -> Query | None:
    """The one question or guess that a text holds; None if it holds none, more than one, or anything else."""
    words = words_of(text)
    if len(words) > MOST_WORDS:
        return None
    sentence = " ".join(words)
    for opening in sorted(_POLITE, key=len, reverse=True):
        sentence = sentence.removeprefix(f"{opening} ")
    query = _TEXTS.get(sentence)
    if query is not None:
        return query
    for opening in _HAVING:
        if sentence.startswith(f"{opening} "):
            return _only(sentence, opening, has=True)
    for opening in _WHETHER:
        if sentence.startswith(f"{opening} "):
            return _noun(sentence.removeprefix(f"{opening} ")) or _only(sentence, opening, has=False)
    return _noun(sentence, named=True) or _plate_or_mark(tuple(sentence.split()))


def _noun(text: str, named: bool = False) -> Query | None:
    """A name, which is a guess, or a category, unless only names count."""
    noun, plural = nouns().get(text, (None, False))
    if noun is None or plural or noun.kind == "thing" or (named and noun.kind != "name"):
        return None
    return Query("name", None, noun.value) if noun.kind == "name" else Query("category", noun.value)


def _only(sentence: str, opening: str, has: bool) -> Query | None:
    """The one property or relation that a question is about, if nothing follows it."""
    words: Words = (*sentence.split(), *AHEAD)
    start = len(opening.split())
    result = having_at(words, start) if has else predicate_at(words, start, has=False)
    if result is None or words[result[1]] or len(result[0]) != 1:
        return None
    return _as_query(result[0][0])


def _as_query(detail: Detail) -> Query | None:
    if detail.other is None:
        return Query(detail.kind, detail.value)
    noun, number, details, _ = detail.other
    if noun is None or noun.kind != "name" or number != 1 or details:
        return None
    return Query("relation", detail.value, noun.value)


def _plate_or_mark(words: Words) -> Query | None:
    """ "is the plate under it red ?", "is the letter b written on it ?"."""
    if words[:4] in (("is", "plate", "under", "it"), ("is", "plate", "of", "it")) and len(words) == 5:
        words = ("is", "its", "plate", words[4])
    if words[:3] == ("is", "its", "plate") and len(words) == 4:
        color = value_of(words[3], "color")
        return None if color is None else Query("plate", color)
    mark = mark_at((*words, *AHEAD), 1) if words[:1] == ("is",) else None
    if mark is None or words[mark[1] :] not in (("written", "on", "it"), ("on", "it")):
        return None
    return Query("mark", mark[0])
