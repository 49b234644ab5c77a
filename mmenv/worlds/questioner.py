"""The best that one can do in the guessing game: exact, by dynamic programming over sets of candidates.

A set of candidates is an integer whose bit i says that thing i can still be meant; every thing is equally likely. A
question splits a set by its answers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from mmenv.worlds.guessing import ANY, ASKABLE, NO_MARK, NO_PLATE, Query, answer, queries
from mmenv.worlds.scenes import RELATIONS, Scene, Thing

KINDS = (*ASKABLE, "relation")
FOR_A_WORD = 1 / 3  # how often a question drawn at random asks for a word, and not for yes or no
_TRIES = 20


class Questioner:
    """All questions about a scene, and how far they lead.

    Args:
        scene: with few things: the work grows as 2 to the power of their number (8 take some milliseconds, 12 some
            tenths of a second).
        words: whether one may ask for words, and not only for yes or no.

    Attributes:
        scene: as given.
        everything: the set of all things, which the user may have in mind.
        queries: all questions that split it.
    """

    def __init__(self, scene: Scene, words: bool = True) -> None:
        self.scene = scene
        self.everything = (1 << len(scene.things)) - 1
        self.queries = queries(scene, words)
        self._splits = {query: _split(scene, query) for query in self.queries}
        self._distinct = sorted(set(self._splits.values()))  # many questions split the things alike
        self._numbers: dict[tuple[int, int], int] = {}
        self._sums: dict[int, float] = {}

    def success(self, questions: int, candidates: int | None = None) -> float:
        """The greatest probability of a right guess after at most so many questions."""
        candidates = self.everything if candidates is None else candidates
        return self._number(candidates, questions) / candidates.bit_count()

    def expected(self, candidates: int | None = None) -> float:
        """The least expected number of questions until one thing remains, the guess not counted.

        Infinite where no question tells two of the things apart.
        """
        candidates = self.everything if candidates is None else candidates
        return self._sum(candidates) / candidates.bit_count()

    def best(self, candidates: int, questions: int) -> list[Query]:
        """The questions that lead to ``success``, and of those the ones after which the fewest more are expected.

        Args:
            candidates: a set of two things or more.
            questions: how many may still be asked, this one included.
        """
        scores = {}
        for query in self.queries:
            parts = _parts(self._splits[query], candidates)
            if len(parts) > 1:
                number = sum(self._number(part, questions - 1) for part in parts)
                scores[query] = -number, sum(self._sum(part) for part in parts)
        least = min(scores.values(), default=None)
        return [query for query, score in scores.items() if score == least]

    def after(self, candidates: int, query: Query, text: str) -> int:
        """The candidates that remain when the user has answered ``text`` to a question."""
        fitting = (i for i, thing in enumerate(self.scene.things) if answer(self.scene, thing, query) == text)
        return candidates & sum(1 << i for i in fitting)

    def _number(self, candidates: int, questions: int) -> int:
        """In how many of the candidates the best strategy ends with the right guess."""
        if questions <= 0 or candidates & (candidates - 1) == 0:
            return 1
        key = candidates, questions
        if key not in self._numbers:
            best = 1
            for split in self._distinct:
                parts = _parts(split, candidates)
                if len(parts) > 1:
                    best = max(best, sum(self._number(part, questions - 1) for part in parts))
            self._numbers[key] = best
        return self._numbers[key]

    def _sum(self, candidates: int) -> float:
        """The least sum, over the candidates, of the questions until that one alone remains."""
        if candidates & (candidates - 1) == 0:
            return 0.0
        if candidates not in self._sums:
            best = math.inf
            for split in self._distinct:
                parts = _parts(split, candidates)
                if len(parts) > 1:
                    best = min(best, sum(self._sum(part) for part in parts))
            self._sums[candidates] = best + candidates.bit_count()
        return self._sums[candidates]


def random_question(scene: Scene, candidates: Sequence[Thing], rng: random.Random) -> Query | None:
    """A question whose answer is not the same for all candidates; None where there is none.

    Its kind is drawn first, each alike, then whether it asks for a word, then what it asks.

    Args:
        scene: what is asked about.
        candidates: things of it, two or more.
        rng: source of randomness; only ``random()`` is called.
    """
    for _ in range(_TRIES):
        query = _draw(scene, candidates, rng)
        if _tells_apart(scene, candidates, query):
            return query
    useful = [query for query in queries(scene) if _tells_apart(scene, candidates, query)]
    return useful[int(rng.random() * len(useful))] if useful else None


def _draw(scene: Scene, candidates: Sequence[Thing], rng: random.Random) -> Query:
    kind = KINDS[int(rng.random() * len(KINDS))]
    if kind == "relation":
        relation = RELATIONS[int(rng.random() * len(RELATIONS))]
        return Query(kind, relation, scene.things[int(rng.random() * len(scene.things))].name)
    query = Query(kind)
    if rng.random() < FOR_A_WORD:
        return query
    value = answer(scene, candidates[int(rng.random() * len(candidates))], query)
    if value == NO_PLATE:
        value = ANY
    elif value == NO_MARK:
        value = "letter" if rng.random() < 0.5 else "digit"
    return Query(kind, value)


def _tells_apart(scene: Scene, candidates: Sequence[Thing], query: Query) -> bool:
    if query.kind == "relation" and scene.only(query.name) is None:
        return False
    return len({answer(scene, thing, query) for thing in candidates}) > 1


def _split(scene: Scene, query: Query) -> tuple[int, ...]:
    """The sets of things with one answer each, in increasing order."""
    sets: dict[str, int] = {}
    for i, thing in enumerate(scene.things):
        text = answer(scene, thing, query)
        sets[text] = sets.get(text, 0) | 1 << i
    return tuple(sorted(sets.values()))


def _parts(split: tuple[int, ...], candidates: int) -> list[int]:
    """What a split makes of a set of candidates."""
    return [part for block in split if (part := block & candidates)]
