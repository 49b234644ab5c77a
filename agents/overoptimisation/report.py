"""What the rows of ``python -m agents overoptimise`` say: figures, fits with their residuals, peaks, and gold lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.comparing import figures as plots
from agents.comparing import results, tables
from agents.comparing.aggregate import Estimate, mean_interval
from agents.comparing.figures import Course
from agents.comparing.results import Row
from agents.overoptimisation.config import FACTORS
from agents.overoptimisation.fits import Fit, Form, distance, fit, peak_interval, peak_shift
from agents.overoptimisation.reward_models import BEST, DEFAULT
from agents.training.figures import smooth

WINDOW = 3  # points of a curve that gold, reward and KL are averaged over: KL of one update is noisy
SPREAD = 24  # points of best of n, even on a scale of log n
NAMES = {"labels": "labels", "flip": "share turned round", "members": "ensemble", "hidden": "units", "beta": "beta"}
FIGURES = ("overoptimisation-algorithms", "overoptimisation-variations", "overoptimisation-best-of-n")


class Found(NamedTuple):
    """What is known of runs that differ by seed alone.

    Attributes:
        form: of the fit.
        courses: run -> its points.
        fit: to all runs that can be fitted; None where none can.
        peak: of the fit, with its interval over runs.
        ends: run -> gold of the training split at the highest point of its own fit and at its end.
        faults: what could not be fitted, and why.
    """

    form: Form
    courses: dict[int, Course]
    fit: Fit | None
    peak: Estimate | None
    ends: dict[int, tuple[float, float]]
    faults: list[str]


def run_course(curve: Mapping[str, Sequence[Any]], start: float, window: int = WINDOW) -> Course:
    """Points of a run from its curve; what is not known is left out.

    Args:
        curve: gold, reward and KL of its updates, None where unknown.
        start: gold of the start on the split that it trains on.
        window: points that each is averaged over.
    """
    gold, reward, kl = (
        smooth(np.array([np.nan if v is None else v for v in curve[name]], dtype=float), window)
        for name in ("gold", "reward", "kl")
    )
    known = np.isfinite(gold) & np.isfinite(kl)
    return Course(distance(kl[known]), gold[known] - start, reward[known])


def best_course(curve: Mapping[str, Sequence[float]]) -> Course:
    """Points of best of n, relative to n = 1 of the same responses."""
    n = len(curve["n"])
    at = np.unique(np.geomspace(1, n, SPREAD).round().astype(int)) - 1
    kl, gold, reward = (np.array(curve[name], dtype=float)[at] for name in ("kl", "gold", "reward"))
    return Course(distance(kl), gold - curve["gold"][0], reward)


def find(form: Form, courses: Mapping[int, Course], start: float) -> Found:
    """Fit all runs, and say which cannot be fitted.

    Args:
        form: ``RL`` or ``best of n``.
        courses: seed -> points.
        start: gold of the start, which the courses' gold is relative to.
    """
    fitted: dict[int, Fit] = {}
    faults = []
    for seed, course in courses.items():
        try:
            fitted[seed] = fit(form, course.d, course.gold)
        except ValueError as error:
            faults.append(f"seed {seed}: {error}")
    if not fitted:
        return Found(form, dict(courses), None, None, {}, faults)
    whole = [(courses[seed].d, courses[seed].gold) for seed in fitted]
    together = fit(form, *(np.concatenate(part) for part in zip(*whole, strict=True)))
    highest = {seed: float(one.at(np.array(min(max(one.peak, 0.0), one.reach)))) for seed, one in fitted.items()}
    ends = {seed: (start + max(0.0, highest[seed]), start + float(courses[seed].gold[-1])) for seed in fitted}
    return Found(form, dict(courses), together, peak_interval(form, whole), ends, faults)


class Rows:
    """Rows by what they are: best of n by arm, runs by label.

    Args:
        rows: of ``results.jsonl`` and ``best_of_n.jsonl``, in any order.

    Raises:
        ValueError: best of n against the default model is missing, which says where all begin.
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
        plain = [label for label in self.runs if "=" not in label]
        self.algorithms = sorted(plain, key=lambda label: (label != self.first, label))

    @property
    def all(self) -> list[Row]:
        """Every row of a run."""
        return [row for rows in self.runs.values() for row in rows]

    def default(self, factor: str) -> float:
        """What the default arm has of a factor."""
        if factor != "beta":
            return self.best[DEFAULT][0]["model"][factor]
        settings = self.runs[self.first][0]["settings"]
        return float(settings[settings.index("--kl-coef") + 1])

    def groups(self, among: Mapping[str, Any], default: str) -> dict[str, dict[str, str]]:
        """What is varied -> name of a value, in order -> the label that has it, the default's among them.

        Args:
            among: labels that there are.
            default: label of what nothing is varied in.
        """
        found: dict[str, dict[str, str]] = {}
        for factor in FACTORS:
            labels = {float(label.partition("=")[2]): label for label in among if label.startswith(f"{factor}=")}
            if labels and default in among:
                labels[self.default(factor)] = default
                found[factor] = {_name(factor, value, labels[value]): labels[value] for value in sorted(labels)}
        return found


