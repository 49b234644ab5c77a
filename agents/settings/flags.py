"""Options of a command line: for one that does not exist the error names the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import get_type_hints

from agents.settings.bounds import offered

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


def check_options(cls: type, name: str, arguments: Sequence[str]) -> None:
    """Refuse an option that does not exist where another is near.

    Args:
        cls: dataclass of the command's settings.
        name: of the command.
        arguments: the words that follow it.

    Raises:
        ValueError: names the option that was meant.
    """
    options = _options(cls)
    for word in arguments:
        option = word.partition("=")[0].removeprefix("--").replace("_", "-")
        if not word.startswith("--") or option in options or option in ("", "help"):
            continue
        group, _, last = option.rpartition(".")
        nested = f"{group}.{ELSEWHERE.get(last)}".lstrip(".")
        near = [nested] if nested in options else difflib.get_close_matches(option, sorted(options), 1)
        if near:
            raise ValueError(f"{name} has no option --{option}: did you mean --{near[0]}?")


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
