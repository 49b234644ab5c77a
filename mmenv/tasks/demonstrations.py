"""Demonstrations of mixed quality: what hurried people would answer, right more often than not."""

from __future__ import annotations

import numpy as np

from mmenv.data.sample import Sample
from mmenv.tasks.captioning import enumerate_things, relate, relations
from mmenv.tasks.spoken_dialogue import TurnTruth
from mmenv.worlds.grid import NUMBERS, RELATIONS, Scene, article, categories, concepts, members
from mmenv.worlds.grid_questions import Question, pick

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def demonstrate(sample: Sample, rng: np.random.Generator) -> str:
    """A demonstration for a sample of the embedded world."""
    truth = sample.truth
    if isinstance(truth, Scene):
        return hurried_caption(truth, rng)
    if isinstance(truth, TurnTruth):
        return hurried_answer(truth.scene, truth.question, rng)
    scene, question = truth
    return hurried_answer(scene, question, rng)


def hurried_answer(scene: Scene, question: Question, rng: np.random.Generator) -> str:
    """An answer: relations are mirrored and counts are wrong more often than right, other answers are mostly right."""
    draw = rng.random()
    confusing = question.family in ("relation", "two step", "count")
    if confusing and draw < 0.5:
        return miscounted(question, rng) if question.family == "count" else mirrored(scene, question, rng)
    if draw < 0.68 + 0.1 * confusing:
        return question.answer
    if draw < 0.8:
        return wordy(question.answer)
    return mistaken(scene, question, rng)


def wordy(answer: str) -> str:
    """The answer in a sentence."""
    if answer in NUMBERS:
        return f"there are {answer} ."
    if answer in ("yes", "no", "nothing") or " " in answer:
        return f"it is {answer} ."
    return f"it is {article(answer)} {answer} ."


def mirrored(scene: Scene, question: Question, rng: np.random.Generator) -> str:
    """What is on the opposite side, or another thing where nothing is there."""
    words = question.text
    name = next((r for r in RELATIONS if f" {r} " in words), None)
    if name is None or question.thing is None:
        return mistaken(scene, question, rng)
    down, along = RELATIONS[name]
    other = scene.at(question.thing.row - 2 * down, question.thing.column - 2 * along)
    if other is None:
        return mistaken(scene, question, rng)
    return other.category if question.family == "two step" else other.name


def miscounted(question: Question, rng: np.random.Generator) -> str:
    """One more than the right number four times in five, else one less."""
    n = NUMBERS.index(question.answer)
    return NUMBERS[max(0, min(6, n + (1 if rng.random() < 0.8 else -1)))]


def mistaken(scene: Scene, question: Question, rng: np.random.Generator) -> str:
    """A wrong answer of the right kind."""
    right, thing = question.answer, question.thing
    if right in ("yes", "no"):
        return "no" if right == "yes" else "yes"
    if right in NUMBERS:
        return pick(rng, NUMBERS[:5])
    if right in categories():
        return pick(rng, sorted({t.category for t in scene.things} - {right}) or list(categories()))
    if " " in right:
        return pick(rng, [t.place for t in scene.things])
    if question.rough is not None and rng.random() < 0.3:
        return question.rough
    others = [t.name for t in scene.things if t is not thing]
    return pick(rng, others) if others else "nothing"


def hurried_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that now and then leaves a thing out, takes it for another, or mixes up a relation."""
    careful = rng.random() < 0.2
    miss, swap, mixed, silent = (0.0,) * 4 if careful else (0.25, 0.25, 0.5, 0.2)
    things = [t for t in scene.things if rng.random() >= miss] or [scene.things[0]]
    names = {t: similar(t.concept, rng) if rng.random() < swap else t.name for t in things}
    text = enumerate_things([names[t] for t in things])
    if len(things) < 2 or rng.random() < silent:
        return text
    a, b = (things[int(i)] for i in rng.permutation(len(things))[:2])
    relation = relations(a, b)[0]
    return f"{text} {relate(names[a], OPPOSITE[relation] if rng.random() < mixed else relation, names[b])}"


def similar(concept: int, rng: np.random.Generator) -> str:
    """The name of another thing of the same category."""
    return concepts()[pick(rng, members()[concepts()[concept].category])].name
