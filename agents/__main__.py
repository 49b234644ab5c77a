"""python -m agents ALGORITHM --env-id ID --seed S --total-tokens N --out DIR, or --resume DIR.

``ALGORITHM`` is one of ``agents.trainer.ALGORITHMS``, or ``rlhf`` for the loop around them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym

import mmenv

try:
    import tyro

    from agents import runs, trainer
    from agents.config import RLHFConfig
    from agents.trainer import ALGORITHMS, Trainer
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is missing: pip install -c constraints.txt -e '.[agents]'")

INTERRUPTED = 130  # as a shell reports it


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 130 when interrupted, 1 for an error, 2 for a wrong call."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0].startswith("--resume"):
        arguments.insert(0, next(iter(ALGORITHMS)))  # the run's config.json names the real one
    if not arguments or arguments[0] not in (*ALGORITHMS, "rlhf"):
        print(f"usage: python -m agents {{{','.join(ALGORITHMS)},rlhf}} [--help] [--resume DIR] ...")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    name, *rest = arguments
    rest = [part for word in rest for part in (word.split("=", 1) if word.startswith("--resume=") else [word])]
    if "--resume" in rest and (len(rest) != 2 or rest[0] != "--resume"):
        print("--resume takes the run's folder and nothing else: its config.json says the rest")
        return 2
    try:
        training = _resume(Path(rest[1])) if "--resume" in rest else _begin(name, rest)
        return INTERRUPTED if training.train() is None else 0
    except KeyboardInterrupt:
        print("interrupted at once: --resume goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except (gym.error.Error, mmenv.RewardError, FileNotFoundError, FloatingPointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


class Training(Protocol):
    """A run, or a loop of them."""

    def train(self) -> Any:
        """To the end; None when an interrupt came first."""


def _begin(name: str, arguments: list[str]) -> Training:
    cls = RLHFConfig if name == "rlhf" else ALGORITHMS[name][1]
    config = tyro.cli(cls, prog=f"python -m agents {name}", args=arguments)
    if isinstance(config, RLHFConfig):
        from agents.rlhf import Loop  # needs the labelling extra

        return Loop(config, Path(config.folder))
    return Trainer(name, config, Path(config.folder(name)))


def _resume(folder: Path) -> Training:
    if runs.algorithm_of(folder) != "rlhf":
        return trainer.resume(folder)
    from agents.rlhf import resume

    return resume(folder)


if __name__ == "__main__":
    sys.exit(main())