def _name(factor: str, value: float, label: str) -> str:
    """What a value is called: its label, or for the default's a name like one."""
    return label if "=" in label else f"{factor}={value}"


def _by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row)
    return found


def report(rows: Iterable[Row], folder: Path, prefix: str = "") -> str:
    """Draw the figures and write the report in Markdown, its headings from the second level on.

    Args:
        rows: of ``results.jsonl`` and ``best_of_n.jsonl``, in any order.
        folder: of the figures.
        prefix: before the figures' names where the report shows them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of = Rows(rows)
    runs = {label: _runs(rows, of.start) for label, rows in of.runs.items()}
    best = {label: _best(rows, of.start) for label, rows in of.best.items()}
    marks = results.marks(of.all)
    parts = [_head(of), "## Algorithms and best of n"]
    shown = {label + marks.get(label, ""): runs[label] for label in of.algorithms} | {"best of n": best[DEFAULT]}
    plots.overoptimisation(
        {name: list(found.courses.values()) for name, found in shown.items()}, _fits(shown), folder / FIGURES[0],
        "Gold and reward on the way from the start, with the fit of gold\n"
        "dotted: its peak, with the interval as a band; grey: the other fits", _peaks(shown),
    )  # fmt: skip
    parts += [f"![gold and reward by algorithm]({prefix}{FIGURES[0]}.svg)", *_tables(shown)]
    groups = of.groups(runs, of.first)
    parts += _varied(f"Models and beta, {of.first}", groups, of.first, runs, folder, prefix, FIGURES[1])
    groups = of.groups(best, DEFAULT)
    parts += _varied("Models, best of n", groups, DEFAULT, best, folder, prefix, FIGURES[2])
    parts += ["## The preference models", _models(of)]
    if failed := [row for row in of.all if row["status"] == "failed"]:
        parts += ["## Failed", tables.failures(failed)]
    return "\n\n".join(parts) + "\n"


def _runs(rows: Sequence[Row], start: float) -> Found:
    return find("RL", {r["seed"]: run_course(r["curve"], start) for r in rows if r["status"] == "done"}, start)


def _best(rows: Sequence[Row], start: float) -> Found:
    return find("best of n", {r["seed"]: best_course(r["curve"]) for r in rows}, start)


def _fits(shown: Mapping[str, Found]) -> dict[str, Fit]:
    return {name: found.fit for name, found in shown.items() if found.fit is not None}


def _peaks(shown: Mapping[str, Found]) -> dict[str, Estimate]:
    return {name: found.peak for name, found in shown.items() if found.peak is not None}


def _head(of: Rows) -> str:
    """What was run, of which the numbers speak."""
    rows, best = of.all, of.best[DEFAULT]
    done = [row for row in rows if row["status"] == "done"]
    seeds = sorted({row["seed"] for row in rows})
    budget = sorted({row["config"]["total_tokens"] for row in done})
    versions = sorted({", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows})
    told = [
        f"`{best[0]['env_id']}`: {len(done)} of {len(rows)} runs are done; seeds {', '.join(map(str, seeds))};",
        f"{' or '.join(f'{b:,}' for b in budget) or 'no'} tokens each.",
        f"d is √KL to the start in √nats. Gold is that of the training split; the start's is {of.start:.3f}, over",
        f"{best[0]['contexts']} contexts a seed with {best[0]['n']} responses to each, among which best of n chooses.",
        f"Points of runs are means of {WINDOW}. Gold gained is fitted by d (a - b log d), by best of n by d (a - b d).",
        "Intervals of peaks are of the bootstrap over seeds (those of later peaks over pairs of one seed), the others "
        "Student's, 95%.",
        f"Commit {', '.join(sorted({str(row['commit']) for row in rows}))}; {' / '.join(versions)};",
        f"{' / '.join(sorted({row['machine'] for row in rows}))}.",
    ]
    if len(versions) > 1:
        told.append("† marks rows of other versions than the first: their numbers may differ for that reason alone.")
    return "\n".join(told)


def _varied(
    title: str,
    groups: Mapping[str, Mapping[str, str]],
    default: str,
    found: Mapping[str, Found],
    folder: Path,
    prefix: str,
    figure: str,
) -> list[str]:
    """Figure and tables of what differs from the default in one thing; nothing where nothing does."""
    if not groups:
        return []
    shown = {name: found[label] for group in groups.values() for name, label in group.items()}
    drawn = {
        NAMES[factor]: {name: list(shown[name].courses.values()) for name in group} for factor, group in groups.items()
    }
    plots.variations(
        drawn, _fits(shown), _peaks(shown), folder / figure,
        f"{title}: gold with its fit and peak, one thing varied at a time\nbars: intervals of the peaks",
    )  # fmt: skip
    names = {name: label for group in groups.values() for name, label in group.items() if label != default}
    shifts = {name: _shift(found[label], found[default]) for name, label in names.items()}
    same = [name for group in groups.values() for name, label in group.items() if "=" not in label]
    told = f"{', '.join(same)} {'are the same' if len(same) > 1 else 'is the default'}: nothing is varied there."
    return [f"## {title}", f"![{title}]({prefix}{figure}.svg)", told, *_tables(shown, shifts)]


def _shift(found: Found, default: Found) -> Estimate | None:
    """How much later a peak is than the default's, over the seeds that both have; None where either was not seen."""
    seeds = [seed for seed in found.ends if seed in default.ends]
    both = [find(of.form, {seed: of.courses[seed] for seed in seeds}, 0.0) for of in (found, default)]
    if any(of.fit is None or not of.fit.seen for of in both):
        return None
    runs, others = ([(course.d, course.gold) for course in of.courses.values()] for of in both)
    return peak_shift(found.form, runs, others)


