"""python -m agents ALGORITHM --env-id ID --seed S --total-tokens N --out DIR, or --resume DIR."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

import mmenv
from agents.trainer import ALGORITHMS, Trainer, resume


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 130 when interrupted, 2 for a wrong call."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] == "--resume":
        arguments.insert(0, "ppo")
    if not arguments or arguments[0] not in ALGORITHMS:
        print(f"usage: python -m agents {{{','.join(ALGORITHMS)}}} [--help] [--resume DIR] ...")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    name, *rest = arguments
    try:
        if "--resume" in rest:
            at = rest.index("--resume")
            if at + 1 == len(rest) or len(rest) > 2:
                print("--resume takes the run's folder and nothing else: its config.json says the rest")
                return 2
            trainer = resume(Path(rest[at + 1]))
        else:
            config = tyro.cli(ALGORITHMS[name][1], prog=f"python -m agents {name}", args=rest)
            trainer = Trainer(name, config, Path(config.folder(name)))
        return 0 if trainer.train() is not None else 130
    except (mmenv.ArgumentError, mmenv.RewardError, FileNotFoundError, FloatingPointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
