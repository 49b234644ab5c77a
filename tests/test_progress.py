"""Progress: what a bar draws, and when."""

from __future__ import annotations

import io

from rich.console import Console

from agents.progress import bar


def terminal() -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)


def test_every_note_is_drawn_however_soon_the_next_one_comes():
    console, notes = terminal(), [f"note {number} of 20" for number in range(20)]
    with bar(console, "run", len(notes)) as show:
        for number, note in enumerate(notes):
            show(number, note)
    drawn = console.file.getvalue()
    assert [note for note in notes if note not in drawn] == []


def test_steps_without_a_new_note_cost_no_drawing(monkeypatch):
    """Sampling shows each of thousands of fast steps."""
    console = terminal()
    drawn = []
    with bar(console, "run", 1000) as show:
        monkeypatch.setattr("rich.progress.Progress.refresh", lambda progress: drawn.append(progress))
        for number in range(1000):
            show(number)
        assert drawn == []
        show(1000, "evaluating")
        show(1000, "evaluating")
        assert len(drawn) == 1
