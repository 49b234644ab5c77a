"""Samples of the scene world: a scene with a question, a caption, or a thing to guess, from a key alone."""

from __future__ import annotations

import random

from mmenv.worlds.caption_writing import write_caption
from mmenv.worlds.questions import Draw, Question, families, forms_of, write
from mmenv.worlds.scenes import LEVELS, Scene, Thing, draw_scene, seed_of

# Least and greatest number of things.
CAPTION_THINGS = {"plain": (2, 4), "hard": (5, 8)}
GUESS_THINGS = {"plain": (6, 8), "hard": (9, 12)}


def draw_question(
    level: str, split: str, index: int, *, shift: float = 0.0, family: str | None = None, task: str = "vqa"
) -> tuple[Scene, Question]:
    """Sample ``index`` of a split: the same for the same arguments; ``shift`` changes only how the scene is drawn.

    Family, form and the answer of a yes-or-no question are drawn first, each uniformly. Then scenes are drawn until one
    has such a question, so that scenes without one bias nothing.

    Args:
        level: "plain" (2 to 8 things) or "hard" (6 to 12 things, the harder families).
        split: of ``scenes.SPLITS``.
        index: from 0 on.
        shift: see ``scenes.draw_scene``.
        family: of ``questions.FAMILIES``; drawn uniformly from those of the level if None.
        task: part of the key, so that two tasks have different samples.

    Raises:
        KeyError: there is no such level.
        ValueError: there is no such split or family, the split ``comp`` does not ask the family, or the split has no
            shift.
    """
    comp = split == "comp"
    rng = random.Random(seed_of(task, level, split, index))
    least, most = LEVELS[level]
    draw = Draw(rng, rng.random() < 0.5, comp)
    form = draw.pick(forms_of(family or draw.pick(families(level, comp)), comp))
    count = (max(least, form.least), most)
    while True:
        scene = draw_scene(rng, count, split, odd=form.odd, digits=form.digits, shift=shift)
        question = write(form, scene, draw)
        if question is not None:
            return scene, question


def draw_caption(level: str, split: str, index: int, *, shift: float = 0.0) -> tuple[Scene, str]:
    """Sample ``index`` of a split: a scene and a right caption, the same for the same arguments.

    In the split ``comp`` plates have held-out colours alone and the caption states a held-out relation. Arguments and
    errors are those of ``draw_question``; a scene has 2 to 4 things at the level "plain" and 5 to 8 at "hard".
    """
    rng = random.Random(seed_of("captioning", level, split, index))
    while True:
        scene = draw_scene(rng, CAPTION_THINGS[level], split, shift=shift)
        caption = write_caption(scene, rng, split == "comp")
        if caption is not None:
            return scene, caption


def draw_guess(level: str, split: str, index: int, *, shift: float = 0.0) -> tuple[Scene, Thing]:
    """Sample ``index`` of a split: a scene without two things of one concept, and the thing that the user has in mind.

    Arguments and errors are those of ``draw_question``; a scene has 6 to 8 things at the level "plain" and 9 to 12 at
    "hard".
    """
    rng = random.Random(seed_of("guess", level, split, index))
    least = GUESS_THINGS[level][0]
    while True:
        scene = draw_scene(rng, GUESS_THINGS[level], split, distinct=True, shift=shift)
        if len(scene.things) >= least:
            return scene, scene.things[int(rng.random() * len(scene.things))]
