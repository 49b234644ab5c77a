"""Gold of a caption: its claims are read one by one and compared with the scene.

A claim is how many there are of something, a plate, a mark or size of a thing, a place, or a relation. It is true,
false, or repeats an earlier one. Where people could disagree (``scenes.unclear``, the borders of places) it is true.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmenv.worlds.caption_grammar import Statement, read, sentences
from mmenv.worlds.caption_phrases import Detail, Noun, Phrase
from mmenv.worlds.scenes import OPPOSITE, RELATIONS, Scene, could_be_at, lies, place, unclear

MOST_ATTRIBUTES = 3  # plates and marks that a caption owes
FEW_THINGS = 4
BRIEF, BRIEF_OF_MANY = 48, 80  # words, without articles, that cost nothing: with few things, and with more
WORD_COST = 0.1  # of a word that fits no sentence


def caption_parts(scene: Scene, text: str) -> dict[str, float]:
    """Parts of the gold of a caption, each in [0, 1]; gold is their product.

    ``correct`` is the F1 of claims: precision is the share of true claims among all, where a repeated one is not true;
    recall is the share of what a caption owes. It owes every concept with its number, at most ``MOST_ATTRIBUTES``
    plates and marks, and one relation or place. True claims beyond that do no harm. ``brevity`` is 1 up to ``BRIEF``
    words (``BRIEF_OF_MANY`` with many things), then that number divided by the number of words. ``grammar`` falls by
    ``WORD_COST`` for each word that fits no sentence.

    Args:
        scene: what the caption is about.
        text: in free wording; full stops end sentences, other punctuation, case and articles carry nothing.
    """
    claims = _Claims(scene)
    brief = BRIEF if len(scene.things) <= FEW_THINGS else BRIEF_OF_MANY
    words = strays = 0
    for sentence in sentences(text):
        reading = read(sentence)
        words += reading.words
        strays += reading.strays
        for statement in reading.statements:
            claims.state(statement)
    return {
        "correct": claims.f1(),
        "brevity": min(1.0, brief / max(1, words)),
        "grammar": max(0.0, 1 - WORD_COST * strays),
    }


Key = tuple[object, ...]  # of a claim; what says the same has the same
Meaning = tuple[Noun, list[int]]  # a noun and the numbers of things that are meant
Fact = tuple[str, ...]  # what a caption owes: ("there", "dog"), ("plate", "dog", "red"), ("position",)


def owed(scene: Scene) -> tuple[set[Fact], set[Fact], set[Fact]]:
    """What a caption may be asked for: concepts; plates and marks; a relation or place, if the scene has any."""
    things = scene.things
    concepts: set[Fact] = {("there", t.name) for t in things}
    attributes: set[Fact] = {("plate", t.name, t.plate) for t in things if t.plate is not None}
    attributes |= {("mark", t.name, t.mark_word) for t in things if t.mark_word is not None}
    clear = any(place(t) for t in things) or any(lies(a, r, b) for a in things for b in things for r in RELATIONS[::2])
    return concepts, attributes, {("position",)} if clear else set()


class _Claims:
    """The claims of a caption about a scene, as its statements are read in their order."""

    def __init__(self, scene: Scene) -> None:
        self.things = scene.things
        self.owed = owed(scene)
        self.true: set[Key] = set()
        self.covered: set[Fact] = set()
        self.number = 0
        self.listed: dict[Noun, list[int | None]] = {}  # numbers that listings give; None of "dogs"
        self.mentioned: dict[Noun, int] = {}  # greatest number that other statements speak of
        self.identified: dict[Key, Fact | None] = {}  # true claims that serve to tell things apart
        self.subjects: list[Meaning] = []  # what a pronoun means

    def state(self, statement: Statement) -> None:
        """Read the claims of one statement."""
        totals: dict[Noun, int | None] = {}
        meanings: list[Meaning] = []
        for phrase in statement.subjects:
            for noun, things in self._meanings(phrase, is_claim=statement.listed):
                things = self._read(phrase, noun, things, statement.details, is_claim=True)
                if phrase.noun is None:
                    continue
                meanings.append((noun, things))
                if not statement.listed:
                    self._mention(phrase, noun)
                elif phrase.another and noun not in totals and noun in self.listed:
                    totals[noun] = _sum(self.listed[noun].pop(), phrase.number)
                else:
                    totals[noun] = _sum(totals.get(noun, 0), phrase.number)
        for noun, total in totals.items():
            self.listed.setdefault(noun, []).append(total)
        self.subjects = meanings or self.subjects

    def f1(self) -> float:
        """F1 of all claims, those of numbers included."""
        number = self.number + len(self.identified.keys() - self.true)
        for key, fact in self.identified.items():
            self._hold(key, fact)
        for noun, totals in self.listed.items():
            number += len(totals)
            count = len(self._named(noun))
            if count in totals:
                self._hold(("there", noun), ("there", noun.value))
            elif None in totals and count > 1:
                self._hold(("there", noun), None)  # "dogs" is true of two, but does not say how many
        for noun, least in self.mentioned.items():
            count = len(self._named(noun))
            if noun in self.listed or not (count == 0 or (count == least and noun.kind == "name")):
                continue
            number += 1
            if count:
                self._hold(("there", noun), ("there", noun.value))
        concepts, attributes, position = self.owed
        attributes_owed = min(MOST_ATTRIBUTES, len(attributes))
        covered = len(self.covered & concepts) + min(attributes_owed, len(self.covered & attributes))
        covered += len(self.covered & position)
        if not covered:
            return 0.0
        precision = len(self.true) / number
        recall = covered / (len(concepts) + attributes_owed + len(position))
        return 2 * precision * recall / (precision + recall)

    def _hold(self, key: Key, fact: Fact | None) -> None:
        """A claim is true; the same key again is a repetition."""
        self.true.add(key)
        if fact is not None:
            self.covered.add(fact)

    def _named(self, noun: Noun) -> list[int]:
        """The numbers of the things of a noun."""
        if noun.kind == "name":
            return [i for i, t in enumerate(self.things) if t.name == noun.value]
        return [i for i, t in enumerate(self.things) if noun.kind == "thing" or t.category == noun.value]

    def _mention(self, phrase: Phrase, noun: Noun) -> None:
        if phrase.noun is not None and noun.kind != "thing":
            before = self.mentioned.get(noun, 0)
            number = phrase.number or 0
            self.mentioned[noun] = before + number if phrase.another else max(before, number)

    def _meanings(self, phrase: Phrase, is_claim: bool) -> list[Meaning]:
        """What a phrase speaks of, with the things that it can mean after the true ones of its details.

        "it" means the last subject before; "they" means all subjects of the last statement.
        """
        if phrase.noun is None:
            return self.subjects[-1:] if phrase.number == 1 else self.subjects
        noun, things = phrase.noun, self._named(phrase.noun)
        return [(noun, self._read(phrase, noun, things, phrase.details, is_claim))]

    def _read(
        self, phrase: Phrase, noun: Noun, things: list[int], details: Sequence[Detail], is_claim: bool
    ) -> list[int]:
        """Read details of some of these things as claims, or as what identifies them: "the dog on the red plate".

        Returns:
            Those that have all of the details that are true.
        """
        if noun.kind == "thing":
            return things  # "a thing is above a thing" says next to nothing
        true: list[tuple[Detail, Meaning | None]] = []
        for detail in details:
            other = self._other(detail)
            those = [i for i in things if self._has(i, detail, other)]
            if len(those) >= _least(phrase, things):
                things = those
                true.append((detail, other))
            else:
                self.number += 1
        for detail, other in true:
            key = self._key(detail, things, other)
            fact = _fact(detail, noun, other)
            if is_claim:
                self.number += 1
                self._hold(key, fact)
            else:
                self.identified[key] = fact
        return things

    def _other(self, detail: Detail) -> Meaning | None:
        """What the second phrase of a relation means."""
        if detail.other is None:
            return None
        meanings = self._meanings(detail.other, is_claim=False)
        if not meanings:
            return None
        self._mention(detail.other, meanings[-1][0])
        return meanings[-1]

    def _key(self, detail: Detail, things: list[int], other: Meaning | None) -> Key:
        """The same for "the cat is above the car" and "the car is below the cat"."""
        if other is None:
            return (detail.kind, detail.value, *things)
        pairs = [(i, j) for i in things for j in self._beside(i, detail.value, other[1])]
        if detail.value in ("left of", "above"):
            return detail.value, frozenset(pairs)
        return OPPOSITE[detail.value], frozenset((j, i) for i, j in pairs)

    def _has(self, i: int, detail: Detail, other: Meaning | None) -> bool:
        thing = self.things[i]
        if detail.kind == "size":
            return thing.size_word == detail.value
        if detail.kind == "plate":
            return thing.plate == detail.value
        if detail.kind == "mark":
            return thing.mark_word == detail.value
        if detail.kind == "place":
            return could_be_at(thing, detail.value)
        if detail.other is None or other is None:
            return False
        return len(self._beside(i, detail.value, other[1])) >= _least(detail.other, other[1])

    def _beside(self, i: int, relation: str, others: list[int]) -> list[int]:
        """Those of the others towards which a thing lies so, or could be said to."""
        a, things = self.things[i], self.things
        return [j for j in others if j != i and (lies(a, relation, things[j]) or unclear(a, relation, things[j]))]


def _fact(detail: Detail, noun: Noun, other: Meaning | None) -> Fact | None:
    """What a true detail covers of what a caption owes, if the things are called by their names."""
    if noun.kind != "name" or (other is not None and other[0].kind != "name"):
        return None
    if detail.kind in ("place", "relation"):
        return ("position",)
    return (detail.kind, noun.value, detail.value) if detail.kind in ("plate", "mark") else None


def _least(phrase: Phrase, things: Sequence[int]) -> int:
    """Of how many of these things a detail must hold: of one of them for "the dog", of all for "the dogs", "both"."""
    of_all = phrase.number is None or (phrase.noun is None and phrase.number > 1)
    return max(1, len(things) if of_all else phrase.number or 0)


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b
