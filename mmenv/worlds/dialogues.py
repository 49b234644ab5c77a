"""Dialogues about a scene: a question, and follow-up questions that refer to what was replied before.

A ``Turn`` is what the user says and, once it is answered, the state of the dialogue. Right replies alone settle every
reference: "it" is the thing that was named last, "that color" is the color of the last reply. So an agent that knows
its own replies can resolve them without the user's earlier words. All words were recorded (``speech``).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.questions import FORMS, Draw, Form, Question, ask, families, write
from mmenv.worlds.scenes import RELATIONS, Scene, Thing
from mmenv.worlds.speech import speakable, words_of
from mmenv.worlds.things import COLOURS, SIZES, categories, concept_index

T = TypeVar("T")
TURNS = {"plain": (2, 4), "hard": (3, 5)}  # least and greatest number
MOST_WORDS = 10  # of an utterance, besides "no"
REFERRING = {"plain": 0.8, "hard": 0.95}  # how often the user refers back where it is possible
LEADING_ON = 0.7  # how often an opening is one of the next families, with a reply that a later turn can refer to
NAMING = ("what is where", "attribute", "category")
# Not "same or different": "are it and the cat of the same size ?" is no English.
OF_IT = ("where is what", "relation", "attribute", "attribute of relation", "nearest", "two steps", "reading")
# What a reply was about -> questions for a number and for yes or no, each with a reference and without.
OF_THAT = {
    "color": (
        ("how many other plates of that color are there ?", "how many other {} plates are there ?"),
        ("are there any other plates of that color ?", "are there any other {} plates ?"),
    ),
    "size": (
        ("how many other things of that size are there ?", "how many other {} things are there ?"),
        ("are there any other things of that size ?", "are there any other {} things ?"),
    ),
    "kind": (
        ("how many others of that kind are there ?", "how many other {} are there ?"),
        ("are there any others of that kind ?", "are there any other {} ?"),
    ),
}
KIND_OF_IT = ("what kind of thing is it ?", "what kind of thing is the {} ?")
REJECTION = "no {}"
LINK = "and {}"
FALLBACK = "how many things are there ?"
SAID = "you said {} ."  # what the agent reads of its own replies
# For the vocabulary: all texts that no question has.
PHRASES = (
    *(text for pairs in OF_THAT.values() for pair in pairs for text in pair),
    *KIND_OF_IT,
    *(f"the one {relation} it" for relation in RELATIONS),
    REJECTION,
    LINK,
    FALLBACK,
    SAID,
)
_TRIES = 12


class Turn(NamedTuple):
    """One question of a dialogue.

    Attributes:
        text: what the user says.
        answer: the right reply.
        family: the question's family, of ``questions.FAMILIES``.
        rough: a rougher reply, worth less, or None.
        full: the question without a reference; after a wrong reply the user says "no" and this.
        it: the thing that "it" means after the right reply, or None.
    """

    text: str
    answer: str
    family: str
    rough: str | None
    full: str
    it: Thing | None


@dataclass(slots=True)
class _About(Draw):
    """A draw that takes one thing wherever it has a choice among things."""

    thing: Thing | None = None

    def pick(self, items: Sequence[T]) -> T:
        return next((item for item in items if item is self.thing), None) or Draw.pick(self, items)

    def rotated(self, items: Sequence[T]) -> Sequence[T]:
        order = Draw.rotated(self, items)
        return sorted(order, key=lambda item: item is not self.thing)


def draw_turns(rng: random.Random, level: str = "plain") -> int:
    """The number of turns of a dialogue: 2 to 4, at the level "hard" 3 to 5."""
    least, most = TURNS[level]
    return least + int(rng.random() * (most - least + 1))


def opening(scene: Scene, rng: random.Random, level: str = "plain", comp: bool = False) -> Turn:
    """A question that refers to nothing.

    Args:
        scene: what it is about.
        rng: source of randomness; only ``random()`` is called.
        level: "plain" or "hard".
        comp: whether for the split ``comp``, whose questions are about held-out combinations.

    Raises:
        KeyError: there is no such level.
    """
    every = families(level, comp)
    naming = [name for name in NAMING if name in families("plain", comp)]
    leads_on = rng.random() < LEADING_ON
    for attempt in range(2 * _TRIES):
        question = ask(_pick(rng, naming if leads_on else every), scene, rng, comp)
        if question is None or not _short(question.text):
            continue
        it = _named(scene, question)
        if not leads_on or it is not None or _topic(question.answer) is not None or attempt >= _TRIES:
            return Turn(*question[:4], question.text, it)
    return Turn(FALLBACK, NUMBER_WORDS[len(scene.things)], "count", None, FALLBACK, None)


def follow_up(
    scene: Scene, turn: Turn, rng: random.Random, correct: bool, level: str = "plain", comp: bool = False
) -> Turn:
    """What the user says after a reply to ``turn``: "no" and the question again if it was wrong, else a new question.

    Args:
        scene: as for ``opening``.
        turn: the turn before.
        rng, level, comp: as for ``opening``.
        correct: whether the reply was right.
    """
    if not correct:
        it = turn.it if turn.it is not None and turn.it.name == turn.answer else None
        return turn._replace(text=REJECTION.format(turn.full), it=it)
    if rng.random() < REFERRING[level]:
        for _ in range(_TRIES):
            question = _referring(scene, turn, rng, comp)
            if question is not None and question.full != turn.full and _short(question.full):
                return question._replace(text=LINK.format(question.text)) if rng.random() < 0.5 else question
    return opening(scene, rng, level, comp)


def _referring(scene: Scene, turn: Turn, rng: random.Random, comp: bool) -> Turn | None:
    """A question that refers to the last reply or to the thing that was named last."""
    that = _topic(turn.answer)
    if that is not None and (turn.it is None or rng.random() < 0.5):
        return _of_that(scene, turn, that, rng)
    if turn.it is None:
        return None
    if rng.random() < 1 / (1 + len(OF_IT)):
        text, full = KIND_OF_IT
        return Turn(text, turn.it.category, "category", None, full.format(turn.it.name), turn.it)
    return _of_it(scene, turn.it, rng, comp)


def _topic(answer: str) -> str | None:
    """What "that" can be said of after a reply: a color, a size or a kind of thing."""
    if answer in COLOURS:
        return "color"
    if answer in SIZES:
        return "size"
    return "kind" if answer in categories() else None


def _of_that(scene: Scene, turn: Turn, topic: str, rng: random.Random) -> Turn:
    """How many others there are of the color, size or kind that was just replied, or whether there are any."""
    word = turn.answer
    values = {"color": lambda t: t.plate, "size": lambda t: t.size_word, "kind": lambda t: t.category}
    others = sum(values[topic](thing) == word for thing in scene.things) - 1
    number, whether = OF_THAT[topic]
    noun = categories()[word] if topic == "kind" else word
    if rng.random() < 0.5:
        return Turn(number[0], NUMBER_WORDS[others], "count", None, number[1].format(noun), turn.it)
    return Turn(whether[0], "yes" if others else "no", "existence", None, whether[1].format(noun), turn.it)


def _of_it(scene: Scene, it: Thing, rng: random.Random, comp: bool) -> Turn | None:
    """A question of a family about ``it``, with "it" in place of its name."""
    forms = [form for form in _forms_with_a_name(_pick(rng, OF_IT)) if form.comp or not comp]
    if not forms:
        return None
    question = write(_pick(rng, forms), scene, _About(rng, rng.random() < 0.5, comp, it))
    if question is None or question.answer == it.name:
        return None
    name = f"the {it.name} "
    if question.text.count(name) != 1:
        return None
    text = question.text.replace(name, "it ")
    for relation in RELATIONS:
        text = text.replace(f"the thing {relation} it ", f"the one {relation} it ")
    if _is_name(question.answer):
        then = _named(scene, question)
    else:
        then = None if _mentions_a_name(text) else it
    return Turn(text, question.answer, question.family, question.rough, question.text, then)


@functools.cache
def _forms_with_a_name(family: str) -> tuple[Form, ...]:
    return tuple(form for form in FORMS[family] if "{name}" in form.phrasings[0])


def _named(scene: Scene, question: Question) -> Thing | None:
    """The thing that the right reply names, if "it" can mean that one: its name was recorded and fits no other."""
    if not _is_name(question.answer) or not speakable(question.answer):
        return None
    return scene.only(question.answer)


def _is_name(answer: str) -> bool:
    return answer in concept_index()


def _mentions_a_name(text: str) -> bool:
    return any(word in concept_index() for word in words_of(text))


def _short(text: str) -> bool:
    """Whether the user can say it: few words, all of them recorded."""
    return len(words_of(text)) <= MOST_WORDS and speakable(text)


def _pick(rng: random.Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]
