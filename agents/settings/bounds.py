"""Types of settings that say which numbers they may be, and dataclasses that check their settings when made."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


class Range(NamedTuple):
    """The finite numbers from ``low`` to ``high``; ``above`` and ``below`` exclude the ends."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, int | float)
        high_enough = value > self.low if self.above else value >= self.low
        low_enough = value < self.high if self.below else value <= self.high
        return high_enough and low_enough and math.isfinite(value)

    def __str__(self) -> str:
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high < math.inf:
            ends.append(f"{'below' if self.below else 'at most'} {self.high:.10g}")
        return " and ".join(ends) or "finite"


Finite = Annotated[float, Range()]
Share = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Divisor = Annotated[float, Range(1e-6)]  # of scores and logits: the quotient must fit float32
Nucleus = Annotated[float, Range(1e-6, 1)]
Count = Annotated[int, Range(1, 10**12)]
LaneCount = Annotated[int, Range(1, 10**6)]  # each takes memory
EpisodeCount = Annotated[int, Range(1, 10**6)]
EpisodeCountOrZero = Annotated[int, Range(0, 10**6)]
ClipRange = Annotated[float, Range(0, 1, above=True)]
Rank = Annotated[int, Range(0, 10**4)]  # of adapters
Threads = Annotated[int, Range(1, 1024)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # what NumPy's global generator takes, which stable-baselines3 seeds


@dataclass(frozen=True)
class Checked:
    """A base of frozen dataclasses of settings: types, ranges and conflicts are checked when one is made.

    Raises:
        ValueError: names the setting, its value and the remedy.
    """

    def __post_init__(self) -> None:
        cls: Any = type(self)  # mypy holds no dataclass for hashable
        for name, hint in _hints(cls).items():
            value = getattr(self, name)
            if (expected := mismatch(value, hint)) is not None:
                raise ValueError(f"{name}={value!r}: {flag(self, name)} takes {expected}")
        if (conflict := next(self.conflicts(), None)) is not None:
            raise ValueError(conflict)

    def conflicts(self) -> Iterator[str]:
        """Messages about settings that contradict each other; each names what to change."""
        yield from ()

    def without_effect(self, reason: str, *names: str) -> Iterator[str]:
        """Messages about settings that have no effect in a case, yet differ from their defaults."""
        for name in names:
            if (value := getattr(self, name)) != default_of(type(self), name):
                yield f"{name}={value!r} has no effect ({reason}): leave out {flag(self, name)}"


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """Type hints of the settings of a class, ranges included."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def mismatch(value: Any, hint: Any) -> str | None:
    """What a setting with a type hint takes, where a value is something else; None where it fits.

    Bool is no int; an int is a float.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return mismatch(value, next(a for a in arguments if a is not NoneType))
    if origin is tuple:
        if not isinstance(value, tuple):
            return "a list"
        return next((expected for v in value if (expected := mismatch(v, arguments[0]))), None)
    if origin is Literal:
        return None if value in arguments else f"one of {', '.join(map(repr, arguments))}"
    base, within = arguments if origin is Annotated else (hint, Range())
    kinds = {int: "whole numbers", float: "numbers", bool: "true or false", str: "text"}
    if base not in (int, float):
        return None if isinstance(value, base) else kinds.get(base, f"a {base.__name__}")
    if type(value) in (int, base) and value in within:
        return None
    return f"{kinds[base]} that are {within}"


def flag(config: Any, name: str) -> str:
    """The option of the command line for a setting."""
    return f"--{getattr(config, 'prefix', '')}{name.replace('_', '-')}"


def offered(cls: type) -> list[str]:
    """Names of the settings that a class offers as arguments and options; it fixes the others."""
    return [field.name for field in fields(cls) if field.init]


def default_of(cls: type, name: str) -> Any:
    """The default of a setting."""
    return next(field.default for field in fields(cls) if field.name == name)
