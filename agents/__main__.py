"""python -m agents ALGORITHM --env-id ID --seed S --total-tokens N --out DIR, or --resume DIR.

``ALGORITHM`` is a name of ``agents.algorithms.registry.ALGORITHMS`` or ``package.module:Class``. Around them stand
``COMMANDS``, each with a command line of its own. What runs is imported where it runs: the list of names needs no
torch.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym

import mmenv
from mmenv.arguments import MissingExtraError, require
from mmenv.rewards.remote.hosts import allow_addresses

try:
    with require("agents"):
        import tyro

        from agents.algorithms.registry import ALGORITHMS, SB3, find
        from agents.files import INTERRUPTED, SIZES, algorithm_of, damaged, explain, may_pass, read_field, read_json
        from agents.settings.flags import parse
except MissingExtraError as error:
    sys.exit(f"error: {error}")


class Training(Protocol):
    """A run, a loop of them, or what else is done to the end."""

    def train(self) -> Any:
        """To the end; None when an interrupt came first."""


def rlhf(arguments: list[str]) -> Training:
    """The loop of sampling, asking, learning what is preferred, and PPO."""
    from agents.rlhf.config import RLHFConfig

    config = parse(RLHFConfig, "rlhf", arguments)
    from agents.rlhf.loop import RLHFLoop  # needs the labelling extra

    return RLHFLoop(config, Path(config.folder))


def evaluate(arguments: list[str]) -> Training:
    """A finished run's policy on further ids of its task."""
    from agents.training.evaluate import EvaluateConfig, Evaluations

    config = parse(EvaluateConfig, "evaluate", arguments)

    return Evaluations(config)


def compare(arguments: list[str]) -> Training:
    """Algorithms against each other."""
    from agents.comparing.config import CompareConfig

    config = parse(CompareConfig, "compare", arguments)
    from agents.comparing.study import Comparison

    return Comparison(config)


def overoptimise(arguments: list[str]) -> Training:
    """Gold and reward on the way from the start: where optimising a preference model stops paying."""
    from agents.overoptimisation.config import OveroptimiseConfig

    config = parse(OveroptimiseConfig, "overoptimise", arguments)
    from agents.overoptimisation.study import Overoptimisation

    return Overoptimisation(config)


def reproduce(arguments: list[str]) -> Training:
    """A row of results again, with new seeds."""
    from agents.comparing.config import ReproduceConfig

    row = (tyro.conf.PositionalRequiredArgs,)
    config = parse(ReproduceConfig, "reproduce", arguments, row)
    from agents.comparing.reproduce import Reproduction

    return Reproduction(config)


