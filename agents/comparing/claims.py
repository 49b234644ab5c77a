"""Sentences about which algorithm is ahead. The paired tests alone decide them; nobody writes one by hand.

``a`` is ahead of ``b`` where the p of the sign-flip test, corrected for all pairs of its table, is below 2.5%, and the
95% interval of the difference does not contain 0. Both must hold: the interval of few seeds is too narrow, and the test
gives no size. ``false_claims`` checks the rule on two copies of one algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agents.comparing.aggregate import Cells
from agents.comparing.paired_tests import PairedTest, paired_tests
from agents.comparing.tables import as_text, p_text

# Half of 5%: at 5% itself chance alone lets every other check of two equal copies in 200 grids exceed 5%.
P = 0.025


def differs(test: PairedTest) -> bool:
    """Whether a paired test says that one of two algorithms is ahead."""
    outside = test.difference.low > 0 or test.difference.high < 0
    return bool(test.p_corrected < P and outside)


def sentences(tests: Sequence[PairedTest], score: str) -> list[str]:
    """A sentence for every pair in which one is ahead, the largest difference first, and one about all other pairs.

    Args:
        tests: all that were corrected together.
        score: what was compared, such as greedy gold.
    """
    ahead = sorted(filter(differs, tests), key=lambda test: -abs(float(test.difference.value)))
    lines = [_sentence(test, score, len(tests)) for test in ahead]
    others = len(tests) - len(ahead)
    if others:
        rest = "Of the other" if ahead else "Of"
        pairs = "pair" if others == 1 else "pairs"
        lines.append(f"{rest} {others} {pairs} nothing is claimed: chance may explain the difference in {score}.")
    return lines


def _sentence(test: PairedTest, score: str, pairs: int) -> str:
    difference = test.difference
    first, second = test.x, test.y
    if difference.value < 0:
        first, second = second, first
        difference = difference._replace(value=-difference.value, low=-difference.high, high=-difference.low)
    return (
        f"`{first}` is ahead of `{second}` in {score} by {as_text(difference)} "
        f"(p {_p(test.p_corrected)}, corrected over {pairs} pairs; {test.pairs} paired runs)."
    )


def _p(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def false_claims(cells: Cells, grids: int = 200, seeds: int = 5, rng: np.random.Generator | int = 0) -> float:
    """How often two copies of one algorithm are said to differ: the share of grids that are resampled from its runs.

    Each grid has two copies with ``seeds`` runs on every task. The runs of a task are drawn without replacement, so
    that no run is in both copies; a run of one copy is paired with a run of the other at random.

    Args:
        cells: (task, seed) -> score, of one algorithm; ten runs a task for two copies of five.
        grids: how many are drawn.
        seeds: runs of each copy on each task.
        rng: source of randomness, or a seed.

    Raises:
        ValueError: a task has too few runs.
    """
    rng = np.random.default_rng(rng)
    by_task: dict[str, list[float]] = {}
    for (task, _), score in sorted(cells.items()):
        by_task.setdefault(task, []).append(score)
    for task, values in by_task.items():
        if len(values) < 2 * seeds:
            raise ValueError(f"{task} has {len(values)} runs: two copies of {seeds} take {2 * seeds}")
    claims = [differs(*paired_tests(_copies(by_task, seeds, rng), rng=rng)) for _ in range(grids)]
    return float(np.mean(claims))


def _copies(by_task: Mapping[str, Sequence[float]], seeds: int, rng: np.random.Generator) -> dict[str, Cells]:
    """Two copies with different runs of the same tasks, by name."""
    copies: dict[str, dict[tuple[str, int], float]] = {"copy A": {}, "copy B": {}}
    for task, values in by_task.items():
        drawn = rng.permutation(np.asarray(values, dtype=float))[: 2 * seeds]
        for seed in range(seeds):
            copies["copy A"][task, seed] = float(drawn[seed])
            copies["copy B"][task, seed] = float(drawn[seeds + seed])
    return dict(copies)