def _tables(shown: Mapping[str, Found], shifts: Mapping[str, Estimate | None] | None = None) -> list[str]:
    """Coefficients, residuals and peaks; gold at its highest and at the end; and what could not be fitted."""
    parts = []
    if _fits(shown):
        parts.append(tables.peaks(_fits(shown), _peaks(shown), shifts))
    rows = [[name, *_ends(found)] for name, found in shown.items()]
    header = ["algorithm", "runs", "gold, highest of the fit", "at the end", "lost", "reward at the end", "√KL",
              "end below the start"]  # fmt: skip
    parts.append(tables.table(header, rows))
    parts += [f"No fit of {name}, {fault}." for name, found in shown.items() for fault in found.faults]
    parts += [f"No fit of {name}: no run is done." for name, found in shown.items() if not found.courses]
    return parts


def _ends(found: Found) -> list[str]:
    """Cells about where runs are highest and where they end."""
    lasts = [course for course in found.courses.values() if len(course.d)]
    gold = [list(found.ends.values())] if found.ends else []
    told = [
        tables.as_text(mean_interval(values).of(score))
        for pairs in gold
        for score, values in (
            ("gold", [h for h, _ in pairs]),
            ("gold", [e for _, e in pairs]),
            ("loss", [h - e for h, e in pairs]),
        )
    ]
    ends = {"reward": [float(c.reward[-1]) for c in lasts], "kl": [float(c.d[-1]) for c in lasts]}
    far = [tables.as_text(mean_interval(values).of(score), 2) for score, values in ends.items() if values]
    below = f"{sum(c.gold[-1] < 0 for c in lasts)} of {len(lasts)}" if lasts else "-"
    return [str(len(found.courses)), *(told or ["-"] * 3), *(far or ["-"] * 2), below]


def _models(of: Rows) -> str:
    """What each kind of model is made of, and how often it is right on pairs that it has not seen."""
    rows = []
    order = {label: (list(FACTORS).index(label.partition("=")[0]), float(label.partition("=")[2]))
             for label in of.best if "=" in label}  # fmt: skip
    for label in sorted(of.best, key=lambda label: order.get(label, (-1, 0.0))):
        model = of.best[label][0]["model"]
        right = [r["model"]["agreement"] for r in of.best[label] if r["model"]["agreement"] is not None]
        told = (
            f"{tables.as_text(mean_interval(right).of('share'))}, n = {len(right)}"
            if right
            else "gold tells no two apart"
        )
        made = [f"{model['labels']:,}", f"{model['flip']:g}", str(model["members"]), str(model["hidden"])]
        rows.append([label, *made, model["combine"], told])
    return tables.table(["model", "labels", "turned round", "members", "units", "pays", "agreement with gold"], rows)
