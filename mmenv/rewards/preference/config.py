"""Settings of preference models and of their training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Ties = Literal["davidson", "rao-kupper", "drop"]
Scores = Literal["ordinal", "regression"]
HeadKind = Literal["last", "mean", "sum"]
Trained = Literal["all", "upper", "head"]


@dataclass(frozen=True)
class RewardConfig:
    """What a preference model is made of and how it learns from comparisons.

    Attributes:
        epochs: passes over the comparisons.
        lr: greatest learning rate of the head.
        backbone_lr: greatest learning rate of the backbone; without effect, and refused, where the head alone is
            trained.
        batch: comparisons a step.
        seed: of the order of the comparisons, of new heads, and of the members of an ensemble.
        ties: model of ties: ``"davidson"``, ``"rao-kupper"``, or ``"drop"`` to leave them out.
        margins: use the score gap as a margin in the pairwise loss, where both responses were scored (Llama 2, 2023).
        scores: model of scores without a choice: ``"ordinal"`` grades, or numbers for ``"regression"``.
        l2: weight decay.
        centre: weight of the squared mean score of a comparison's responses, in the loss (Eisenstein et al. 2023).
            Comparisons say nothing about how the scores of one context lie beside those of another; without this
            penalty most of the variance of a reward is between contexts, and hides what a response changes.
        trained: ``"all"`` fine-tunes the backbone with the head, its media encoders excepted; ``"upper"`` the upper
            half of its blocks, which halves the file and spares the backward pass below; ``"head"`` leaves it as it
            is, so that an ensemble reads once and its file is small.
        head: what a new head reads: the ``"last"`` state; or each token with the state before it, of whose
            log-probabilities it takes the ``"mean"`` or the ``"sum"``.
        hidden: units of the layer of a new head.

    Raises:
        ValueError: names the field, its value and the remedy.
    """

    epochs: int = 3
    lr: float = 1e-3
    backbone_lr: float = 5e-4
    batch: int = 64
    seed: int = 0
    ties: Ties = "davidson"
    margins: bool = False
    scores: Scores = "ordinal"
    l2: float = 0.01
    centre: float = 0.01
    trained: Trained = "all"
    head: HeadKind = "sum"
    hidden: int = 128

    def __post_init__(self) -> None:
        choices = {"ties": Ties, "scores": Scores, "trained": Trained, "head": HeadKind}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: give one of {get_args(allowed)}")
        for name in ("epochs", "batch", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is too small: give 1 or more")
        for name in ("lr", "backbone_lr"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is no learning rate: give more than 0, less than 1")
        for name in ("l2", "centre"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} is no weight in a loss: give 0 or more")
        if self.trained == "head" and self.backbone_lr != RewardConfig.backbone_lr:
            raise ValueError(
                f"backbone_lr={self.backbone_lr!r} has no effect with trained='head': leave it out, or give "
                "trained='all'"
            )
