"""A row of results run again with new seeds, and whether their mean falls where the old runs predict it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from agents import progress
from agents.algorithms.registry import check_trust
from agents.comparing import results, tables
from agents.comparing.aggregate import mean_interval, prediction_interval
from agents.comparing.config import GridConfig, ReproduceConfig
from agents.comparing.grid import Cell
from agents.comparing.results import Row
from agents.settings.saved import settings_from
from agents.training import run_folder
from agents.training.launch import config_class

FORBIDDEN = ("env_id", "out", "overwrite", "seed")  # settings that a row of a file may not change


class Answer(NamedTuple):
    """The mean of new runs, and the interval in which the old ones predict it."""

    mean: float
    low: float
    high: float

    @property
    def within(self) -> bool:
        """Whether the row is reproduced."""
        return bool(self.low <= self.mean <= self.high)


class Reproduction:
    """What ``python -m agents reproduce`` does.

    Args:
        config: see ``ReproduceConfig``.
        console: where progress and the answer are printed.

    Raises:
        ValueError: there is no such row, the message names those there are; or it is damaged, or would run code that
            is not trusted.
    """

    def __init__(self, config: ReproduceConfig, console: Console | None = None) -> None:
        self.config, self.console = config, console or progress.console()
        if not Path(config.results).is_file():
            raise FileNotFoundError(f"{config.results} does not exist: give the results.jsonl of a comparison")
        rows = [row for row in results.read(Path(config.results)) if row.get("status") == "done"]
        named = [row for row in rows if row["label"] == config.row]
        missing = sorted(set(config.env_ids) - {row["env_id"] for row in named})
        if missing or not named:
            labels = sorted({row["label"] for row in rows})
            near = difflib.get_close_matches(config.row, labels, 1)
            where = f" on {', '.join(missing)}" if missing else ""
            meant = f": did you mean {near[0]!r}?" if near and near[0] != config.row else ""
            raise ValueError(f"{config.results} has no row {config.row!r}{where}{meant}; it has {', '.join(labels)}")
        self.rows = [row for row in named if not config.env_ids or row["env_id"] in config.env_ids]
        self.overrides = {row["env_id"]: self._checked(row) for row in self.rows}

    def _checked(self, row: Row) -> dict[str, Any]:
        """The overrides of a row from a file, of which nothing is believed.

        Raises:
            ValueError: a score or setting is damaged, or the row names code that is not trusted.
        """
        config, path = self.config, Path(self.config.results)
        for name in ("gold", "reward"):
            if not (isinstance(row.get(name), dict) and isinstance(row[name].get("after"), float | int | None)):
                raise ValueError(f"{path}: {config.row} is damaged ({name}={row.get(name)!r})")
        if forbidden := sorted(row["overrides"].keys() & set(FORBIDDEN)):
            raise ValueError(f"{path}: {config.row} sets {forbidden[0]}, which a row may not: remove it from overrides")
        trusted = (*config.trust, config.row, *config.env_ids)
        also = row["overrides"].get("also", ())
        code = [row["algorithm"], row["env_id"], *(also if isinstance(also, list) else ())]
        check_trust(code, trusted, path)
        settings: Any = settings_from(path, row["overrides"], config_class(row["algorithm"]))
        return {name: getattr(settings, name) for name in row["overrides"]}

    def run(self) -> dict[str, Answer]:
        """Run, and print for every id whether the new mean falls within the interval of the old runs.

        Returns:
            the answers by id.

        Raises:
            ValueError: a mean lies outside, a run failed, or the folder holds results of other versions.
        """
        config = self.config
        by_id = {env_id: list(rows) for env_id, rows in groupby(sorted(self.rows, key=_env_id), _env_id)}
        cells = [cell for rows in by_id.values() for cell in self._cells(rows)]
        folder = Path(config.out or "runs/reproduce")
        with run_folder.writing(folder):
            settings = GridConfig(jobs=config.jobs, cluster=config.cluster)
            new = results.complete(cells, folder / "results.jsonl", settings, self.console)
        if failed := [row for row in new if row["status"] == "failed"]:
            raise ValueError(f"seed {failed[0]['seed']} of {config.row} failed: {failed[0]['error']}")
        if others := results.others(self.rows, run_folder.versions()):
            progress.say(self.console, f"the row was made with other versions: {'; '.join(others)}")
        score = results.score_of(self.rows)
        answers = {
            env_id: self._answer(score, rows, [row for row in new if row["env_id"] == env_id])
            for env_id, rows in by_id.items()
        }
        if outside := [env_id for env_id, answer in answers.items() if not answer.within]:
            raise ValueError(f"{config.row} is not reproduced on {', '.join(outside)}; by chance it is so once in 20")
        return answers

    def _cells(self, rows: Sequence[Row]) -> list[Cell]:
        """New runs on one id, with seeds that the row has not had."""
        row, first = rows[0], max(row["seed"] for row in rows) + 1
        count = 1 if _are_equal(rows) else self.config.runs
        overrides = self.overrides[row["env_id"]]
        return [
            Cell(self.config.row, row["algorithm"], row["env_id"], seed, overrides, row["files"])
            for seed in range(first, first + count)
        ]

    def _answer(self, score: str, old: Sequence[Row], new: Sequence[Row]) -> Answer:
        """The mean of an id's new runs and where it should fall; both are printed."""
        before, after = ([row[score]["after"] for row in rows] for rows in (old, new))
        mean = sum(after) / len(after)
        if _are_equal(old):
            low, high = (old[0].get(f"{score}_interval") or {}).get("after") or (before[0], before[0])
            reason = (
                f"the interval over episodes of {before[0]:.3f}; {len(old)} runs have this to the last digit, so that "
                "a seed changes nothing and one run is enough"
            )
        else:
            expected = prediction_interval(before, len(after)).of(score)
            low, high = float(expected.low), float(expected.high)
            reason = (
                f"where {len(old)} runs of {tables.as_text(mean_interval(before).of(score))} predict the mean of "
                f"{len(after)} more, 95 times in 100"
            )
        answer = Answer(mean, low, high)
        where = "within" if answer.within else "OUTSIDE"
        name, seeds = f"{self.config.row} on {old[0]['env_id']}", f"over {len(after)} new seeds"
        progress.say(self.console, f"{name}: {score} {mean:.3f} {seeds} is {where} [{low:.3f}, {high:.3f}], {reason}")
        return answer


def _env_id(row: Row) -> str:
    return str(row["env_id"])


def _are_equal(rows: Iterable[Row]) -> bool:
    """Whether runs of several seeds ended alike to the last digit: then a new seed would say nothing."""
    rows = list(rows)
    ends = {(row["gold"]["after"], row["reward"]["after"], row.get("kl"), row.get("tokens")) for row in rows}
    return len(rows) > 1 and len(ends) == 1
