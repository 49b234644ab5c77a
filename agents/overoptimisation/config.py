"""Settings of the over-optimisation study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from agents.comparing.config import GridConfig
from agents.settings.bounds import Count, Divisor, NonNegative, Nucleus, Positive, Range

# What is varied: settings of the preference model, and the cost of KL.
FACTORS = ("labels", "flip", "members", "hidden", "kl_coef")
Flip = Annotated[float, Range(0, 0.5)]


@dataclass(frozen=True, kw_only=True)
class OveroptimiseConfig(GridConfig):
    """Gold while a learned reward is optimised, by several algorithms and against preference models of many kinds."""

    env_id: str = "mmenv/VQA-v0"
    """Id to train on; its gold must be known."""
    start: str | None = None
    """Weights of the start: a shipped name or a path; None takes the shipped start of the task."""
    seeds: Count = 3
    """Runs of each kind, each against a preference model of its own."""
    total_tokens: Count = 40_000
    """Tokens of each run."""
    algorithms: tuple[str, ...] = ("ppo", "rloo", "grpo", "reinforce")
    """Names, or package.module:Class; the first is the one that trains against the varied models. Best of n is always
    there."""
    labels: Count = 1000
    """Comparisons of the start's responses that a preference model learns from."""
    flip: Flip = 0.1
    """Share of flipped labels."""
    members: Count = 1
    """Preference models in the ensemble; more than one pay their mean less their variance."""
    hidden: Count = 128
    """Units of the head's layer."""
    kl_coef: NonNegative = 0.01
    """Cost of one nat of KL to the start."""
    temperature: Divisor = 1.0
    """Logits are divided by it: by the algorithms, for best of n, and for the responses that are compared."""
    top_p: Nucleus = 1.0
    """Only the likeliest tokens with this probability together are said, everywhere alike."""
    vary_labels: tuple[Count, ...] = (100, 300, 3000)
    """Other numbers of labels, all else being equal."""
    vary_flip: tuple[Flip, ...] = (0.0, 0.25)
    """Other shares of flipped labels."""
    vary_members: tuple[Count, ...] = (5,)
    """Other ensembles."""
    vary_hidden: tuple[Count, ...] = (16,)
    """Other sizes."""
    vary_kl_coef: tuple[NonNegative, ...] = (0.0, 0.05)
    """Other costs of KL."""
    learning_rate: Positive = 1e-3
    """Step size from beginning to end: over-optimisation is quick where steps do not shrink."""
    held_out: Count = 1000
    """Pairs of the validation split on which a preference model's agreement with gold is measured."""
    best_of: Annotated[int, Range(3)] = 64
    """Responses of the start to each context among which best of n chooses, for all n up to it (at least 3)."""
    contexts: Count = 256
    """Contexts of the training split that best of n is measured on, others for every seed."""

    def conflicts(self) -> Iterator[str]:
        if not self.algorithms or len(set(self.algorithms)) < len(self.algorithms):
            yield f"algorithms={self.algorithms}: give at least one, and each once"
        if "best-of-n" in self.algorithms:
            yield f"algorithms={self.algorithms}: leave out best-of-n, it is always there, for all n"
        for factor in FACTORS:
            values = (getattr(self, factor), *getattr(self, f"vary_{factor}"))
            if len(set(values)) < len(values):
                yield f"vary_{factor}={values[1:]}: give each once, and not {factor}={values[0]} again"
