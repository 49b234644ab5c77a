"""Progress: a bar at a terminal, lines where the output goes to a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class Show(Protocol):
    """Shows how far something is."""

    def __call__(self, now: int, note: str = "", ended: bool = False) -> None:
        """Show that ``now`` steps are done; ``ended`` says that no more will come."""


def console() -> Console:
    """The console of commands: it reads no markup in paths and names."""
    return Console(emoji=False, markup=False)


def say(console: Console, text: str) -> None:
    """Print a line unchanged: neither markup is read nor lines are broken in paths and error messages."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


class _ProgressWithNote(Progress):
    """A bar with its note on a line below: side by side, a terminal of 80 columns has no room for the bar."""

    def get_renderables(self) -> Iterator[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["note"]:
                yield Text(task.fields["note"])


@contextlib.contextmanager
def bar(
    console: Console, name: str, total: int, done: int = 0, unit: str = "", transient: bool = False
) -> Iterator[Show]:
    """A progress bar.

    Where the output is no terminal, each step is a line if there is a unit; else there is one line at the start.

    Args:
        console: where it is shown.
        name: of what is done.
        total: number of steps.
        done: steps that were done before.
        unit: of the steps, in the plural.
        transient: whether the bar vanishes at the end.

    Yields:
        what shows the number of steps so far, with a note.
    """
    if not console.is_terminal:
        if unit:
            yield lambda now, note="", ended=False: say(console, f"{now:,}/{total:,} {unit}  {note}")
        else:
            say(console, f"{name}: {total:,}")
            yield lambda now, note="", ended=False: None
        return
    amount = TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit)
    columns = (TextColumn(name, "bold", markup=False), BarColumn(bar_width=28), amount, TimeRemainingColumn())
    with _ProgressWithNote(*columns, console=console, transient=transient) as progress:
        task = progress.add_task("", total=total, completed=done, note="")
        last_note = ""

        def show(now: int, note: str = "", ended: bool = False) -> None:
            nonlocal last_note
            # A new note is drawn at once; the background thread may miss it. Numbers alone wait for the thread: loops
            # without notes can be fast.
            progress.update(task, completed=now, note=note, total=now if ended else total, refresh=note != last_note)
            last_note = note

        yield show
