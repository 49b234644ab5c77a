"""The report of ``python -m agents overoptimise``: figures, fits with their residuals, peaks, and gold lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.comparing import results, tables
from agents.comparing.aggregate import Estimate, mean_interval
from agents.comparing.results import Row
from agents.overoptimisation import figures
from agents.overoptimisation.config import FACTORS
from agents.overoptimisation.figures import Course
from agents.overoptimisation.fits import Fit, Form, distance, fit, fit_runs, peak_interval, peak_shift
from agents.overoptimisation.reward_models import BEST, DEFAULT
from agents.training.figures import smooth

WINDOW = 3  # points of a curve that gold, reward and KL are averaged over: KL of one update is noisy
SPREAD = 24  # points of best of n, even on a scale of log n
TITLES = {"flip": "share turned round", "members": "ensemble", "hidden": "units"}  # of factors, where not their names
FIGURES = ("overoptimisation-algorithms", "overoptimisation-variations", "overoptimisation-best-of-n")


class RunSet(NamedTuple):
    """Runs that differ by seed alone, with their common fit.

    Attributes:
        form: of the fit.
        courses: seed -> points of the run.
        fit: to all runs that can be fitted; None where none can.
        peak: of the fit, with its interval over runs.
        ends: seed -> gold of the training split at the highest point of the run's own fit, and at its end.
        errors: which runs could not be fitted, and why.
    """

    form: Form
    courses: dict[int, Course]
    fit: Fit | None
    peak: Estimate | None
    ends: dict[int, tuple[float, float]]
    errors: list[str]


def run_course(curve: Mapping[str, Sequence[Any]], start: float, window: int = WINDOW) -> Course:
    """Points of a run from its curve, without those whose gold or KL is unknown.

    Args:
        curve: gold, reward and KL of its updates, None where unknown.
        start: gold of the start on the split that it trains on.
        window: points that each is averaged over.
    """
    gold, reward, kl = (
        smooth(np.array([np.nan if value is None else value for value in curve[name]], dtype=float), window)
        for name in ("gold", "reward", "kl")
    )
    is_known = np.isfinite(gold) & np.isfinite(kl)
    return Course(distance(kl[is_known]), gold[is_known] - start, reward[is_known])


def best_course(curve: Mapping[str, Sequence[float]]) -> Course:
    """Points of best of n, relative to n = 1 of the same responses."""
    n = len(curve["n"])
    indices = np.unique(np.geomspace(1, n, SPREAD).round().astype(int)) - 1
    kl, gold, reward = (np.array(curve[name], dtype=float)[indices] for name in ("kl", "gold", "reward"))
    return Course(distance(kl), gold - curve["gold"][0], reward)


def fit_courses(form: Form, courses: Mapping[int, Course], start: float) -> RunSet:
    """Fit all runs together and each by itself.

    Args:
        form: ``RL`` or ``best of n``.
        courses: seed -> points.
        start: gold of the start, which the courses' gold is relative to.
    """
    fits: dict[int, Fit] = {}
    errors = []
    for seed, course in courses.items():
        try:
            fits[seed] = fit(form, course.d, course.gold)
        except ValueError as error:
            errors.append(f"seed {seed}: {error}")
    if not fits:
        return RunSet(form, dict(courses), None, None, {}, errors)
    points = [(courses[seed].d, courses[seed].gold) for seed in fits]
    ends = {}
    for seed, fitted in fits.items():
        highest = float(fitted.at(np.array(min(max(fitted.peak, 0.0), fitted.reach))))
        ends[seed] = (start + max(0.0, highest), start + float(courses[seed].gold[-1]))
    return RunSet(form, dict(courses), fit_runs(form, points), peak_interval(form, points), ends, errors)


class Rows:
    """Rows of a study: those of best of n by preference model, those of runs by label.

    Args:
        rows: of ``results.jsonl`` and ``best_of_n.jsonl``, in any order.

    Raises:
        ValueError: best of n against the default model is missing, so that the gold of the start is unknown.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = sorted(rows, key=lambda row: (row["label"], row["env_id"], row["seed"]))
        self.best = _by_label(row for row in rows if row["algorithm"] == BEST)
        self.runs = _by_label(row for row in rows if row["algorithm"] != BEST)
        if DEFAULT not in self.best:
            raise ValueError("no rows of best of n against the default model: run python -m agents overoptimise")
        self.start = float(np.mean([row["curve"]["gold"][0] for row in self.best[DEFAULT]]))
        varied = [label for label in self.runs if "=" in label]
        self.first = self.runs[varied[0]][0]["algorithm"] if varied else ""
        names = [label for label in self.runs if "=" not in label]
        self.algorithms = sorted(names, key=lambda label: (label != self.first, label))

    @property
    def all_runs(self) -> list[Row]:
        """Every row of a run."""
        return [row for rows in self.runs.values() for row in rows]

    def default(self, factor: str) -> float:
        """The default's value of a factor."""
        if factor != "kl_coef":
            return float(self.best[DEFAULT][0]["model"][factor])
        return float(self.runs[self.first][0]["overrides"]["kl_coef"])

    def groups(self, labels: Iterable[str], default: str) -> dict[str, dict[str, str]]:
        """What is varied -> name of a value, in order of the values -> its label; the default's value is among them.

        Args:
            labels: those that there are.
            default: the one in which nothing is varied.
        """
        labels = list(labels)
        groups: dict[str, dict[str, str]] = {}
        for factor in FACTORS:
            by_value = {_value(label): label for label in labels if label.startswith(f"{factor}=")}
            if by_value and default in labels:
                value = self.default(factor)
                number = int(value) if factor in ("labels", "members", "hidden") else value
                names = {**by_value, value: f"{factor}={number}"}
                by_value[value] = default
                groups[factor] = {names[v]: by_value[v] for v in sorted(by_value)}
        return groups


