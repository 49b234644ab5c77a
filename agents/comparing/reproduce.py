"""A row of results run again with new seeds, and whether these fall where the old ones say that they should."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from agents import progress
from agents.algorithms.registry import check_trust
from agents.comparing import results, tables
from agents.comparing.aggregate import mean_interval, prediction_interval
from agents.comparing.config import GridConfig, ReproduceConfig
from agents.comparing.grid import Cell
from agents.training import run_folder


class Reproduction:
    """What ``python -m agents reproduce`` does.

    Args:
        config: see ``ReproduceConfig``.
        console: where progress and the answer are told.

    Raises:
        ValueError: there is no such row; the message names those there are.
    """

    def __init__(self, config: ReproduceConfig, console: Console | None = None) -> None:
        self.config, self.console = config, console or progress.console()
        if not Path(config.results).is_file():
            raise FileNotFoundError(f"{config.results} does not exist: give the results.jsonl of a comparison")
        rows = [row for row in results.read(Path(config.results)) if row.get("status") == "done"]
        self.old: dict[str, list[results.Row]] = defaultdict(list)
        for row in rows:
            if row["label"] == config.row and (not config.env_ids or row["env_id"] in config.env_ids):
                self.old[row["env_id"]].append(row)
        if missing := set(config.env_ids) - self.old.keys() or not self.old:
            labels = sorted({row["label"] for row in rows})
            close = difflib.get_close_matches(config.row, labels, 1)
            where = f" on {', '.join(sorted(missing))}" if isinstance(missing, set) else ""
            meant = f": did you mean {close[0]!r}?" if close and close[0] != config.row else ""
            raise ValueError(f"{config.results} has no row {config.row!r}{where}{meant}; it has {', '.join(labels)}")

        for row in (row for several in self.old.values() for row in several):
            self._check(row)

    def _check(self, row: results.Row) -> None:
        """Refuse a row that would have code imported which nobody named, or that settles more than how to train."""
        config, words = self.config, row["settings"]
        for name in ("gold", "reward"):
            if not (isinstance(row.get(name), dict) and isinstance(row[name].get("after"), float | int | None)):
                raise ValueError(f"{config.results}: {config.row} is damaged ({name}={row.get(name)!r})")
        names = (row["algorithm"], row["env_id"], *words)
        code = [name for name in names if re.fullmatch(r"[^:]+:[\w.-]+(/[\w.-]+)?", name)]
        check_trust(code, (*config.trust, config.row, *config.env_ids), config.results)
        flags = {word.partition("=")[0].replace("_", "-") for word in words}
        if odd := flags & {"--out", "--overwrite", "--resume", "--seed"}:
            raise ValueError(f"{config.results}: settings of {config.row} hold {min(odd)}, which is not a row's to say")

    def train(self) -> dict[str, Any]:
        """Run, and say for every id whether the new mean falls within the interval of the old runs; that, by id.

        Raises:
            ValueError: a mean lies outside, a run failed, or the folder holds results of other versions.
        """
        config = self.config
        name = results.score_of(row for rows in self.old.values() for row in rows)
        cells = [
            Cell(config.row, rows[0]["algorithm"], env_id, first + k, tuple(rows[0]["settings"]))
            for env_id, rows in self.old.items()
            for first in [max(row["seed"] for row in rows) + 1]
            for k in range(1 if _same(rows) else config.runs)
        ]
        folder = Path(config.out or "runs/reproduce")
        with run_folder.writing(folder):
            settings = GridConfig(jobs=config.jobs, cluster=config.cluster)
            new = results.complete(cells, folder / "results.jsonl", settings, self.console)
        failed = [row for row in new if row["status"] == "failed"]
        if failed:
            raise ValueError(f"seed {failed[0]['seed']} of {config.row} failed: {failed[0]['error']}")
        if others := results.others([row for rows in self.old.values() for row in rows], run_folder.versions()):
            progress.say(self.console, f"the row was made with other versions: {'; '.join(others)}")
        found = {env_id: self._answer(env_id, name, rows, new) for env_id, rows in self.old.items()}
        if outside := [env_id for env_id, answer in found.items() if not answer["within"]]:
            raise ValueError(f"{config.row} is not reproduced on {', '.join(outside)}; by chance it is so once in 20")
        return found

    def _answer(self, env_id: str, name: str, old: list[results.Row], new: list[results.Row]) -> dict[str, Any]:
        """The row's mean, where new runs should fall, and where they did."""
        before = [row[name]["after"] for row in old]
        found = [row[name]["after"] for row in new if row["env_id"] == env_id]
        mean = sum(found) / len(found)
        if _same(old):
            low, high = (old[0].get(f"{name}_interval") or {}).get("after") or (before[0], before[0])
            within = bool(low <= mean <= high)
            progress.say(
                self.console,
                f"{self.config.row} on {env_id}: {name} {mean:.3f} is {'within' if within else 'OUTSIDE'} "
                f"[{low:.3f}, {high:.3f}], the interval over episodes of {before[0]:.3f}; {len(old)} runs have this to "
                "the last digit, so that a seed changes nothing and one run is enough",
            )
            return {"mean": mean, "low": low, "high": high, "within": within}
        expected = prediction_interval(before, len(found)).of(name)
        within = bool(expected.low <= mean <= expected.high)
        progress.say(
            self.console,
            f"{self.config.row} on {env_id}: {name} {mean:.3f} over {len(found)} new seeds is "
            f"{'within' if within else 'OUTSIDE'} [{expected.low:.3f}, {expected.high:.3f}], where {len(old)} runs of "
            f"{tables.as_text(mean_interval(before).of(name))} say the mean of {len(found)} more falls 95 times in 100",
        )
        return {"mean": mean, "low": float(expected.low), "high": float(expected.high), "within": within}


def _same(rows: Sequence[results.Row]) -> bool:
    """Whether runs of different seeds ended alike to the last digit: of what draws nothing, a new seed says nothing."""
    ends = {(row["gold"]["after"], row["reward"]["after"], row.get("kl"), row.get("tokens")) for row in rows}
    return len(rows) > 1 and len(ends) == 1
