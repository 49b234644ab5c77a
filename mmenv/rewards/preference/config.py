"""How a preference model learns: the one home of its defaults."""

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
        ties: model of ties: Davidson (1970), Rao and Kupper (1967), or none: ties are dropped.
        margins: whether a choice between two that were also scored must be clear by the difference of the scores.
        scores: how scores without a choice are read: as ordinal grades, or as numbers for regression.
        l2: weight decay.
        hidden: units of a new head's layers: the size of the model, whose backbone is frozen.

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
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {allowed}: give one of these")
        for name in ("epochs", "batch", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is not positive: give 1 or more")
        if not self.lr > 0 or self.l2 < 0:
            raise ValueError(f"lr={self.lr!r}, l2={self.l2!r}: give lr above 0 and l2 of at least 0")
