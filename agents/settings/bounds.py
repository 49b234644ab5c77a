"""What settings may be: the bounds of every number by its name, and settings that contradict each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The numbers from ``low`` to ``high``; ``above`` and ``below`` leave out the ends themselves."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        return (self.low < value or (self.low == value and not self.above)) and (
            value < self.high or (value == self.high < math.inf and not self.below)
        )

    def __str__(self) -> str:
        least = f"{'above' if self.above else 'at least'} {self.low:g}" if self.low > -math.inf else ""
        most = f"{'below' if self.below else 'at most'} {self.high:.10g}" if self.high < math.inf else ""
        return " and ".join(filter(None, (least, most))) or "finite"


FINITE = Range(-math.inf, above=True)
SHARE = Range(0, 1)
NONNEGATIVE = Range(0)
POSITIVE = Range(0, above=True)
DIVISOR = Range(1e-6)  # of scores and logits: float32 holds what comes of it
COUNT = Range(1, 10**12)  # beyond it nothing could be counted, nor kept
SEED = Range(0, 2**32 - 1)  # what NumPy's global generator takes, which stable-baselines3 seeds

# One entry for every number of agents/settings/shared.py and of agents.integrations.sb3.SB3Config; a class with
# another range for a name says so in its ``bounds``.
BOUNDS: dict[str, Range] = {
    **dict.fromkeys(
        (
            "total_tokens", "responses_per_context", "epochs", "minibatches", "micro_batches",
            "checkpoint_every", "kl_horizon", "mask_every", "n", "pairs", "seeds", "jobs", "runs", "labels",
            "members", "hidden", "held_out", "contexts", "rounds", "pool", "overlap",
        ),
        COUNT,
    ),
    **dict.fromkeys(
        (
            "final_learning_rate", "missing_eos_penalty", "eval_every", "stop_at_kl",
            "max_seconds", "value_clip", "value_coef", "entropy_coef", "kl_coef", "kl_target", "clip_high", "retries",
            "run_seconds", "tune", "beta", "weight", "n_steps", "watch_every",
        ),
        NONNEGATIVE,
    ),
    **dict.fromkeys(("learning_rate", "adam_eps", "max_grad_norm"), POSITIVE),
    **dict.fromkeys(("temperature", "label_temperature"), DIVISOR),
    **dict.fromkeys(("gamma", "gae_lambda", "baseline_decay", "flip"), SHARE),
    **dict.fromkeys(("top_p", "mask_top_p"), Range(1e-6, 1)),
    "clip_coef": Range(0, 1, above=True),
    **dict.fromkeys(("num_envs", "episodes"), Range(1, 10**6)),  # lanes that take memory, ids that are listed
    "eval_episodes": Range(0, 10**6),
    "lora_rank": Range(0, 10**4),
    **dict.fromkeys(("seed", "first_seed"), SEED),
    "threads": Range(0, 1024),
    "best_of": Range(3),  # a fit needs two distances beyond the start
    "length_bias": FINITE,
    "port": Range(1, 65_535),
}  # fmt: skip


def flag(config: Any, name: str) -> str:
    """A setting as the command line has it."""
    return f"--{getattr(config, 'prefix', '')}{name.replace('_', '-')}"


def check(config: Any) -> None:
    """Refuse a configuration with a number out of bounds, or settings that conflict.

    Raises:
        ValueError: names the setting, its value and the remedy.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        ranges = {**BOUNDS, **getattr(config, "bounds", {})}
        within = ranges.get(field.name, ranges.get(field.name.removeprefix("vary_"), FINITE))
        whole = "int" in str(field.type)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if number not in within or (whole and not isinstance(number, int)):
                kind = "whole numbers" if whole else "numbers"
                raise ValueError(f"{field.name}={number}: {flag(config, field.name)} takes {kind} that are {within}")
    if conflict := next(config.conflicts(), None):
        raise ValueError(conflict)


def changed(config: Any, reason: str, *names: str) -> Iterator[str]:
    """What is wrong with settings that have no effect in a case: they differ from their defaults."""
    for name in names:
        if (value := getattr(config, name)) != default_of(type(config), name):
            yield f"{name}={value!r} has no effect ({reason}): leave out {flag(config, name)}"


class Checked:
    """A base of frozen dataclasses of settings: they are checked as they are made."""

    def __post_init__(self) -> None:
        check(self)

    def conflicts(self) -> Iterator[str]:
        """What is wrong with settings together; each names what to change."""
        return iter(())


def offered(cls: type) -> list[str]:
    """Names of the settings that a class offers: it fixes the others."""
    return [field.name for field in fields(cls) if field.init]


def default_of(cls: type, name: str) -> Any:
    """The default of a setting."""
    return next(field.default for field in fields(cls) if field.name == name)
