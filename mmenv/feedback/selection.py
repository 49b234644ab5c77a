"""What to ask people: at random, where an ensemble is in doubt, or half of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmenv.feedback.comparison import Comparison

STRATEGIES = ("random", "uncertain", "mixed")
Doubt = Callable[[Sequence[Comparison]], np.ndarray]


def select(
    candidates: Sequence[Comparison],
    k: int,
    strategy: str = "random",
    disagreement: Doubt | None = None,
    rng: np.random.Generator | None = None,
) -> list[int]:
    """Numbers of ``k`` distinct candidates, in the order to ask them.

    Args:
        candidates: comparisons that nobody has judged.
        k: how many, at most all.
        strategy: ``"random"``; ``"uncertain"``: the greatest disagreement first; ``"mixed"``: half of them so, the rest
            drawn from all others, in random order, so that a person meets both.
        disagreement: candidates (n) -> (n,), how far models differ about each; not called by ``"random"``.
        rng: source of randomness; also breaks ties in disagreement.

    Raises:
        ValueError: ``k`` or ``strategy`` is out of range, or ``disagreement`` is missing or of the wrong shape.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is none of {STRATEGIES}: give one of these")
    if not 0 <= k <= len(candidates):
        raise ValueError(f"k={k!r} of {len(candidates)} candidates: give 0 to {len(candidates)}")
    rng = rng or np.random.default_rng()
    if strategy == "random":
        return [int(i) for i in rng.permutation(len(candidates))[:k]]
    doubt = _doubt(candidates, strategy, disagreement)
    order = np.lexsort((rng.random(len(doubt)), -doubt))
    if strategy == "uncertain":
        return [int(i) for i in order[:k]]
    asked = -(-k // 2)
    rest = rng.permutation(order[asked:])[: k - asked]
    return [int(i) for i in rng.permutation(np.concatenate([order[:asked], rest]))]


def _doubt(candidates: Sequence[Comparison], strategy: str, disagreement: Doubt | None) -> np.ndarray:
    if disagreement is None:
        raise ValueError(f"strategy={strategy!r} needs disagreement=: pass what an ensemble's ``doubt`` says of each")
    doubt = np.asarray(disagreement(candidates), dtype=np.float64)
    if doubt.shape != (len(candidates),) or not np.isfinite(doubt).all():
        raise ValueError(
            f"disagreement gave shape {doubt.shape} for {len(candidates)} candidates, or values that are not finite: "
            "return one finite number each"
        )
    return doubt
