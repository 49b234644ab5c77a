"""Argument checks that all rooms share, and the one message for a missing extra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


class ArgumentError(ValueError):
    """An argument is out of range; the message names the argument, its value and the remedy."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument is unknown or has the wrong type."""


class MissingExtraError(ModuleNotFoundError):
    """A package of an optional extra is not installed; the message has the command that installs it."""


@contextmanager
def require(extra: str) -> Iterator[None]:
    """Import packages of an extra in this context: ``with require("serve"): import httpx``.

    Args:
        extra: name of the extra in pyproject.toml that brings the packages.

    Raises:
        MissingExtraError: a package is not installed.
    """
    try:
        yield
    except MissingExtraError:
        raise  # a module imported here needs another extra, and has said which
    except ModuleNotFoundError as error:
        command = f'pip install -c constraints.txt -e ".[{extra}]"'
        raise MissingExtraError(f"{error.name} is missing: {command}", name=error.name) from error


def refuse_unknown(where: str, arguments: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Refuse keyword arguments that ``where`` does not take.

    The message has CPython's wording: TorchRL's GymEnv tries ``frameskip`` first and looks for these words.

    Raises:
        ArgumentTypeError: names the first unknown argument, its value, and the arguments that exist.
    """
    for name, value in arguments.items():
        if name not in allowed:
            raise ArgumentTypeError(
                f"{where} got an unexpected keyword argument {name!r} (value {value!r}); it takes {', '.join(allowed)}"
            )


def integer(name: str, value: Any, remedy: str) -> int:
    """Check that ``value`` is an integer, of Python or numpy, and no bool.

    Args:
        remedy: end of the message, such as ``"give 1 or more"``.

    Raises:
        ArgumentTypeError: it is not.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ArgumentTypeError(f"{name}={value!r} is not an integer: {remedy}")
    return int(value)


def positive(name: str, value: Any) -> int:
    """Check that ``value`` is an integer of 1 or more.

    Raises:
        ArgumentError: it is not.
    """
    number = integer(name, value, "give 1 or more")
    if number < 1:
        raise ArgumentError(f"{name}={value!r} is too small: give 1 or more")
    return number


def boolean(name: str, value: Any) -> bool:
    """Check that ``value`` is a bool, of Python or numpy.

    Raises:
        ArgumentTypeError: it is not.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentTypeError(f"{name}={value!r} is not a bool: give True or False")
    return bool(value)


def share(name: str, value: Any) -> float:
    """A number in [0, 1].

    Args:
        name: of the argument, for the message.
        value: what was given.

    Raises:
        ArgumentError: it is no number or lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"{name}={value!r} is not a number: give one from 0 to 1")
    if not 0 <= value <= 1:
        raise ArgumentError(f"{name}={value!r} is outside [0, 1]: give a number from 0 to 1")
    return float(value)


def one_of(name: str, value: Any, allowed: Sequence[str | None]) -> Any:
    """Check that ``value`` is one of the ``allowed`` strings; None counts where it is among them.

    Raises:
        ArgumentError: it is not.
    """
    if not isinstance(value, str | None):
        raise ArgumentTypeError(f"{name}={value!r} is not a string: give one of {tuple(allowed)}")
    if value not in allowed:
        raise ArgumentError(f"{name}={value!r} is unknown: give one of {tuple(allowed)}")
    return value
