"""Settings that a run's config.json holds, as the dataclass that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from agents.files import RunError, damaged, read_json

Settings = TypeVar("Settings")


def read_settings(path: Path, cls: type[Settings], complete: bool = True) -> Settings:
    """The settings of a run's ``config.json``.

    Args:
        path: of the file.
        cls: their dataclass.
        complete: whether the file must hold the settings of ``cls`` and no others; else only those of ``cls`` are read,
            and the ones that the file lacks have their defaults.

    Raises:
        RunError: a setting is unknown, missing, or has a value that ``cls`` refuses.
    """
    values = {name: value for name, value in read_json(path).items() if name != "algorithm"}
    names = {field.name for field in fields(cls) if field.init}  # type: ignore[arg-type]
    if not complete:
        values = {name: value for name, value in values.items() if name in names}
    elif lacking := names - values.keys():
        raise damaged(path, f"lacks the setting {min(lacking)!r}")
    return settings_from(path, values, cls)


def settings_from(path: Path, values: Mapping[str, Any], cls: type[Settings]) -> Settings:
    """A dataclass of settings from values that were read from a file.

    Raises:
        RunError: a setting is unknown, or has a value that ``cls`` refuses.
    """
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for field in fields(cls):  # type: ignore[arg-type]
        if not field.init and arguments.get(field.name) == field.default:
            arguments.pop(field.name, None)
    accepted = {field.name for field in fields(cls) if field.init}  # type: ignore[arg-type]
    if unknown := arguments.keys() - accepted:
        raise damaged(path, f"has a setting {min(unknown)!r} that {cls.__name__} of this release does not take")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise RunError(f"{path}: {error}") from error
