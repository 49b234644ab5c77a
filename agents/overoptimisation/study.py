"""Over-optimisation: gold while a learned reward is optimised, by several algorithms and against several models.

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
from agents.comparing.grid import Cell
from agents.comparing.results import Row
from agents.comparing.settings import overrides_of, shared_overrides, split_setting
from agents.overoptimisation import reward_models
from agents.overoptimisation.config import OveroptimiseConfig
from agents.overoptimisation.report import FIGURES, report
from agents.overoptimisation.reward_models import DEFAULT, RewardModelSpec, Start
from agents.settings.bounds import offered
from agents.settings.ids import check_ids
from agents.training import run_folder
from agents.training.launch import config_class
from mmenv.rewards.preference.training import Pairs

# Seeds of the responses of the start; far from those of runs.
POOL_SEED, HELD_OUT_SEED, BEST_OF_N_SEED = 2_000_000, 2_000_001, 3_000_000
DECODING = ("temperature", "top_p")
RESERVED = ("reward", "start", "kl_coef", *DECODING)  # settings of runs that follow from the command's options


class Kind(NamedTuple):
    """Runs that differ by seed alone.

    Attributes:
        label: their row in tables.
        algorithm: a name, or ``package.module:Class``.
        spec: of the preference model that they optimise.
        kl_coef: cost of a nat of KL to the start.
    """

    label: str
    algorithm: str
    spec: RewardModelSpec
    kl_coef: float


class Overoptimisation:
    """What ``python -m agents overoptimise`` does.

    Args:
        config: see ``OveroptimiseConfig``.
        console: where progress and the report are printed.

    Raises:
        ValueError: an algorithm, the id or a setting does not exist; nothing has run then.
    """

    def __init__(self, config: OveroptimiseConfig, console: Console | None = None) -> None:
        self.config, self.console = config, console or progress.console()
        self.folder = Path(config.out or "runs/overoptimise")
        check_ids(config.env_id)
        for setting in config.settings:
            owner, name, _ = split_setting(setting)
            if owner not in config.algorithms:
                raise ValueError(f"settings={setting!r}: algorithms={config.algorithms} has no {owner}")
            if name in RESERVED:
                option = name.replace("_", "-")
                raise ValueError(f"settings={setting!r}: every run's {option} follows from the options of this command")
        self.seeds = range(config.first_seed, config.first_seed + config.seeds)
        self.specs = {spec.name: spec for spec in reward_models.specs(config)}
        self.kinds = self._kinds()
        self.cells()  # checks every setting before anything is trained

    def _kinds(self) -> list[Kind]:
        """Algorithms against the default model; then the first of them against the others, and with other kl_coef."""
        config, default, first = self.config, self.specs[DEFAULT], self.config.algorithms[0]
        if config.vary_kl_coef and "kl_coef" not in _settings_of(first):
            raise ValueError(
                f"vary_kl_coef={config.vary_kl_coef}: {first} has no kl_coef, give --vary-kl-coef no values"
            )
        return [
            *(Kind(name, name, default, config.kl_coef) for name in config.algorithms),
            *(Kind(spec.name, first, spec, config.kl_coef) for spec in self.specs.values() if spec is not default),
            *(Kind(f"kl_coef={kl_coef}", first, default, kl_coef) for kl_coef in config.vary_kl_coef),
        ]

    def cells(self) -> list[Cell]:
        """All runs, by kind and seed."""
        return [
            Cell(kind.label, kind.algorithm, self.config.env_id, seed, overrides, {"reward": kind.spec.file(seed)})
            for kind in self.kinds
            for overrides in [self._overrides(kind)]
            for seed in self.seeds
        ]

    def _overrides(self, kind: Kind) -> dict[str, Any]:
        """The settings of a kind's runs, but for the reward."""
        config = self.config
        settings: dict[str, Any] = {"kl_coef": kind.kl_coef, "learning_rate": config.learning_rate}
        settings |= {"final_learning_rate": config.learning_rate, "start": config.start}
        settings |= {name: getattr(config, name) for name in DECODING if getattr(config, name) != 1}
        names = _settings_of(kind.algorithm)
        shared = {name: value for name, value in settings.items() if name in names and value is not None}
        return overrides_of(kind.algorithm, kind.algorithm, config.settings, {**shared_overrides(config), **shared})

    def run(self) -> list[Row]:
        """Make the models, measure best of n, run what is missing, and write the report; all rows.

        Raises:
            ValueError: the folder holds results of other versions or settings.
        """
        with run_folder.writing(self.folder):
            return self._run()

    def _run(self) -> list[Row]:
        best = self._best_of_n()
        self._rewards_of_runs()
        rows = results.complete(self.cells(), self.folder / "results.jsonl", self.config, self.console)
        text = "# Over-optimisation\n\n" + report([*best, *rows], self.folder)
        (self.folder / "report.md").write_text(text, encoding="utf-8")
        tables.show(self.console, text)
        files = f"results.jsonl, best_of_n.jsonl, report.md, {', '.join(FIGURES)}"
        progress.say(self.console, f"over-optimisation: {self.folder} ({files})")
        return [*best, *rows]

    def _best_of_n(self) -> list[Row]:
        """Rows of best of n against every spec's models: those of the file, and what it lacks."""
        config, path = self.config, self.folder / "best_of_n.jsonl"
        rows = {results.key(row): row for row in results.read(path)}
        requested = {(spec.name, config.env_id, seed): spec for spec in self.specs.values() for seed in self.seeds}
        results.check_versions([rows[key] for key in requested if key in rows], path, config)
        for key, spec in requested.items():
            if key in rows:
                self._check(rows[key], spec, path)
        for seed in self.seeds:
            missing = [spec for key, spec in requested.items() if key[2] == seed and key not in rows]
            for row in self._measure(missing, seed):
                rows[results.key(row)] = row
                files.write_lines(path, sorted(rows.values(), key=results.key))
        return [rows[key] for key in requested]

    def _measure(self, specs: Sequence[RewardModelSpec], seed: int) -> Iterator[Row]:
        """Best of n by models of these specs, on the same responses."""
        if not specs:
            return
        config = self.config
        rewards = [self._reward(spec, seed) for spec in specs]
        total = config.contexts * config.best_of
        with progress.bar(self.console, f"best of n, seed {seed}", total, transient=True) as show:
            responses = self.start.sample_responses(config.contexts, config.best_of, BEST_OF_N_SEED + seed, show)
        for spec, reward in zip(specs, rewards, strict=True):
            yield reward_models.best_of_n_row(reward, spec, config.env_id, seed, responses, config.best_of)

    def _check(self, row: Row, spec: RewardModelSpec, path: Path) -> None:
        """Refuse a row of best of n whose model, contexts or n are others than this study's."""
        made = {k: v for k, v in row["model"].items() if k != "agreement"}
        if (made, row["n"], row["contexts"]) != (spec.model(), self.config.best_of, self.config.contexts):
            stored = f"{made}, best of {row['n']} on {row['contexts']} contexts"
            raise ValueError(f"{path} holds {spec.name} as {stored}: take another --out")

    def _rewards_of_runs(self) -> None:
        """Make the models of runs that are missing, where their files are gone."""
        done = {results.key(r) for r in results.read(self.folder / "results.jsonl") if r["status"] == "done"}
        for kind in self.kinds:
            for seed in self.seeds:
                if (kind.label, self.config.env_id, seed) not in done:
                    self._reward(kind.spec, seed)

    def _reward(self, spec: RewardModelSpec, seed: int) -> Path:
        """The weights of a spec's model, made where they are missing."""
        path, source = self.folder / spec.file(seed), self._source()
        if path.is_file():
            reward_models.check_reward(path, spec, seed, source)
            return path
        reward_models.make_reward(path, spec, seed, source, self.pool, self.held_out)
        right = reward_models.agreement_of(path)
        agreement = "no pair differs in gold" if right is None else f"agreement {right:.3f}"
        progress.say(self.console, f"{spec.file(seed)}: {spec.labels:,} labels, {agreement}")
        return path

    def _source(self) -> dict[str, Any]:
        """The policy whose responses are compared, for the metadata of models."""
        decoding = {name: getattr(self.config, name) for name in DECODING}
        return {"env_id": self.config.env_id, "start": self.config.start, **decoding}

    @cached_property
    def start(self) -> Start:
        """The start of all runs, read where it is first needed."""
        return Start(self.config.env_id, self.config.start, self.config.temperature, self.config.top_p)

    @cached_property
    def pool(self) -> Pairs:
        """Pairs that all models draw from."""
        most = reward_models.POOL * max(spec.labels for spec in self.specs.values())
        with progress.bar(self.console, "pairs", most, transient=True) as show:
            return self.start.sample_pairs("train", most, POOL_SEED, show)

    @cached_property
    def held_out(self) -> Pairs:
        """Pairs that no model has seen."""
        with progress.bar(self.console, "pairs held out", self.config.held_out, transient=True) as show:
            return self.start.sample_pairs("validation", self.config.held_out, HELD_OUT_SEED, show)


def _settings_of(algorithm: str) -> set[str]:
    """Names of the settings that an algorithm has."""
    return set(offered(config_class(algorithm)))
