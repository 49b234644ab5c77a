"""Over-optimisation: gold while a learned reward is optimised, by several algorithms and against models of many kinds.

``rewards/`` holds the preference models, ``best_of_n.jsonl`` a row for best of n against each, ``results.jsonl`` a row
for every run; ``report.md`` and the figures follow from the rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from agents import files, progress
from agents.comparing import results, tables
from agents.comparing.grid import GRID, Cell
from agents.comparing.results import Row
from agents.comparing.study import common_words, config_of, own_words
from agents.overoptimisation import reward_models
from agents.overoptimisation.config import OveroptimiseConfig
from agents.overoptimisation.report import FIGURES, report
from agents.overoptimisation.reward_models import DEFAULT, Arm, Start
from agents.settings.bounds import offered
from agents.settings.ids import check_ids
from agents.training import run_folder
from mmenv.rewards.preference.training import Pairs

# Of what the start says; far from those of runs.
POOL_SEED, HELD_OUT_SEED, MANY_SEED = 2_000_000, 2_000_001, 3_000_000
TAKEN = ("reward", "start", "kl-coef", "temperature", "top-p")  # settings that are the command's own


DECODING = ("temperature", "top_p")


class Kind(NamedTuple):
    """Runs that differ by seed alone: their label, the algorithm, the arm of their preference model, and beta."""

    label: str
    algorithm: str
    arm: Arm
    beta: float


class Overoptimisation:
    """What ``python -m agents overoptimise`` does.

    Args:
        config: see ``OveroptimiseConfig``.
        console: where progress and the report are told.

    Raises:
        ValueError: an algorithm, the id or a setting does not exist; nothing has run then.
    """

    def __init__(self, config: OveroptimiseConfig, console: Console | None = None) -> None:
        self.config, self.console = config, console or progress.console()
        self.folder = Path(config.out or "runs/overoptimise")
        check_ids(config.env_id)  # says what is near, where there is no such id
        for setting in config.settings:
            owner, _, name = setting.partition("=")[0].rpartition("/")
            if owner not in (*config.algorithms, ""):
                raise ValueError(f"settings={setting!r}: algorithms={config.algorithms} has no {owner}")
            if (flag := name.replace("_", "-")) in TAKEN:
                raise ValueError(f"settings={setting!r}: every run's {flag} follows from the options of this command")
        self.seeds = range(config.first_seed, config.first_seed + config.seeds)
        self.arms = {arm.name: arm for arm in reward_models.arms(config)}
        self.kinds = self._kinds()
        self.cells()  # a setting that does not exist is told before anything is trained

    def _kinds(self) -> list[Kind]:
        """Algorithms against the default model, then the first of them against the others, and with other betas."""
        config, default, first = self.config, self.arms[DEFAULT], self.config.algorithms[0]
        if config.vary_beta and "kl_coef" not in _settings_of(first):
            raise ValueError(f"vary_beta={config.vary_beta}: {first} has no beta, give --vary-beta no values")
        return [
            *(Kind(name, name, default, config.beta) for name in config.algorithms),
            *(Kind(arm.name, first, arm, config.beta) for arm in self.arms.values() if arm is not default),
            *(Kind(f"beta={beta}", first, default, beta) for beta in config.vary_beta),
        ]

    def cells(self) -> list[Cell]:
        """All runs, by kind and seed."""
        return [
            Cell(kind.label, kind.algorithm, self.config.env_id, seed, self._words(kind, seed))
            for kind in self.kinds
            for seed in self.seeds
        ]

    def _words(self, kind: Kind, seed: int) -> tuple[str, ...]:
        """The command line of a run, but for id, seed and folder."""
        config, rate = self.config, str(self.config.learning_rate)
        ours = {
            "kl_coef": str(kind.beta), "learning_rate": rate, "final_learning_rate": rate, "start": config.start,
            **{name: f"{getattr(config, name):g}" for name in DECODING if getattr(config, name) != 1},
        }  # fmt: skip
        known = _settings_of(kind.algorithm)
        told = [
            word
            for name, value in ours.items()
            if name in known and value
            for word in (f"--{name.replace('_', '-')}", value)
        ]
        common = common_words(config, f"{GRID}/{kind.arm.file(seed)}")
        return *common, *told, *own_words(config, kind.algorithm, kind.algorithm)

    def train(self) -> list[Row]:
        """Make the models, measure best of n, run what is missing, and write the report; all rows.

        Raises:
            ValueError: the folder holds results of other versions or settings.
        """
        with run_folder.writing(self.folder):
            return self._optimised()

    def _optimised(self) -> list[Row]:
        best = self._best_of_n()
        self._rewards_of_runs()
        rows = results.complete(self.cells(), self.folder / "results.jsonl", self.config, self.console)
        text = "# Over-optimisation\n\n" + report([*best, *rows], self.folder)
        (self.folder / "report.md").write_text(text, encoding="utf-8")
        tables.show(self.console, text)
        told = f"results.jsonl, best_of_n.jsonl, report.md, {', '.join(FIGURES)}"
        progress.say(self.console, f"over-optimisation: {self.folder} ({told})")
        return [*best, *rows]

    def _best_of_n(self) -> list[Row]:
        """Rows of best of n against every arm's models: those of the file, and what it lacks."""
        config, path = self.config, self.folder / "best_of_n.jsonl"
        known = {results.key(row): row for row in results.read(path)}
        asked = {(arm.name, config.env_id, seed): arm for arm in self.arms.values() for seed in self.seeds}
        results.check_versions([known[key] for key in asked if key in known], path, config)
        for key, arm in asked.items():
            if key in known:
                self._check(known[key], arm, path)
        for seed in self.seeds:
            left = [arm for key, arm in asked.items() if key[2] == seed and key not in known]
            for row in self._measured(left, seed):
                known[results.key(row)] = row
                files.write_lines(path, sorted(known.values(), key=results.key))
        return [known[key] for key in asked]

    def _measured(self, left: Sequence[Arm], seed: int) -> Iterator[Row]:
        """Best of n by the models of some arms, on the same responses."""
        if not left:
            return
        config, rewards = self.config, [self._reward(arm, seed) for arm in left]
        with progress.bar(
            self.console, f"best of n, seed {seed}", config.contexts * config.best_of, transient=True
        ) as told:
            said = self.start.many(config.contexts, config.best_of, MANY_SEED + seed, told)
        for arm, reward in zip(left, rewards, strict=True):
            yield reward_models.best_of_n_row(reward, arm, config.env_id, seed, said, config.best_of)

    def _check(self, row: Row, arm: Arm, path: Path) -> None:
        """Refuse a row of best of n that stands for something else."""
        made = {k: v for k, v in row["model"].items() if k != "agreement"}
        if (made, row["n"], row["contexts"]) != (arm.model(), self.config.best_of, self.config.contexts):
            told = f"{made}, best of {row['n']} on {row['contexts']} contexts"
            raise ValueError(f"{path} holds {arm.name} as {told}: take another --out")

    def _rewards_of_runs(self) -> None:
        """Models of the runs that are still to come, where their files are gone."""
        done = {results.key(r) for r in results.read(self.folder / "results.jsonl") if r["status"] == "done"}
        for kind in self.kinds:
            for seed in self.seeds:
                if (kind.label, self.config.env_id, seed) not in done:
                    self._reward(kind.arm, seed)

    def _reward(self, arm: Arm, seed: int) -> Path:
        """The weights of an arm's model, made where they are missing."""
        path, of = self.folder / arm.file(seed), self._of()
        if path.is_file():
            reward_models.check_reward(path, arm, seed, of)
            return path
        reward_models.make_reward(path, arm, seed, of, self.pool, self.held_out)
        right = reward_models.agreement_of(path)
        told = "gold tells no two apart" if right is None else f"agreement {right:.3f}"
        progress.say(self.console, f"{arm.file(seed)}: {arm.labels:,} labels, {told}")
        return path

    def _of(self) -> dict[str, Any]:
        """Whose responses are compared."""
        decoding = {name: getattr(self.config, name) for name in DECODING}
        return {"env_id": self.config.env_id, "start": self.config.start, **decoding}

    @cached_property
    def start(self) -> Start:
        """What is optimised from, read where it is first needed."""
        return Start(self.config.env_id, self.config.start, self.config.temperature, self.config.top_p)

    @cached_property
    def pool(self) -> Pairs:
        """Pairs that all models draw from."""
        most = reward_models.POOL * max(arm.labels for arm in self.arms.values())
        with progress.bar(self.console, "pairs", most, transient=True) as told:
            return self.start.pairs("train", most, POOL_SEED, told)

    @cached_property
    def held_out(self) -> Pairs:
        """Pairs that no model has seen."""
        with progress.bar(self.console, "pairs held out", self.config.held_out, transient=True) as told:
            return self.start.pairs("validation", self.config.held_out, HELD_OUT_SEED, told)


def _settings_of(algorithm: str) -> set[str]:
    return set(offered(config_of(algorithm)))
