"""Settings of a grid's runs: what all of them share, and what ``--settings ALGORITHM/NAME=VALUE`` changes for one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_type_hints

import tyro

from agents.comparing.config import GridConfig
from agents.settings.bounds import offered
from agents.training.launch import config_class


def shared_overrides(config: GridConfig, reward: str | None = None) -> dict[str, Any]:
    """Budget, evaluation and reward of every run of a grid; no reward leaves it to the id."""
    overrides: dict[str, Any] = {"reward": reward} if reward is not None else {}
    overrides |= {"total_tokens": config.total_tokens, "eval_episodes": config.eval_episodes}
    limits = {name: getattr(config, name) for name in ("max_seconds", "stop_at_kl")}
    return overrides | {name: value for name, value in limits.items() if value is not None}


def overrides_of(label: str, algorithm: str, settings: tuple[str, ...], shared: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of one label's runs that differ from the defaults of its algorithm.

    Args:
        label: the algorithm's row in tables.
        algorithm: a name, or ``package.module:Class``.
        settings: of all labels, as LABEL/NAME=VALUE.
        shared: what all runs have; a setting of the label's own replaces it.

    Raises:
        ValueError: a setting does not exist, cannot be read, is out of bounds, or conflicts with another.
    """
    cls = config_class(algorithm)
    names, kinds, overrides = offered(cls), get_type_hints(cls), dict(shared)
    for setting in settings:
        owner, name, text = split_setting(setting)
        if owner != label:
            continue
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            meant = f", but {near[0].replace('_', '-')}" if near else ""
            raise ValueError(f"settings={setting!r}: {algorithm} has no {name.replace('_', '-')!r}{meant}")
        overrides[name] = _value(setting, text, kinds[name])
    cls(**overrides)  # checks bounds and conflicts
    return overrides


def split_setting(setting: str) -> tuple[str, str, str]:
    """Label, field name and text of the value of ``LABEL/NAME=VALUE``.

    Raises:
        ValueError: the setting has another form.
    """
    left, equals, text = setting.partition("=")
    label, slash, name = left.rpartition("/")
    if not (equals and slash):
        raise ValueError(f"settings={setting!r}: write it as ALGORITHM/NAME=VALUE, ppo/kl-coef=0.1")
    return label, name.replace("-", "_"), text


def _value(setting: str, text: str, kind: Any) -> Any:
    """A value as the command line would read it; of a tuple the words are its items."""
    words = text.split() if "tuple" in str(kind) else [text]
    try:
        return tyro.cli(kind, args=words, console_outputs=False)
    except SystemExit as error:
        raise ValueError(f"settings={setting!r}: {text!r} is no value of type {kind}") from error
