"""What a scene costs, to draw, with a question, and to paint, in microseconds of processor time.

python -m benchmarks.scenes
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable

import numpy as np

from mmenv.worlds.painter import paint
from mmenv.worlds.questions import Question
from mmenv.worlds.samples import draw_question
from mmenv.worlds.scenes import LEVELS, Scene, draw_scene, seed_of

SCENES, REPEATS = 1000, 5


def scene_of(level: str, index: int) -> Scene:
    """A scene of the training split, as a task draws it."""
    return draw_scene(random.Random(seed_of("benchmark", level, "train", index)), LEVELS[level])


def sample_of(level: str, index: int) -> tuple[Scene, Question]:
    """A scene with a question; some scenes are drawn in vain for it."""
    return draw_question(level, "train", index)


def painted(scenes: list[Scene], index: int) -> np.ndarray:
    """The picture of one of the scenes."""
    return paint(scenes[index])


def microseconds(call: Callable[[int], object]) -> float:
    """Mean over ``SCENES`` indices, the best of ``REPEATS`` rounds: others' load only ever adds."""
    rounds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        for index in range(SCENES):
            call(index)
        rounds.append((time.process_time() - begun) / SCENES)
    return 1e6 * min(rounds)


def main() -> None:
    for level in LEVELS:
        scenes = [scene_of(level, index) for index in range(SCENES)]
        drawing = microseconds(functools.partial(scene_of, level))
        asking = microseconds(functools.partial(sample_of, level))
        painting = microseconds(functools.partial(painted, scenes))
        print(
            f"{level}: {drawing:.0f} us to draw a scene, {asking:.0f} us with a question, {painting:.0f} us to paint it"
        )


if __name__ == "__main__":
    main()
