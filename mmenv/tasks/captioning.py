"""Captioning: say what a picture shows in a sentence or two."""

from __future__ import annotations

import functools
import math

import numpy as np

from mmenv.data.sample import CAPTION_PROMPT, Response, Sample
from mmenv.tasks.world_task import WorldTask
from mmenv.worlds.grid import Scene, Thing, article, concepts, draw_scene
from mmenv.worlds.grid_questions import allowed, pick


def relations(a: Thing, b: Thing) -> list[str]:
    """The relations that hold from a to b, that of the larger distance first: ``["above", "left of"]``."""
    down, along = b.row - a.row, b.column - a.column
    vertical = ["above"] if down > 0 else ["below"] if down < 0 else []
    horizontal = ["left of"] if along > 0 else ["right of"] if along < 0 else []
    return vertical + horizontal if abs(down) >= abs(along) else horizontal + vertical


def enumerate_things(names: list[str]) -> str:
    """``a dog , an ant and a car .``"""
    phrases = [f"{article(n)} {n}" for n in names]
    return (" , ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]) + " ."


def relate(a: str, relation: str, b: str) -> str:
    """``the dog is above the car .``"""
    return f"the {a} is {relation} the {b} ."


def caption(scene: Scene, rng: np.random.Generator, test: bool) -> str | None:
    """A right caption: every thing, and one relation; None where the split may ask for no relation of the scene.

    Args:
        scene: what the picture shows.
        rng: source of randomness.
        test: whether combinations of thing and relation are allowed that only the test split has.
    """
    names = [t.name for t in scene.things]
    first = enumerate_things(names)
    if len(names) == 1:
        return first
    options = [
        relate(a.name, relation, b.name)
        for a in scene.things
        for b in scene.things
        if a is not b
        for relation in relations(a, b)[:1]
        if allowed(a, relation, test)
    ]
    return f"{first} {pick(rng, options)}" if options else None


@functools.cache
def _names() -> frozenset[str]:
    return frozenset(c.name for c in concepts())


def parse(words: list[str]) -> tuple[list[str], list[tuple[str, str, str]], int]:
    """The claims of a caption.

    Returns:
        names of the things listed, relations claimed as (a, relation, b), and the number of words that fit no sentence.
    """
    listed: list[str] = []
    related: list[tuple[str, str, str]] = []
    junk, i, n = 0, 0, len(words)
    while i < n:
        claim = _relation_at(words, i)
        if words[i] in ("a", "an") and i + 1 < n and words[i + 1] in _names():
            listed.append(words[i + 1])
            junk += words[i] != article(words[i + 1])
            i += 2
            closing: tuple[str, ...] = (",", "and", ".")  # things are joined by the first two, the last is closed
        elif claim is not None:
            related.append(claim)
            i += 5 + len(claim[1].split())
            closing = (".",)
        else:
            junk += 1
            i += 1
            continue
        if i < n and words[i] in closing:
            i += 1
        else:
            junk += 1
    return listed, related, junk


def _relation_at(words: list[str], i: int) -> tuple[str, str, str] | None:
    """The claim ``the dog is left of the car`` that begins at word ``i``, as (a, relation, b); None if none does."""
    if words[i] != "the" or i + 5 >= len(words) or words[i + 1] not in _names() or words[i + 2] != "is":
        return None
    end = i + 4 + (words[i + 3] in ("left", "right"))
    if end + 1 >= len(words) or words[end] != "the" or words[end + 1] not in _names():
        return None
    return words[i + 1], " ".join(words[i + 3 : end]), words[end + 1]


def caption_parts(scene: Scene, text: str) -> dict[str, float]:
    """F1 of the claims of a caption (``correct``), and ``grammar``.

    A caption owes one claim for each thing and, where there are two or more, one relation. What it says twice, or
    wrongly, or beyond that counts against its precision; each word that fits no sentence costs a tenth.
    """
    listed, related, junk = parse(text.split())
    left = [t.name for t in scene.things]
    owed = len(left) + (len(left) > 1)
    claims = len(listed) + len(related)
    right = 0
    for name in listed:
        if name in left:
            left.remove(name)
            right += 1
    if len(scene.things) > 1:
        where = {t.name: t for t in scene.things}
        right += any(a in where and b in where and a != b and r in relations(where[a], where[b]) for a, r, b in related)
    return {"correct": 2 * right / (claims + owed), "grammar": max(0.0, 1 - 0.1 * junk)}


def caption_gold(scene: Scene, text: str) -> float:
    """The product of ``caption_parts``, in [0, 1]."""
    return math.prod(caption_parts(scene, text).values())


class Captioning(WorldTask):
    """Captioning.

    ## Description

    A picture of one to three things (four to six in the Hard id), to be described: list what is there, then say how
    two of the things lie to each other, as in "a dog and an ant . the dog is above the ant .". Gold is the F1 of
    the claims, one owed for each thing and one for a relation, times a factor for grammar; silence and repetition
    earn nothing. The Shifted id draws its test split in a style never trained on, and shows that split unless told
    otherwise; its other splits are the plain id's.

    ## Observation Space

    A `Dict`: `image` uint8 (48, 48, 3); `prompt` int64 (6,), always the same words; `response` int64 (28,).
    """

    name = "captioning"
    key = 2
    max_prompt_tokens = 6
    max_response_tokens = 28
    counts = {"plain": (1, 3), "shifted": (1, 3), "hard": (4, 6)}  # noqa: RUF012
    prompt = CAPTION_PROMPT

    def compose(self, split: str, index: int) -> tuple[Scene, str, tuple[str, ...], Scene]:
        """Scene, prompt, a right caption, and the truth: the scene."""
        rng = self.rng(split, index)
        while True:
            scene = draw_scene(rng, self.counts[self.variant], self.style(split), distinct=True)
            text = caption(scene, rng, test=split == "test")
            if text is not None:
                return scene, self.prompt, (text,), scene

    def gold_parts(self, sample: Sample, response: Response) -> dict[str, float]:
        """F1 of the claims and grammar, see ``caption_parts``; empty for samples of a dataset."""
        return caption_parts(sample.truth, response.text) if sample.truth is not None else {}
