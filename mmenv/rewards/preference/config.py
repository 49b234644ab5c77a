"""Settings of the training of preference models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Ties = Literal["davidson", "rao-kupper", "drop"]
Scores = Literal["ordinal", "regression"]


@dataclass(frozen=True)
class RewardConfig:
    """How a preference model learns from comparisons.

    Attributes:
        epochs: passes over the comparisons.
        lr: greatest learning rate of the head.
        batch: comparisons a step.
        seed: of the order of the comparisons, and of the members of an ensemble.
        ties: model of ties: ``"davidson"``, ``"rao-kupper"``, or ``"drop"`` to leave them out.
        margins: use the score gap as a margin in the pairwise loss, where both responses were scored (Llama 2, 2023).
        scores: model of scores without a choice: ``"ordinal"`` grades, or numbers for ``"regression"``.
        l2: weight decay.
        hidden: units of the layers of a new head; the backbone is frozen.

    Raises:
        ValueError: names the field, its value and the remedy.
    """

    epochs: int = 10
    lr: float = 1e-3
    batch: int = 64
    seed: int = 0
    ties: Ties = "davidson"
    margins: bool = False
    scores: Scores = "ordinal"
    l2: float = 0.01
    hidden: int = 128

    def __post_init__(self) -> None:
        for name, allowed in (("ties", get_args(Ties)), ("scores", get_args(Scores))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: give one of {allowed}")
        for name in ("epochs", "batch", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is too small: give 1 or more")
        if not self.lr > 0 or self.l2 < 0:
            raise ValueError(f"lr={self.lr!r}, l2={self.l2!r}: give lr above 0 and l2 of at least 0")
