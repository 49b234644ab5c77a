"""The command line, ``mmenv`` or ``python -m mmenv``."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import os
import sys
from collections.abc import Sequence

import tyro
from gymnasium.error import Error as GymnasiumError
from rich.console import Console

from mmenv.commands import COMMANDS, Command
from mmenv.rewards.base import RewardError
from mmenv.rewards.remote.hosts import allow_addresses

OPTIONS = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)
ERRORS = (ValueError, RewardError, GymnasiumError, OSError, ImportError, FloatingPointError)


def usage() -> str:
    """Every command with what it does, a line each."""
    lines = [f"  {name:<14}{inspect.getdoc(command)}" for name, command in COMMANDS.items()]
    return "\n".join(("usage: mmenv COMMAND [options]", "       mmenv COMMAND --help", "", *lines))


def parse(words: Sequence[str]) -> Command:
    """A command with its options.

    Raises:
        SystemExit: 0 after ``--help``, 2 for a command or an option that does not exist; the error is printed.
        ValueError: an option is out of range.
    """
    name = words[0] if words else ""
    if name in ("-h", "--help"):
        print(usage())
        raise SystemExit(0)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {near[0]!r}? " if near else ""
        print(f"{usage()}\nerror: unknown command {name!r}: {advice}There are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(COMMANDS[name], prog=f"mmenv {name}", args=words[1:], config=OPTIONS)
    except SystemExit as error:
        if isinstance(error.__context__, ValueError):  # of __post_init__; tyro has drawn a box around it
            raise error.__context__ from None
        print(printed.getvalue(), end="", file=sys.stderr)
        raise


def main(words: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run the command line.

    Args:
        words: of the command line; None takes those of the process.
        console: where results are printed; None makes one.

    Returns:
        0 when all went well, 1 for a wrong argument or a failed check.
    """
    if words is None:
        words = sys.argv[1:]
        allow_addresses(words)  # typed by the person
    # A pipe has no width to keep to, unless COLUMNS names one. Paths and data are shown as they are, never as markup.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    console = console or Console(width=width, emoji=False, markup=False)
    try:
        return parse(words).execute(console)
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
