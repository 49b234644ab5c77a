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
from agents.comparing.grid import FORMAT, Cell, RetryPolicy
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
                f"{path}, line {number}: format {row.get('format')!r}, not {FORMAT}: run it again in another folder"
            )
        if odd := [name for name, kind in _KINDS.items() if type(row.get(name)) is not kind]:
            raise ValueError(f"{path}, row {number}: {odd[0]}={row.get(odd[0])!r} is damaged: delete it to repeat it")
    return rows


# Of every row.
_KINDS = {
    "label": str, "algorithm": str, "env_id": str, "seed": int, "overrides": dict, "files": dict, "versions": dict,
}  # fmt: skip


def others(rows: Iterable[Row], versions: dict[str, str]) -> list[str]:
    """Packages of other versions than the given ones in rows: ``torch 1.0.0 instead of 2.1.0``."""
    differences = {
        f"{name} {row['versions'].get(name)} instead of {versions.get(name)}": None
        for row in rows
        for name in sorted(row["versions"].keys() | versions.keys())
        if row["versions"].get(name) != versions.get(name)
    }
    return list(differences)


def check_versions(rows: Iterable[Row], path: Path, config: GridConfig) -> None:
    """Refuse rows of other versions than this run's, unless they are to be marked.

    Raises:
        ValueError: names the file and the versions.
    """
    different = others(rows, run_folder.versions())
    if different and not config.mark_versions:
        raise ValueError(
            f"{path} holds results of other versions ({'; '.join(different)}): "
            "run them again in another --out, or keep and mark them by --mark-versions"
        )


def marks(rows: Sequence[Row]) -> dict[str, str]:
    """A dagger for labels that have rows of other versions than the first row's."""
    return {row["label"]: " †" for row in rows if row["versions"] != rows[0]["versions"]}


class Facts:
    """Facts about the runs of a report, as text: how many, which seeds, budgets, commits, versions and machines.

    Args:
        rows: of results.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        done = [row for row in rows if row["status"] == "done"]
        seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
        self.runs = f"{len(done)} of {len(rows)} runs are done; seeds {seeds};"
        budgets = sorted({row["config"]["total_tokens"] for row in done})
        self.budget = " or ".join(f"{budget:,}" for budget in budgets) or "no"
        self.commits = ", ".join(sorted({str(row["commit"]) for row in rows}))
        self.versions = sorted({", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows})
        self.machines = " / ".join(sorted({row["machine"] for row in rows}))
        several = "† marks rows of other versions than the first: their numbers may differ for that reason alone."
        self.mixed_versions = [several] if len(self.versions) > 1 else []


def key(row: Row) -> tuple[str, str, int]:
    """Label, id and seed, as ``Cell.key``."""
    return row["label"], row["env_id"], row["seed"]


def complete(cells: Sequence[Cell], path: Path, config: GridConfig, console: Console) -> list[Row]:
    """Rows of all cells, in their order: those of the file, and of new runs for cells that are missing or failed.

    The file is written whenever a run has ended, so that a kill loses nothing but runs that are under way, and these
    go on from their checkpoints.

    Raises:
        ValueError: the file holds rows of other versions, or of other settings of the same run.
    """
    rows = {key(row): row for row in read(path)}
    check_versions([rows[cell.key] for cell in cells if cell.key in rows], path, config)
    for cell in cells:
        row = rows.get(cell.key)
        if row and _settings(row) != _settings(files.as_json(cell._asdict())):
            raise ValueError(
                f"{path} holds {cell.label} on {cell.env_id} as {row['algorithm']} with {row['overrides']}: "
                "take another --out"
            )
    missing = [cell for cell in cells if rows.get(cell.key, {}).get("status") != "done"]
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in _played(missing, path.parent / "runs", config, console):
        rows[key(row)] = row
        files.write_lines(path, sorted(rows.values(), key=key))
    return [rows[cell.key] for cell in cells]


def _settings(row: Row) -> tuple[Any, ...]:
    return row["algorithm"], row["overrides"], row["files"]


def _played(cells: Sequence[Cell], root: Path, config: GridConfig, console: Console) -> Iterator[Row]:
    """Rows as runs end, with a progress bar; a failure is printed at once."""
    retry, root = RetryPolicy(config.retries, config.run_seconds), root.resolve()
    terminal = console.is_terminal
    columns = (TextColumn("runs", "bold"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn())
    note = TextColumn("{task.fields[note]}", markup=False)
    with Progress(*columns, note, console=console, disable=not terminal) as bars:
        bar = bars.add_task("", total=len(cells), note="")
        played = grid.on_ray(cells, root, retry) if config.cluster else grid.local(cells, root, retry, config.jobs)
        for number, row in enumerate(played, 1):
            name = f"{row['label']} on {row['env_id']}, seed {row['seed']}"
            if row["status"] == "failed":
                reason = f" {name}: {row['error']} ({root / row['log']})"
                console.print(Text.assemble(("failed", "bold red"), reason))  # an error's text is no markup
            elif not terminal:
                progress.say(console, f"{number}/{len(cells)} runs  {name}")
            bars.update(bar, advance=1, note=name)
            yield row


def score_of(rows: Iterable[Row]) -> str:
    """The score that runs are compared by: gold, or reward where the data have no gold."""
    return "gold" if all(row["gold"]["after"] is not None for row in rows if row["status"] == "done") else "reward"


def scores(rows: Iterable[Row], name: str, also: str = "") -> dict[str, Cells]:
    """Label -> (id, seed) -> score or KL after training, of the runs that are done.

    Args:
        rows: of results.
        name: ``gold``, ``reward`` or ``kl`` of sampled responses; ``greedy gold`` of greedy ones.
        also: the id, or ID@SPLIT, of further evaluations; ``""`` takes the id of the run.
    """
    by_label: dict[str, dict[tuple[str, int], float]] = {}
    decoding, _, score = name.rpartition(" ")
    for row in rows:
        cells = by_label.setdefault(row["label"], {})
        if row["status"] == "done":
            evaluation = row["also"][also] if also else row
            value = (evaluation[decoding] if decoding else evaluation)[score]
            cells[also or row["env_id"], row["seed"]] = value["after"] if isinstance(value, dict) else value
    return dict(by_label)
