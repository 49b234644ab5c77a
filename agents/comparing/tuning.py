"""Random search, for every algorithm alike: as many trials, one space, the validation split, seeds of its own."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.comparing.grid import Cell
from agents.settings.bounds import offered

# Log-uniform, (lowest, highest); an algorithm without such a setting is not given one.
SPACE = {"learning_rate": (1e-4, 2e-3), "kl_coef": (0.02, 0.3)}
FIRST_SEED = 1_000_000  # far from those of the comparison


def trials(cell: Cell, config: type, n: int) -> list[Cell]:
    """``n`` trials of what ``cell`` is one run of: the first has the settings as they are, the others are drawn.

    Args:
        cell: any run of the algorithm on the id.
        config: the dataclass of the algorithm's settings.
        n: number of trials; none are made where there is nothing to vary.
    """
    # The same trials whatever else is in the comparison.
    rng = np.random.default_rng(zlib.crc32(f"{cell.label} {cell.env_id}".encode()))
    names = set(offered(config)) & SPACE.keys()
    free = sorted(name for name in names if _flag(name) not in cell.settings)  # what is given stays
    if not free:
        return []
    return [
        cell._replace(
            label=f"{cell.label}.trial",
            seed=FIRST_SEED + k,
            settings=(*cell.settings, "--final-split", "validation", *(_draw(free, rng) if k else ())),
        )
        for k in range(n)
    ]


def _draw(names: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    words = []
    for name in names:
        low, high = np.log(SPACE[name])
        words += [_flag(name), f"{np.exp(rng.uniform(low, high)):.3g}"]
    return tuple(words)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def best(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The drawn settings of the trial with the most gold, or reward where no gold is known; none where all failed.

    Gold of the validation split: choosing by the reward that is being over-optimised would choose what hacks it.
    """
    done = [r for r in rows if r["status"] == "done"]
    if not done:
        return ()
    score = "gold" if all(r["gold"]["after"] is not None for r in done) else "reward"
    words = max(done, key=lambda r: r[score]["after"])["settings"]
    return tuple(words[words.index("--final-split") + 2 :])
