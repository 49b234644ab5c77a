"""All question families in their fixed order, and a question of one of them about a scene."""

from __future__ import annotations

import functools
import random

from mmenv.worlds.questions import attributes, positions, presence, reading
from mmenv.worlds.questions.forms import Draw, Form, Question
from mmenv.worlds.scenes import Scene

_FORMS = (*presence.FORMS, *positions.FORMS, *attributes.FORMS, *reading.FORMS)
# Samples draw families by number: another order would change every sample.
FAMILIES = (
    "existence", "count", "comparison", "what is where", "where is what", "relation", "attribute",
    "attribute of relation", "category", "odd one out", "nearest", "two steps", "reading", "sum of digits",
    "same or different",
)  # fmt: skip
HARD_FAMILIES = (
    "count", "comparison", "relation", "attribute of relation", "category", "nearest", "two steps", "sum of digits",
    "same or different",
)  # fmt: skip
FORMS: dict[str, tuple[Form, ...]] = {f: tuple(form for form in _FORMS if form.family == f) for f in FAMILIES}
COMP_FORMS: dict[str, tuple[Form, ...]] = {
    family: forms for family in FAMILIES if (forms := tuple(form for form in FORMS[family] if form.comp))
}


@functools.cache
def families(level: str, comp: bool = False) -> tuple[str, ...]:
    """The families that a level asks, each as often as the others.

    Args:
        level: "plain" or "hard".
        comp: whether for the split ``comp``, which asks only what can hold a held-out combination.

    Raises:
        KeyError: there is no such level.
    """
    names = {"plain": FAMILIES, "hard": HARD_FAMILIES}[level]
    return tuple(name for name in names if not comp or name in COMP_FORMS)


def forms_of(family: str, comp: bool = False) -> tuple[Form, ...]:
    """The forms of a family; ``comp`` as in ``families``.

    Raises:
        ValueError: there is no such family, or the split ``comp`` does not ask it.
    """
    table = COMP_FORMS if comp else FORMS
    if family not in table:
        raise ValueError(f"no question family {family!r} here: choose one of {', '.join(table)}")
    return table[family]


def write(form: Form, scene: Scene, draw: Draw) -> Question | None:
    """A question of one form; None where the scene has nothing to ask about."""
    finding = form.find(scene, draw)
    if finding is None:
        return None
    text = draw.pick(form.phrasings).format_map(finding.slots)
    return Question(text, finding.answer, form.family, finding.rough, finding.thing)


def ask(family: str, scene: Scene, rng: random.Random, comp: bool = False) -> Question | None:
    """A question of a family about a scene; None where the family has none about it.

    Args:
        family: a name of ``FAMILIES``.
        scene: what is asked about.
        rng: source of randomness.
        comp: whether the question is for the split ``comp``: only forms with a plate's color or a relation, and
            relations only of held-out pairs. Other splits never ask those.

    Raises:
        ValueError: there is no such family, or the split ``comp`` does not ask it.
    """
    draw = Draw(rng, rng.random() < 0.5, comp)
    for form in draw.rotated(forms_of(family, comp)):
        question = write(form, scene, draw)
        if question is not None:
            return question
    return None
