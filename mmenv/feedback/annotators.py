"""Synthetic annotators: they prefer by gold, with a temperature, slips, and on request a bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmenv.data.sample import Response


@dataclass(frozen=True)
class SyntheticAnnotator:
    """Prefers the first of two responses with probability sigmoid((u1 - u2) / temperature), u = gold + bias * length.

    Attributes:
        temperature: 0 always prefers the greater utility; ties are then a coin's toss.
        flip: share of labels turned round at random.
        length_bias: utility of one more token.
    """

    temperature: float = 0.1
    flip: float = 0.0
    length_bias: float = 0.0

    def prefer(self, pairs: list[tuple[Response, Response]], gold: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Index of the preferred response of each pair.

        Args:
            pairs: n pairs of responses.
            gold: (n, 2)
            rng: source of randomness.

        Returns:
            int64 (n,) of 0 and 1.
        """
        lengths = np.array([[len(r.tokens) for r in pair] for pair in pairs], dtype=np.float64).reshape(-1, 2)
        utility = gold + self.length_bias * lengths
        gap = utility[:, 1] - utility[:, 0]
        if self.temperature > 0:
            second = rng.random(len(gap)) < 1 / (1 + np.exp(-gap / self.temperature))
        else:
            second = np.where(gap == 0, rng.random(len(gap)) < 0.5, gap > 0)
        return (second ^ (rng.random(len(gap)) < self.flip)).astype(np.int64)
