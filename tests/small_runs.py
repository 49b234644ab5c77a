"""Small runs that tests damage, lock and overwrite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from agents.algorithms.ppo import PPOConfig
from agents.training import checkpoints
from agents.training.loggers import JSONLines
from agents.training.trainer import Trainer

QUIET = Console(quiet=True)


def configured(start: str, **given) -> PPOConfig:
    """Five updates of eight responses, a checkpoint after each second."""
    settings = {"total_tokens": 640, "num_envs": 8, "eval_episodes": 4, "threads": 1, "pictures": False, **given}
    return PPOConfig(start=start, reward="gold", checkpoint_every=2, learning_rate=1e-3, **settings)


def whole_run(start: str, folder: Path) -> Path:
    """A run that nothing disturbed."""
    Trainer("ppo", configured(start), folder, console=QUIET).train()
    return folder


def cut_run(start: str, folder: Path) -> Path:
    """The same run, stopped after its third update: its checkpoint is of the third, as an interrupt leaves it."""
    trainer, log = Trainer("ppo", configured(start), folder, console=QUIET), JSONLines.log

    def log_and_stop(logger, row, step):
        log(logger, row, step)
        trainer.interrupts.requested = row["update"] == 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONLines, "log", log_and_stop)
        assert trainer.train() is None
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, but for the lock."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def same_policy(a: Path, b: Path) -> bool:
    """Whether two runs have learned the same, bit for bit."""
    ours, theirs = (checkpoints.load_checkpoint(folder)[0]["policy"] for folder in (a, b))
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def one_sentence(capsys: pytest.CaptureFixture, *parts: str) -> str:
    """The error that was printed: a line, with these parts in it."""
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ")
    assert len(told.splitlines()) == 1
    for part in parts:
        assert part in told
    return told
