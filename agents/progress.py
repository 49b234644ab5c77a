"""How far something is: a bar at a terminal, lines where the output goes to a file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class Show(Protocol):
    """Shows how far a run is."""

    def __call__(self, now: int, note: str, ended: bool = False) -> None: ...


def console() -> Console:
    """Where commands print: nothing is markup, whatever stands in paths and names."""
    return Console(emoji=False, markup=False)


def say(console: Console, text: str) -> None:
    """Print a line as it is: what stands in it, paths and errors of others, is no markup, and is not broken."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


class _Noted(Progress):
    """A bar with its task's note on a line below: side by side, a terminal of 80 columns has no room for the bar."""

    def get_renderables(self) -> Iterator[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            yield Text(task.fields["note"])


@contextlib.contextmanager
def tokens(console: Console, name: str, total: int, done: int) -> Iterator[Show]:
    """A run over its tokens.

    Args:
        console: where it is shown.
        name: of the algorithm.
        total: tokens that the run is to take.
        done: tokens that it has taken.

    Yields:
        what shows the tokens so far, and what they brought or what is done next; ``ended`` says that no more will come.
    """
    if not console.is_terminal:
        yield lambda now, note, ended=False: say(console, f"{now:,}/{total:,} tokens  {note}")
        return
    amount = TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens")
    columns = (TextColumn(name, "bold", markup=False), BarColumn(bar_width=28), amount, TimeRemainingColumn())
    with _Noted(*columns, console=console) as progress:
        bar = progress.add_task("", total=total, completed=done, note="")

        def show(now: int, note: str, ended: bool = False) -> None:
            progress.update(bar, completed=now, note=note, total=now if ended else total)

        yield show


@contextlib.contextmanager
def counted(console: Console, name: str, total: int, transient: bool = False) -> Iterator[Callable[[int], None]]:
    """A phase of so many equal parts; what is yielded takes how many are done."""
    if not console.is_terminal:
        say(console, f"{name}: {total:,}")
        yield lambda done: None
        return
    amount = (MofNCompleteColumn(), TimeRemainingColumn())
    columns = (TextColumn(name, "bold", markup=False), BarColumn(bar_width=28), *amount)
    with Progress(*columns, console=console, transient=transient) as progress:
        bar = progress.add_task("", total=total)
        yield lambda done: progress.update(bar, completed=done)
