"""Loggers: each takes the row of metrics of every update. A run has a list of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from agents import files
from agents.training.alarm import Alarm, alarm, first_alarm

Row = Mapping[str, Any]  # of JSON values; None stands for nan


class Logger(Protocol):
    """Takes metrics."""

    def log(self, row: Row, step: int) -> None:
        """Take the row of an update that ended after ``step`` tokens."""

    def close(self) -> None:
        """Flush what is buffered."""


class JSONLines:
    """Appends each row to a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, row: Row, step: int) -> None:
        files.append_line(self.path, dict(row))

    def close(self) -> None:
        """Nothing is buffered."""


class TensorBoard:
    """Writes the numbers of each row as TensorBoard's scalars.

    Args:
        folder: of the event files.
        step: tokens that a resumed run has taken: events of a killed run beyond them are dropped; 0 drops none.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.folder = folder
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def log(self, row: Row, step: int) -> None:
        self.folder.stat()  # a folder that has gone is an error here; in the writer's thread it would be a traceback
        for name, value in row.items():
            if value is not None:
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class AlarmLogger:
    """Watches the judge's scores and reports the hacking alarm when it goes off for the first time.

    Args:
        rows: metrics of the run so far.
        console: where the alarm is printed.

    Attributes:
        alarm: what went off, perhaps before the checkpoint; None so far.
    """

    def __init__(self, rows: Sequence[Row], console: Console) -> None:
        self.judged = [row for row in rows if "judge" in row]
        self.console = console
        self.alarm: Alarm | None = first_alarm(self.judged)

    def log(self, row: Row, step: int) -> None:
        if "judge" not in row:
            return
        self.judged.append(row)
        if self.alarm is None:
            self.alarm = alarm(self.judged)
            if self.alarm is not None:
                message = f" at {self.alarm.tokens:,} tokens: {self.alarm}"
                self.console.print(Text.assemble(("alarm", "bold red"), message))

    def close(self) -> None:
        """Nothing is buffered."""