def _value(label: str) -> float:
    """The value in a label, 300 in ``labels=300``."""
    return float(label.partition("=")[2])


def _by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    return by_label


def report(rows: Iterable[Row], folder: Path, prefix: str = "") -> str:
    """Draw the figures and write the report in Markdown, its headings from the second level on.

    Args:
        rows: of ``results.jsonl`` and ``best_of_n.jsonl``, in any order.
        folder: of the figures.
        prefix: before the figures' names where the report shows them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of = Rows(rows)
    runs = {}
    for label, own in of.runs.items():
        courses = {row["seed"]: run_course(row["curve"], of.start) for row in own if row["status"] == "done"}
        runs[label] = fit_courses("RL", courses, of.start)
    best = {
        label: fit_courses("best of n", {row["seed"]: best_course(row["curve"]) for row in own}, of.start)
        for label, own in of.best.items()
    }
    marks = results.marks(of.all_runs)
    shown = {label + marks.get(label, ""): runs[label] for label in of.algorithms} | {"best of n": best[DEFAULT]}
    figures.algorithms(
        {name: list(runs.courses.values()) for name, runs in shown.items()}, _fits(shown), folder / FIGURES[0],
        "Gold and reward on the way from the start, with the fit of gold\n"
        "dotted: its peak, with the interval as a band; grey: the other fits", _peaks(shown),
    )  # fmt: skip
    parts = [_header(of), "## Algorithms and best of n", f"![gold and reward by algorithm]({prefix}{FIGURES[0]}.svg)"]
    parts += _tables(shown)
    variations = (
        (f"Models and kl_coef, {of.first}", runs, of.first, FIGURES[1]),
        ("Models, best of n", best, DEFAULT, FIGURES[2]),
    )
    for title, by_label, default, figure in variations:
        parts += _variation(title, of.groups(by_label, default), default, by_label, folder / figure, prefix)
    parts += ["## The preference models", _models(of)]
    if failed := [row for row in of.all_runs if row["status"] == "failed"]:
        parts += ["## Failed", tables.failures(failed)]
    return "\n\n".join(parts) + "\n"


def _fits(shown: Mapping[str, RunSet]) -> dict[str, Fit]:
    return {name: runs.fit for name, runs in shown.items() if runs.fit is not None}


def _peaks(shown: Mapping[str, RunSet]) -> dict[str, Estimate]:
    return {name: runs.peak for name, runs in shown.items() if runs.peak is not None}


def _header(of: Rows) -> str:
    """What was run, and how the numbers are to be read."""
    rows, best = of.all_runs, of.best[DEFAULT]
    facts = results.Facts(rows)
    lines = [
        f"`{best[0]['env_id']}`: {facts.runs}",
        f"{facts.budget} tokens each.",
        f"d is √KL to the start in √nats. Gold is measured on the training split. The start has {of.start:.3f}, over",
        f"{best[0]['contexts']} contexts per seed with {best[0]['n']} responses each; best of n chooses among these.",
        f"Each point of a run is the mean of {WINDOW} points. The gain in gold is fitted with d (a - b log d) for runs",
        "and d (a - b d) for best of n. Intervals of peaks are bootstrap intervals over seeds (those of shifts over",
        "pairs of runs with the same seed). All other intervals are Student's. All are 95% intervals.",
        f"Commit {facts.commits}; {' / '.join(facts.versions)};",
        f"{facts.machines}.",
        *facts.mixed_versions,
    ]
    return "\n".join(lines)


def _variation(
    title: str,
    groups: Mapping[str, Mapping[str, str]],
    default: str,
    by_label: Mapping[str, RunSet],
    figure: Path,
    prefix: str,
) -> list[str]:
    """Figure and tables of what differs from the default in one thing; no sections where nothing does."""
    if not groups:
        return []
    names = {name: label for group in groups.values() for name, label in group.items()}
    shown = {name: by_label[label] for name, label in names.items()}
    courses = {
        TITLES.get(factor, factor): {name: list(shown[name].courses.values()) for name in group}
        for factor, group in groups.items()
    }
    figures.variations(
        courses, _fits(shown), _peaks(shown), figure,
        f"{title}: gold with its fit and peak, one thing varied at a time\nbars: intervals of the peaks",
    )  # fmt: skip
    shifts = {name: _shift(by_label[label], by_label[default]) for name, label in names.items() if label != default}
    same = [name for name, label in names.items() if label == default]
    note = f"The default is {', '.join(same)}. Every other row differs from it in one value."
    return [f"## {title}", f"![{title}]({prefix}{figure.name}.svg)", note, *_tables(shown, shifts)]


def _shift(runs: RunSet, default: RunSet) -> Estimate | None:
    """How much later a peak is than the default's, over the seeds that both have; None where either was not seen."""
    seeds = [seed for seed in runs.ends if seed in default.ends]
    points = []
    for one in (runs, default):
        common = fit_courses(one.form, {seed: one.courses[seed] for seed in seeds}, 0.0)
        if common.fit is None or not common.fit.seen:
            return None
        points.append([(course.d, course.gold) for course in common.courses.values()])
    return peak_shift(runs.form, points[0], points[1])


