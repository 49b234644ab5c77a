"""The rows of a grid of runs on disk: read, checked against mixing, completed, and turned into scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from agents import files, progress
from agents.comparing import grid
from agents.comparing.aggregate import Cells
from agents.comparing.config import GridConfig
from agents.comparing.grid import FORMAT, Cell, Patience
from agents.training import run_folder

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Rows of a results file; none where there is no file.

    Raises:
        ValueError: a row was written by another release of this file's format, or is damaged; the message names it.
    """
    rows = files.read_lines(path)
    for number, row in enumerate(rows, 1):
        if row.get("format") != FORMAT:
            raise ValueError(
                f"{path}, line {number}: format {row.get('format')!r}, not {FORMAT}: run it anew elsewhere"
            )
        if odd := [name for name, kind in _KINDS.items() if type(row.get(name)) is not kind]:
            raise ValueError(f"{path}, row {number}: {odd[0]}={row.get(odd[0])!r} is damaged: delete it to run it anew")
        if not all(isinstance(word, str) for word in row.get("settings", ())):
            raise ValueError(
                f"{path}, row {number}: settings={row['settings']!r} are damaged: delete it to run it anew"
            )
    return rows


# Of every row.
_KINDS = {"label": str, "algorithm": str, "env_id": str, "seed": int, "settings": list, "versions": dict}


def others(rows: Iterable[Row], versions: dict[str, str]) -> list[str]:
    """In which versions rows differ from the given ones, each as a few words."""
    found = {
        f"{name} {row['versions'].get(name)} instead of {versions.get(name)}": None
        for row in rows
        for name in sorted(row["versions"].keys() | versions.keys())
        if row["versions"].get(name) != versions.get(name)
    }
    return list(found)


def check_versions(rows: Iterable[Row], path: Path, config: GridConfig) -> None:
    """Refuse rows of other versions than this run's, unless they are to be marked.

    Raises:
        ValueError: names the file and the versions.
    """
    different = others(rows, run_folder.versions())
    if different and not config.mark_versions:
        raise ValueError(
            f"{path} holds results of other versions ({'; '.join(different)}): "
            "run them anew in another --out, or keep and mark them by --mark-versions"
        )


def marks(rows: Sequence[Row]) -> dict[str, str]:
    """A dagger for labels that have rows of other versions than the first row's."""
    return {row["label"]: " †" for row in rows if row["versions"] != rows[0]["versions"]}


def key(row: Row) -> tuple[str, str, int]:
    """What tells a row from the others, as ``Cell.key``."""
    return row["label"], row["env_id"], row["seed"]


def complete(cells: Sequence[Cell], path: Path, config: GridConfig, console: Console) -> list[Row]:
    """Rows of all cells, in their order: those of the file, and of runs for what it lacks or has as failed.

    The file is written anew whenever a run has ended, so that a kill loses nothing but runs that are under way, and
    these go on from their checkpoints.

    Raises:
        ValueError: the file holds rows of other versions, or of other settings of the same run.
    """
    known = {key(row): row for row in read(path)}
    check_versions([known[cell.key] for cell in cells if cell.key in known], path, config)
    for cell in cells:
        row = known.get(cell.key)
        if row and (row["algorithm"], tuple(row["settings"])) != (cell.algorithm, cell.settings):
            told = f"{row['algorithm']} {' '.join(row['settings'])}"
            raise ValueError(f"{path} holds {cell.label} on {cell.env_id} as {told}: take another --out")
    left = [cell for cell in cells if known.get(cell.key, {}).get("status") != "done"]
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in _played(left, path.parent / "runs", config, console):
        known[key(row)] = row
        files.write_lines(path, sorted(known.values(), key=key))
    return [known[cell.key] for cell in cells]


def _played(cells: Sequence[Cell], root: Path, config: GridConfig, console: Console) -> Iterator[Row]:
    """Rows as runs end, with a progress bar; a failed one is told of at once."""
    patience, root = Patience(config.retries, config.run_seconds), root.resolve()
    terminal = console.is_terminal
    columns = (TextColumn("runs", "bold"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn())
    note = TextColumn("{task.fields[note]}", markup=False)
    with Progress(*columns, note, console=console, disable=not terminal) as bars:
        bar = bars.add_task("", total=len(cells), note="")
        played = (
            grid.on_ray(cells, root, patience) if config.cluster else grid.local(cells, root, patience, config.jobs)
        )
        for number, row in enumerate(played, 1):
            name = f"{row['label']} on {row['env_id']}, seed {row['seed']}"
            if row["status"] == "failed":
                told = f" {name}: {row['error']} ({root / row['log']})"
                console.print(Text.assemble(("failed", "bold red"), told))  # what an error says is no markup
            elif not terminal:
                progress.say(console, f"{number}/{len(cells)} runs  {name}")
            bars.update(bar, advance=1, note=name)
            yield row


def score_of(rows: Iterable[Row]) -> str:
    """What runs are compared by: gold, or reward where the data know no gold."""
    return "gold" if all(row["gold"]["after"] is not None for row in rows if row["status"] == "done") else "reward"


def scores(rows: Iterable[Row], name: str, also: str = "") -> dict[str, Cells]:
    """Label -> (id, seed) -> score or KL after training, of the runs that are done; ``also`` names a variant."""
    found: dict[str, dict[tuple[str, int], float]] = {}
    for row in rows:
        cells = found.setdefault(row["label"], {})
        if row["status"] == "done":
            value = row["also"][also][name] if also else row[name]
            cells[also or row["env_id"], row["seed"]] = value["after"] if isinstance(value, dict) else value
    return dict(found)
