"""The agents' command line: python -m agents ALGORITHM --env-id ID, or a command around training.

``ALGORITHM`` is a name of ``agents.algorithms.registry.ALGORITHMS``, one of stable-baselines3 or TRL, or
``package.module:Class``. Packages are imported where a command needs them: the list of names loads no torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mmenv.arguments import MissingExtraError, require
from mmenv.rewards.remote.hosts import allow_addresses

try:
    with require("agents"):
        import tyro

        from agents.algorithms.registry import ALGORITHMS, SB3, TRL
        from agents.files import algorithm_of
        from agents.settings.flags import check_options
        from agents.settings.tuned import tuned_settings
        from agents.training import launch
except MissingExtraError as error:
    sys.exit(f"error: {error}")

PROGRAM = "python -m agents"
TUNED = "--tuned"
ABOUT = f"""Train, compare and evaluate algorithms.

{PROGRAM} --resume DIR goes on with a run; {PROGRAM} package.module:Class trains with an algorithm of your own;
{PROGRAM} ALGORITHM {TUNED} takes the tuned settings of experiments/tuned as defaults."""
# Name -> what it does, its settings, and the class that runs them.
COMMANDS = {
    "rlhf": (
        "Rounds of RLHF: sample, have responses compared, fit a preference model, train with PPO.",
        "agents.rlhf.config:RLHFConfig",
        "agents.rlhf.loop:RLHFLoop",
    ),
    "evaluate": (
        "A finished run's policy on further ids of its task.",
        "agents.training.evaluate:EvaluateConfig",
        "agents.training.evaluate:Evaluations",
    ),
    "compare": (
        "Algorithms against each other: the same start, budget and evaluation, over several seeds.",
        "agents.comparing.config:CompareConfig",
        "agents.comparing.study:Comparison",
    ),
    "reproduce": (
        "A row of results again, with seeds that it has not had.",
        "agents.comparing.config:ReproduceConfig",
        "agents.comparing.reproduce:Reproduction",
    ),
    "overoptimise": (
        "Gold while a learned reward is optimised, by several algorithms and against several preference models.",
        "agents.overoptimisation.config:OveroptimiseConfig",
        "agents.overoptimisation.study:Overoptimisation",
    ),
}


@dataclass(frozen=True)
class ResumeConfig:
    """Go on with a run or a loop. Its config.json says the rest: there are no other settings."""

    resume: Path
    """Folder of the run."""
    trust: tuple[str, ...] = ()
    """Modules of your own that its config.json may have imported."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: its words; None takes those of the process.

    Returns:
        0 when done, 130 when interrupted, 1 for an error, 2 for a call without a command.

    Raises:
        SystemExit: the words ask for help (0), or cannot be read (2).
    """
    if arguments is None:
        arguments = sys.argv[1:]
        allow_addresses(arguments)  # a person typed them
    words = list(arguments)
    try:
        code = launch.exit_code(lambda: run(words or ["--help"]))
    except SystemExit:
        if words:
            raise
        return 2
    return 1 if code == launch.TRANSIENT else code


def run(words: Sequence[str]) -> object:
    """Run one command; None when an interrupt came first."""
    name = words[0]
    tuned = TUNED in words and name not in COMMANDS
    if tuned:
        words = [word for word in words if word != TUNED]
    if any(word.partition("=")[0] == "--resume" for word in words):
        algorithm = "" if name.startswith("--") else name
        return resume(algorithm, tyro.cli(ResumeConfig, prog=PROGRAM, args=words[bool(algorithm) :]))
    if name not in ("-h", "--help"):
        check_options(settings_of(name), name, words[1:])
    defaults = tuned_defaults(name, words[1:]) if tuned else None
    markers = [tyro.conf.PositionalRequiredArgs] if name == "reproduce" else []
    return subcommands(name, defaults).cli(prog=PROGRAM, description=ABOUT, args=words, config=markers)


def tuned_defaults(name: str, words: Sequence[str]) -> Any:
    """The settings of an algorithm with the tuned ones of its id in the place of defaults.

    Args:
        name: of the algorithm.
        words: of the command line after it; they name the id.

    Raises:
        ValueError: nothing was tuned for the algorithm on the id.
        SystemExit: the words cannot be read.
    """
    cls = settings_of(name)
    given: Any = tyro.cli(cls, prog=f"{PROGRAM} {name}", args=words)
    return cls(**tuned_settings(name, given.env_id))


def resume(algorithm: str, config: ResumeConfig) -> object:
    """Go on with a run or a loop."""
    if algorithm_of(config.resume) != "rlhf":
        return launch.resume(config.resume, algorithm, config.trust)
    launch.check_single_process("rlhf")
    return importlib.import_module("agents.rlhf.loop").resume(config.resume, config.trust).run()


def settings_of(name: str) -> type:
    """The settings of a command or an algorithm.

    Raises:
        ValueError: there is none of this name; the message says which there are and which was meant.
    """
    return _imported(COMMANDS[name][1]) if name in COMMANDS else launch.config_class(name, tuple(COMMANDS))


def subcommands(name: str, defaults: Any = None) -> tyro.extras.SubcommandApp:
    """Every command with a line about it; only the command ``name`` has its options, and imports what they need.

    Args:
        name: of the command.
        defaults: an instance of its settings that replaces their defaults.
    """
    app = tyro.extras.SubcommandApp()
    about = {key: entry.summary for key, entry in ALGORITHMS.items()}
    about |= dict.fromkeys(SB3, "An algorithm of stable-baselines3.")
    about |= dict.fromkeys(TRL, "TRL's GRPOTrainer.")
    about |= {key: text for key, (text, _, _) in COMMANDS.items()}
    for key, text in {**about, name: about.get(name) or _summary(name)}.items():
        if not key.startswith("-"):
            app.command(_subcommand(key, text, settings_of(key) if key == name else None, defaults), name=key)
    return app


def _summary(name: str) -> str:
    """What the help says of an algorithm of one's own: the first line of its settings' docstring."""
    cls = settings_of(name) if ":" in name else None
    docstring = vars(cls).get("__doc__") or "" if cls is not None else ""
    # Where a dataclass has no docstring, Python writes its signature.
    if cls is None or not docstring or docstring.startswith(f"{cls.__name__}("):
        return "An algorithm of your own."
    return docstring.strip().partition("\n")[0]


def _subcommand(name: str, about: str, cls: type | None, defaults: Any = None) -> Any:
    """The function behind a command, whose argument are its settings."""

    def run_with(config: Any) -> object:
        if name not in COMMANDS:
            return launch.train(name, config, Path(config.folder(name)))
        launch.check_single_process(name)
        return _imported(COMMANDS[name][2])(config).run()

    def unnamed() -> None:
        raise AssertionError(f"{name} is not the command that was named")

    function: Any = unnamed if cls is None else run_with
    if cls is not None:
        function.__annotations__["config"] = Annotated[cls, tyro.conf.arg(name="")]
        function.__defaults__ = None if defaults is None else (defaults,)
    function.__doc__ = about
    return function


def _imported(path: str) -> Any:
    """``package.module:name``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _end(code: int) -> None:
    if launch.is_launched():
        importlib.import_module("agents.distributed.processes").hard_exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _end(main())
