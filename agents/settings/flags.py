"""Settings from a command line; for an unknown option the error names the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

import tyro

from agents.settings.bounds import offered

Settings = TypeVar("Settings")

# Options of other libraries -> their names here.
ELSEWHERE = {
    "lr": "learning-rate", "steps": "total-tokens", "total-steps": "total-tokens", "timesteps": "total-tokens",
    "total-timesteps": "total-tokens", "max-steps": "total-tokens", "batch-size": "num-envs", "n-envs": "num-envs",
    "num-generations": "responses-per-context", "group-size": "responses-per-context", "n-epochs": "epochs",
    "num-train-epochs": "epochs", "num-epochs": "epochs", "beta": "kl-coef", "ent-coef": "entropy-coef",
    "vf-coef": "value-coef", "clip-range": "clip-coef", "cliprange": "clip-coef", "epsilon": "clip-coef",
    "target-kl": "kl-target", "lam": "gae-lambda", "output-dir": "out", "output": "out", "model": "start",
    "env": "env-id", "force": "overwrite", "num-samples": "n",
}  # fmt: skip


def parse(cls: type[Settings], name: str, arguments: Sequence[str], config: Sequence[Any] = ()) -> Settings:
    """Settings of a command.

    Args:
        cls: their dataclass.
        name: of the command.
        arguments: what follows it.
        config: markers for tyro.

    Raises:
        ValueError: there is no such option and another is near; the message names it.
    """
    options = _options(cls)
    for word in arguments:
        option = word.partition("=")[0].removeprefix("--").replace("_", "-")
        if not word.startswith("--") or option in options or option in ("", "help"):
            continue
        group, _, last = option.rpartition(".")
        meant = f"{group}.{ELSEWHERE.get(last)}".lstrip(".")
        near = [meant] if meant in options else difflib.get_close_matches(option, sorted(options), 1)
        if near:
            raise ValueError(f"{name} has no option --{option}: did you mean --{near[0]}?")
    return tyro.cli(cls, prog=f"python -m agents {name}", args=arguments, config=tuple(config))


def _options(cls: type) -> set[str]:
    """All options of a dataclass; those of a nested dataclass have its name and a point in front."""
    options = set()
    hints = get_type_hints(cls)
    for field in offered(cls):
        option = field.replace("_", "-")
        if dataclasses.is_dataclass(hints[field]):
            options |= {f"{option}.{within}" for within in _options(hints[field])}
        else:
            options |= {option, f"no-{option}"} if hints[field] is bool else {option}
    return options
