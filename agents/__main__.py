"""python -m agents ALGORITHM --env-id ID --seed S --total-tokens N --out DIR, or --resume DIR.

``ALGORITHM`` is a name of ``agents.algorithms.ALGORITHMS`` or ``package.module:Class``. Around them stand ``COMMANDS``,
each with a command line of its own.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym

import mmenv
from mmenv.rewards.hosts import allow_addresses

try:
    import tyro
    from rich.console import Console

    from agents import parallel, report, runs, trainer
    from agents.algorithms import ALGORITHMS, SB3, find
    from agents.config import CompareConfig, EvaluateConfig, OveroptimiseConfig, ReproduceConfig, RLHFConfig
    from agents.trainer import Trainer
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is missing: pip install -c constraints.txt -e '.[agents]'")


class Training(Protocol):
    """A run, a loop of them, or what else is done to the end."""

    def train(self) -> Any:
        """To the end; None when an interrupt came first."""


def rlhf(arguments: list[str]) -> Training:
    """The loop of sampling, asking, learning what is preferred, and PPO."""
    config = tyro.cli(RLHFConfig, prog="python -m agents rlhf", args=arguments, config=(tyro.conf.SuppressFixed,))
    from agents.rlhf import Loop  # needs the labelling extra

    return Loop(config, Path(config.folder))


def evaluate(arguments: list[str]) -> Training:
    """A finished run's policy on further ids of its task."""
    from agents.evaluate import Evaluations

    return Evaluations(tyro.cli(EvaluateConfig, prog="python -m agents evaluate", args=arguments))


def compare(arguments: list[str]) -> Training:
    """Algorithms against each other."""
    from agents.compare import Comparison

    return Comparison(tyro.cli(CompareConfig, prog="python -m agents compare", args=arguments))


def overoptimise(arguments: list[str]) -> Training:
    """Gold and reward on the way from the start: where optimising a preference model stops paying."""
    from agents.overoptimise import Overoptimisation

    return Overoptimisation(tyro.cli(OveroptimiseConfig, prog="python -m agents overoptimise", args=arguments))


def reproduce(arguments: list[str]) -> Training:
    """A row of results again, with new seeds."""
    from agents.reproduce import Reproduction

    row = (tyro.conf.PositionalRequiredArgs,)
    return Reproduction(tyro.cli(ReproduceConfig, prog="python -m agents reproduce", args=arguments, config=row))


COMMANDS = {
    "rlhf": rlhf, "evaluate": evaluate, "compare": compare, "reproduce": reproduce, "overoptimise": overoptimise,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when done, 130 when interrupted, 1 for an error, 2 for a wrong call."""
    if arguments is None:
        arguments = sys.argv[1:]
        allow_addresses(arguments)  # typed by the person; a grid's and reproduce's arguments may come from a file
    arguments = list(arguments)
    arguments = [part for word in arguments for part in (word.split("=", 1) if _resumes(word) else [word])]
    if "--resume" in arguments:
        if len(arguments) - arguments.index("--resume") != 2 or arguments.index("--resume") > 1:
            print("--resume takes the run's folder and nothing else: its config.json says the rest")
            return 2
        return _finish(lambda: _resume(Path(arguments[-1]), arguments[0]))
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    return _finish(lambda: _alone(name, rest) if name in COMMANDS or name in SB3 else _begin(name, rest))


def usage() -> str:
    """What there is, a line each."""
    about = {name: (inspect.getdoc(cls.Config) or "").partition("\n")[0] for name, cls in ALGORITHMS.items()}
    about |= {", ".join(SB3): "Those of stable-baselines3."}
    about |= {name: inspect.getdoc(command) or "" for name, command in COMMANDS.items()}
    lines = [f"  {name}\n      {text}" if len(name) > 17 else f"  {name:<18}{text}" for name, text in about.items()]
    calls = ("NAME [settings]", "NAME --help", "--resume DIR", "package.module:Class [settings]")
    return "\n".join(("usage: " + "\n       ".join(f"python -m agents {call}" for call in calls), "", *lines))


def _resumes(word: str) -> bool:
    return word.startswith("--resume=")


def _finish(make: Any) -> int:
    """Train what is made, and say what went wrong in a line."""
    try:
        done = make().train() is not None
        parallel.leave()
        return 0 if done else runs.INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted: --resume, or a grid's command again, goes on from the last checkpoint", file=sys.stderr)
        return runs.INTERRUPTED
    except (
        gym.error.Error, mmenv.RewardError, parallel.RankLost, FileNotFoundError, FloatingPointError, ValueError,
    ) as error:  # fmt: skip
        print(f"error: {error}", file=sys.stderr)
        return 1


def _alone(name: str, arguments: list[str]) -> Training:
    """What runs in one process."""
    _refuse_several(name)
    if name in SB3:
        from agents.sb3 import SB3Config, SB3Run  # needs the sb3 extra

        told = tyro.cli(SB3Config, prog=f"python -m agents {name}", args=arguments)
        return SB3Run(name, told, Path(told.folder(name)))
    return COMMANDS[name](arguments)


def _begin(name: str, arguments: list[str]) -> Training:
    config = tyro.cli(find(name, (*SB3, *COMMANDS)).Config, prog=f"python -m agents {name}", args=arguments)
    return Trainer(name, config, Path(config.folder(name)))


def _refuse_several(name: str) -> None:
    if parallel.launched() > 1:
        raise ValueError(
            f"{name} is one process: start it without a launcher (compare --cluster spreads runs over Ray)"
        )


class Finished:
    """A run that has nothing left to do but to be shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(self) -> dict[str, Any]:
        """Show how it ended."""
        console, summary = Console(emoji=False), dict(runs.read_json(self.folder / "summary.json"))
        console.print(report.table(summary, runs.read_json(self.folder / "config.json")["total_tokens"]))
        told = f"{self.folder} is finished: --start {self.folder}/checkpoint/policy.safetensors goes on from its policy"
        console.print(told, soft_wrap=True, highlight=False, markup=False, emoji=False)
        return summary


def _resume(folder: Path, named: str) -> Training:
    """What goes on with a folder; ``named`` is the algorithm that the command line names, or ``--resume``."""
    name = runs.algorithm_of(folder)
    if named not in (name, "--resume"):
        raise ValueError(f"{folder} holds {name} and not {named}: --resume {folder} alone goes on with it")
    if name != "rlhf":
        return Finished(folder) if (folder / "summary.json").is_file() else trainer.resume(folder)
    _refuse_several("rlhf")
    from agents.rlhf import resume

    return resume(folder)


if __name__ == "__main__":
    parallel.end(main())
