"""Which comparisons to ask annotators about: random ones, those that an ensemble disagrees on, or half of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmenv.feedback.comparison import Comparison

STRATEGIES = ("random", "uncertain", "mixed")
Disagreement = Callable[[Sequence[Comparison]], np.ndarray]


def select(
    candidates: Sequence[Comparison],
    k: int,
    strategy: str = "random",
    disagreement: Disagreement | None = None,
    rng: np.random.Generator | None = None,
) -> list[int]:
    """Indices of ``k`` distinct candidates, in the order to ask about them.

    Args:
        candidates: n comparisons without a judgement.
        k: how many, 0 to n.
        strategy: ``"random"``; ``"uncertain"``: the greatest disagreement first; ``"mixed"``: half by disagreement and
            half at random from the others, all in random order.
        disagreement: candidates -> (n,), how far the models differ about each; not called by ``"random"``.
        rng: source of randomness; also breaks ties in disagreement.

    Raises:
        ValueError: ``k`` or ``strategy`` is out of range, or ``disagreement`` is missing or of the wrong shape.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is unknown: give one of {STRATEGIES}")
    if not 0 <= k <= len(candidates):
        raise ValueError(f"k={k!r} of {len(candidates)} candidates: give 0 to {len(candidates)}")
    rng = rng or np.random.default_rng()
    if strategy == "random":
        return [int(i) for i in rng.permutation(len(candidates))[:k]]
    values = _disagreements(candidates, strategy, disagreement)
    order = np.lexsort((rng.random(len(values)), -values))
    if strategy == "uncertain":
        return [int(i) for i in order[:k]]
    uncertain = -(-k // 2)
    others = rng.permutation(order[uncertain:])[: k - uncertain]
    return [int(i) for i in rng.permutation(np.concatenate([order[:uncertain], others]))]


def _disagreements(candidates: Sequence[Comparison], strategy: str, disagreement: Disagreement | None) -> np.ndarray:
    if disagreement is None:
        raise ValueError(f"strategy={strategy!r} needs disagreement=: pass a function such as an ensemble's ``doubt``")
    values = np.asarray(disagreement(candidates), dtype=np.float64)
    if values.shape != (len(candidates),) or not np.isfinite(values).all():
        raise ValueError(
            f"disagreement gave shape {values.shape} for {len(candidates)} candidates, or values that are not finite: "
            "return one finite number each"
        )
    return values