COMMANDS = {
    "rlhf": rlhf, "evaluate": evaluate, "compare": compare, "reproduce": reproduce, "overoptimise": overoptimise,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None, passing: int = 1) -> int:
    """Run the command line.

    Args:
        arguments: its words; None takes those of the process.
        passing: the exit code of a failure that may pass: of a reward server, or of a full disk.

    Returns:
        0 when done, 130 when interrupted, 1 for an error, 2 for a wrong call.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        allow_addresses(arguments)  # typed by the person; a grid's and reproduce's arguments may come from a file
    words = list(arguments)
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--resume=") else [word])]
    if "--resume" in words:
        at = words.index("--resume")
        folder, trust = words[at + 1 : at + 2], words[at + 2 :]
        if at > 1 or not folder or (trust and (trust[0] != "--trust" or len(trust) < 2)):
            told = "its config.json says the rest; --trust MODULE allows code of your own that it names"
            print(f"--resume takes the run's folder and nothing else: {told}")
            return 2
        return _finish(lambda: _resume(Path(folder[0]), words[0], trust[1:]), passing)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name, rest = words[0], words[1:]
    return _finish(lambda: _alone(name, rest) if name in COMMANDS or name in SB3 else _begin(name, rest), passing)


def usage() -> str:
    """What there is, a line each."""
    about = {name: entry.summary for name, entry in ALGORITHMS.items()}
    about |= {", ".join(SB3): "Those of stable-baselines3."}
    about |= {name: inspect.getdoc(command) or "" for name, command in COMMANDS.items()}
    lines = [f"  {name}\n      {text}" if len(name) > 17 else f"  {name:<18}{text}" for name, text in about.items()]
    calls = ("NAME [settings]", "NAME --help", "--resume DIR", "package.module:Class [settings]")
    return "\n".join(("usage: " + "\n       ".join(f"python -m agents {call}" for call in calls), "", *lines))


def _finish(make: Callable[[], Training], passing: int) -> int:
    """Train what is made, and say what went wrong in a line."""
    try:
        done = make().train() is not None
        if any(name in os.environ for name in SIZES):
            from agents.distributed import processes

            processes.leave()
        return 0 if done else INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted: --resume, or a grid's command again, goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except mmenv.RewardError as error:
        print(f"error: {error}", file=sys.stderr)
        return passing
    except OSError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return passing if may_pass(error) else 1
    except RuntimeError as error:
        from agents.distributed.processes import RankLost

        if not isinstance(error, RankLost):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (gym.error.Error, FloatingPointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _alone(name: str, arguments: list[str]) -> Training:
    """What runs in one process."""
    _refuse_several(name)
    if name in SB3:
        from agents.integrations.sb3 import SB3Config, SB3Run  # needs the sb3 extra

        told = parse(SB3Config, name, arguments)
        return SB3Run(name, told, Path(told.folder(name)))
    return COMMANDS[name](arguments)


def _begin(name: str, arguments: list[str]) -> Training:
    config = parse(_config_of(name), name, arguments)
    from agents.training.trainer import Trainer

    return Trainer(name, config, Path(config.folder(name)))


def _config_of(name: str) -> type:
    """The settings of an algorithm, or of one of somebody's own."""
    return find(name, (*SB3, *COMMANDS)).Config


def _refuse_several(name: str) -> None:
    if not any(size in os.environ for size in SIZES) and "ACCELERATE_USE_CPU" not in os.environ:
        return
    from agents.distributed import processes

    if processes.launched() > 1:
        raise ValueError(
            f"{name} is one process: start it without a launcher (compare --cluster spreads runs over Ray)"
        )


class Finished:
    """A run that has nothing left to do but to be shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(self) -> dict[str, Any]:
        """Show how it ended."""
        from agents import progress
        from agents.training import report

        path, console = self.folder / "summary.json", progress.console()
        summary, config = read_json(path), read_json(self.folder / "config.json")
        tokens = read_field(self.folder / "config.json", config, "total_tokens", int)
        try:
            table = report.table(summary, tokens)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, f"is no summary of a run ({type(error).__name__}: {error})") from error
        console.print(table)
        progress.say(console, f"{self.folder} is finished: --start {self.folder} goes on from its policy")
        return summary


def _resume(folder: Path, named: str, trusted: Sequence[str]) -> Training:
    """What goes on with a folder.

    Args:
        folder: of a run or a loop.
        named: the algorithm that the command line names, or ``--resume``.
        trusted: modules that the folder may have imported.
    """
    name = algorithm_of(folder)
    if named not in (name, "--resume"):
        raise ValueError(f"{folder} holds {name} and not {named}: --resume {folder} alone goes on with it")
    if name != "rlhf" and (folder / "summary.json").is_file():
        return Finished(folder)
    if name != "rlhf":
        from agents import files
        from agents.training import checkpoints, loading

        if checkpoints.newest_checkpoint(folder) is None and files.read_lines(
            folder / "metrics.jsonl", lambda fault: None
        ):
            raise files.RunError(
                f"{folder}/checkpoint is gone, though the run had begun to learn: copy it from a backup, or begin anew "
                "with --overwrite"
            )
        return loading.resume(folder, (named, *trusted))
    _refuse_several("rlhf")
    from agents.rlhf.loop import resume

    return resume(folder, trusted)


def _end(code: int) -> None:
    if any(name in os.environ for name in SIZES):
        from agents.distributed import processes

        processes.hard_exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _end(main())
