"""Facts of a scene: short true sentences, each about one thing, two things or two numbers, in random order.

A decoder learns from them to say what encoders see, before it is asked anything: there is no question in them, and
nothing that takes a chain of relations, a sum or an exception to find out.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from types import MappingProxyType

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.scenes import (
    PLACES,
    RELATIONS,
    Scene,
    Thing,
    at_place,
    beside,
    held_out_relation,
    nearest,
    place,
)
from mmenv.worlds.things import LETTERS, article, categories

TRIES = 3  # draws a fact that was written, before the text ends


def write_facts(
    scene: Scene, rng: random.Random, most_words: int, odds: Mapping[str, int] = MappingProxyType({})
) -> str:
    """Facts of a scene, each at most once.

    Args:
        scene: of the split ``train``: relations that only ``comp`` states are left out.
        rng: source of randomness; only ``random()`` is called.
        most_words: of the text, marks included; "" where no fact is that short.
        odds: how often a kind is chosen, against once for the others.

    Returns:
        sentences with a full stop each.
    """
    kinds = [facts for kind, facts in facts_by_kind(scene).items() if facts for _ in range(odds.get(kind, 1))]
    written: list[str] = []
    left, tries = most_words, 0
    while kinds and tries < TRIES * (len(written) + 1):
        tries += 1
        facts = kinds[int(rng.random() * len(kinds))]
        fact = facts[int(rng.random() * len(facts))]
        if fact in written:
            continue
        left -= len(fact.split())
        if left < 0:
            break
        written.append(fact)
    return " ".join(written)


def facts_by_kind(scene: Scene) -> dict[str, list[str]]:
    """All facts of a scene by kind. A thing whose concept occurs twice has none of its own."""
    alone = [thing for thing in scene.things if scene.only(thing.name) is not None]
    return {
        "place": [f"the {t.name} is at the {where} ." for t in alone if (where := place(t))],
        "plate": [f"the plate under the {t.name} is {t.plate} ." for t in alone if t.plate],
        "mark": [f"on the {t.name} is {_mark(t)} ." for t in alone if t.mark],
        "size": [f"the size of the {t.name} is {t.size_word} ." for t in alone],
        "category": [f"the {t.name} is {article(t.category)} {t.category} ." for t in alone],
        "what is where": [f"at the {w} is {_a(t)} ." for w in PLACES if (t := at_place(scene, w))],
        "what is on a plate": [f"on the {t.plate} plate is {_a(t)} ." for t in _differing(scene, "plate")],
        "what has a mark": [f"{_mark(t)} is on {_a(t)} ." for t in _differing(scene, "mark_word")],
        "relation": [f"{relation} the {t.name} is the {other.name} ." for t, relation, other in _relations(scene)],
        "nearest": [
            f"nearest to the {t.name} is the {other.name} ." for t in alone if (other := nearest(scene, t)) in alone
        ],
        "count": _counts(scene),
        **_same_or_different(alone),
        "more or fewer": _more_or_fewer(scene),
    }


def _a(thing: Thing) -> str:
    return f"{article(thing.name)} {thing.name}"


def _mark(thing: Thing) -> str:
    return f"the {'letter' if thing.mark in LETTERS else 'digit'} {thing.mark_word}"


def _differing(scene: Scene, attribute: str) -> list[Thing]:
    """The things that have an attribute which no other thing has alike."""
    values = [getattr(thing, attribute) for thing in scene.things]
    return [t for t, value in zip(scene.things, values, strict=True) if value is not None and values.count(value) == 1]


def _relations(scene: Scene) -> list[tuple[Thing, str, Thing]]:
    """(thing, relation, the only other that lies so towards it), without those held out of training."""
    found = []
    for thing in scene.things:
        for relation in RELATIONS:
            other = beside(scene, relation, thing)
            if (
                other is not None
                and scene.only(thing.name)
                and scene.only(other.name)
                and not held_out_relation(other.concept, relation)
            ):
                found.append((thing, relation, other))
    return found


def _counts(scene: Scene) -> list[str]:
    """How many there are of each concept and each category that the scene has."""
    plurals = {thing.name: thing.plural for thing in scene.things}
    plurals |= {thing.category: categories()[thing.category] for thing in scene.things}
    return [f"of {plural} there are {NUMBER_WORDS[len(scene.named(noun))]} ." for noun, plural in plurals.items()]


def _same_or_different(things: list[Thing]) -> dict[str, list[str]]:
    """Whether two plates have one colour, and two things one size: a kind each way, so that both are told as often."""
    found: dict[str, list[str]] = {f"{what} {of}": [] for what in ("same", "different") for of in ("color", "size")}
    for a, b in itertools.permutations(things, 2):
        pair = f"the {a.name} and the {b.name} are of"
        if a.plate and b.plate:
            what, words = ("same", "the same") if a.plate == b.plate else ("different", "a different")
            found[f"{what} color"].append(f"the plates under {pair} {words} color .")
        what, words = ("same", "the same") if a.size == b.size else ("different", "a different")
        found[f"{what} size"].append(f"{pair} {words} size .")
    return found


def _more_or_fewer(scene: Scene) -> list[str]:
    """Of which of two categories there are more, and of which fewer."""
    counts = {category: len(scene.named(category)) for category in {thing.category: None for thing in scene.things}}
    found = []
    for first, second in itertools.permutations(counts, 2):
        if counts[first] != counts[second]:
            more, fewer = (first, second) if counts[first] > counts[second] else (second, first)
            pair = f"of {categories()[first]} and {categories()[second]} there are"
            found += [f"{pair} more {categories()[more]} .", f"{pair} fewer {categories()[fewer]} ."]
    return found
