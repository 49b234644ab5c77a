"""One run from its settings to its exit code: begun, gone on with, or only shown where it is finished."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

import mmenv
from agents import progress
from agents.algorithms.registry import OTHERS, SB3, TRL, find
from agents.files import (
    INTERRUPTED,
    SIZES,
    RunError,
    algorithm_of,
    damaged,
    explain,
    may_pass,
    read_field,
    read_json,
    read_lines,
)
from mmenv.arguments import MissingExtraError

TRANSIENT = 75  # exit code of a failure that a later attempt need not meet: EX_TEMPFAIL of sysexits.h
# Algorithm of another library -> the module, its settings and its run; imported by name: the packages are extras.
INTEGRATIONS = {
    **dict.fromkeys(SB3, ("agents.integrations.sb3", "SB3Config", "SB3Run")),
    **dict.fromkeys(TRL, ("agents.integrations.trl", "TRLConfig", "TRLRun")),
}


def config_class(algorithm: str, others: Sequence[str] = ()) -> type:
    """The dataclass of an algorithm's settings.

    Args:
        algorithm: a name, or ``package.module:Class``.
        others: further names that the caller takes; the error lists them too.

    Raises:
        ValueError: there is no such algorithm; the message says which there are and which was meant.
    """
    if algorithm in INTEGRATIONS:
        module, name, _ = INTEGRATIONS[algorithm]
        config: type = getattr(importlib.import_module(module), name)
        return config
    return find(algorithm, (*OTHERS, *others)).Config


def run(algorithm: str, config: Any, folder: Path, resume: bool = False) -> int:
    """Train one policy in one folder.

    Args:
        algorithm: a name, or ``package.module:Class``.
        config: an instance of its ``config_class``.
        folder: where everything is written.
        resume: whether to go on from the folder's checkpoint; runs of other libraries always begin anew.

    Returns:
        the exit code, see ``exit_code``.
    """
    return exit_code(lambda: train(algorithm, config, folder, resume))


def train(algorithm: str, config: Any, folder: Path, resume: bool = False) -> dict[str, Any] | None:
    """As ``run``, with errors raised; returns the summary, None when an interrupt came first."""
    if algorithm in INTEGRATIONS:
        check_single_process(algorithm)
        module, _, name = INTEGRATIONS[algorithm]
        summary: dict[str, Any] = getattr(importlib.import_module(module), name)(algorithm, config, folder).train()
        return summary
    from agents.training.trainer import Trainer

    return Trainer(algorithm, config, folder, resume=resume).train()


def resume(folder: Path, algorithm: str = "", trusted: Sequence[str] = ()) -> dict[str, Any] | None:
    """Go on with a folder's run to its end, or show how it ended.

    Args:
        folder: of the run.
        algorithm: what it must be of; empty takes any.
        trusted: modules that its ``config.json`` may have imported.

    Returns:
        its summary; None when an interrupt came first.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the run is of another algorithm, names a module that is not trusted, or has a damaged file.
    """
    name = algorithm_of(folder)
    if algorithm not in (name, ""):
        raise ValueError(f"{folder} holds {name} and not {algorithm}: --resume {folder} alone goes on with it")
    if (folder / "summary.json").is_file():
        return _show_finished(folder)
    from agents.training import checkpoints, loading

    has_learned = read_lines(folder / "metrics.jsonl", lambda fault: None)
    if has_learned and checkpoints.newest_checkpoint(folder) is None:
        raise RunError(
            f"{folder}/checkpoint is gone, though the run had begun to learn: copy it from a backup, or start again "
            "with --overwrite"
        )
    return loading.resume(folder, (algorithm, *trusted)).train()


def _show_finished(folder: Path) -> dict[str, Any]:
    """Print the table of a run that has ended."""
    from agents.training import report

    path, console = folder / "summary.json", progress.console()
    summary, config = read_json(path), read_json(folder / "config.json")
    tokens = read_field(folder / "config.json", config, "total_tokens", int)
    try:
        table = report.table(summary, tokens)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"is no summary of a run ({type(error).__name__}: {error})") from error
    console.print(table)
    progress.say(console, f"{folder} is finished: --start {folder} goes on from its policy")
    return summary


def exit_code(action: Callable[[], object]) -> int:
    """Call something that runs to its end, and print what goes wrong as one line.

    Args:
        action: returns None when an interrupt came first.

    Returns:
        0 when done, 130 when interrupted, ``TRANSIENT`` for a reward server that fails or a full disk, 1 for an error.

    Raises:
        Exception: what is a mistake of the code and not of its caller.
    """
    try:
        done = action() is not None
        if is_launched():
            from agents.distributed import processes

            processes.leave()
        return 0 if done else INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted: --resume, or a grid's command again, goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except mmenv.RewardError as error:
        return _failed(error, TRANSIENT)
    except OSError as error:
        return _failed(explain(error), TRANSIENT if may_pass(error) else 1)
    except RuntimeError as error:
        from agents.distributed.processes import RankLost

        if not isinstance(error, RankLost):
            raise
        return _failed(error, 1)
    except MissingExtraError as error:
        return _failed(error, 1)
    except (gym.error.Error, FloatingPointError, ValueError) as error:
        return _failed(error, 1)


def _failed(reason: object, code: int) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return code


def is_launched() -> bool:
    """Whether a launcher of several processes, such as torchrun, started this one."""
    return any(name in os.environ for name in SIZES)


def check_single_process(name: str) -> None:
    """Refuse to run as one of several processes.

    Raises:
        ValueError: names the command.
    """
    if not is_launched() and "ACCELERATE_USE_CPU" not in os.environ:
        return
    from agents.distributed import processes

    if processes.launched() > 1:
        raise ValueError(
            f"{name} is one process: start it without a launcher (compare --cluster spreads runs over Ray)"
        )