def _tables(shown: Mapping[str, RunSet], shifts: Mapping[str, Estimate | None] | None = None) -> list[str]:
    """Coefficients, residuals and peaks; gold at its highest and at the end; and what could not be fitted."""
    parts = [peak_table(_fits(shown), _peaks(shown), shifts)] if _fits(shown) else []
    header = ["algorithm", "runs", "gold, highest of the fit", "at the end", "lost", "reward at the end", "√KL"]
    rows = [[name, *_end_cells(runs)] for name, runs in shown.items()]
    parts.append(tables.table([*header, "end below the start"], rows))
    parts += [f"No fit of {name}, {error}." for name, runs in shown.items() for error in runs.errors]
    parts += [f"No fit of {name}: no run is done." for name, runs in shown.items() if not runs.courses]
    return parts


def peak_table(
    fits: Mapping[str, Fit], intervals: Mapping[str, Estimate], shifts: Mapping[str, Estimate | None] | None = None
) -> str:
    """Coefficients, residual and peak of every fit; of a peak beyond the distances that were reached only that.

    Args:
        fits: algorithm -> fit of gold over sqrt(KL).
        intervals: algorithm -> the peak with its interval.
        shifts: algorithm -> how much later its peak is than the default's, None where either was not seen; names that
            are not there are the default. Given, they are a column.
    """
    header, rows = ["algorithm", "form", "a", "b", "RMSE", "reached √KL", "peak at √KL"], []
    for name, one in fits.items():
        peak = tables.as_text(intervals[name], 2) if one.seen else f"beyond {one.reach:.2f}"
        row = [name, one.form, f"{one.a:.3f}", f"{one.b:.3f}", f"{one.rmse:.3f}", f"{one.reach:.2f}", peak]
        if shifts is not None:
            shift = shifts.get(name)
            later = "not seen" if shift is None else tables.as_text(shift, 2, sign="+")
            row.append(later if name in shifts else "the default")
        rows.append(row)
    return tables.table(header if shifts is None else [*header, "later than the default's by"], rows)


def _end_cells(runs: RunSet) -> list[str]:
    """Cells about where runs are highest and where they end."""
    cells = ["-"] * 6
    if runs.ends:
        highest, end = (list(values) for values in zip(*runs.ends.values(), strict=True))
        lost = [h - e for h, e in runs.ends.values()]
        for k, (score, values) in enumerate((("gold", highest), ("gold", end), ("loss", lost))):
            cells[k] = tables.as_text(mean_interval(values).of(score))
    if lasts := [course for course in runs.courses.values() if len(course.d)]:
        cells[3] = tables.as_text(mean_interval([float(course.reward[-1]) for course in lasts]).of("reward"), 2)
        cells[4] = tables.as_text(mean_interval([float(course.d[-1]) for course in lasts]).of("kl"), 2)
        cells[5] = f"{sum(course.gold[-1] < 0 for course in lasts)} of {len(lasts)}"
    return [str(len(runs.courses)), *cells]


def _models(of: Rows) -> str:
    """What each kind of model is made of, and how often it is right on pairs that it has not seen."""
    varied = [label for label in of.best if "=" in label]
    varied.sort(key=lambda label: (FACTORS.index(label.partition("=")[0]), _value(label)))
    lines = []
    for label in [DEFAULT, *varied]:
        model = of.best[label][0]["model"]
        right = [row["model"]["agreement"] for row in of.best[label] if row["model"]["agreement"] is not None]
        agreement = "no pair differs in gold"
        if right:
            agreement = f"{tables.as_text(mean_interval(right).of('share'))}, n = {len(right)}"
        made = [f"{model['labels']:,}", f"{model['flip']:g}", str(model["members"]), str(model["hidden"])]
        lines.append([label, *made, model["combine"], agreement])
    return tables.table(["model", "labels", "flipped", "members", "units", "reward", "agreement with gold"], lines)
