"""What the runs of experiments/feedback.py say: docs/rlhf.md, docs/alarm.md, their figures, and docs/feedback.json.

The numbers of a run that is in docs/feedback.json stay there when its folder is gone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from agents import files
from agents.training import figures
from agents.training.alarm import first_alarm, means

DOCS = Path(__file__).parent.parent / "docs"
DATA = DOCS / "feedback.json"
NAMES = {"vqa": "mmenv/VQA-v0", "captioning": "mmenv/Captioning-v0"}
ARMS = {
    "1": "one model",
    "5": "ensemble of five, mean - variance",
    "5x3": "ensemble of five, mean - 3 variance",
}
# What the loop's runs are named by, and their colour.
LOOPS = {
    "4": ("the loop", figures.LENGTH),
    "1": ("one round, 2,000 labels", figures.ENTROPY),
    "1x4": ("one round, 8,000 labels", figures.KL),
}
ROUNDS = "| task | what | seeds | labels | PPO tokens | start | round 1 | 2 | 3 | 4 |"
WINDOW = 6  # updates that training gold is averaged over
HACKED = 0.05  # below its peak at the end
AGAINST = "one preference model against ensembles on the same, a line a seed"
POINTS = 60  # kept of a curve
TUNED_FROM = 100  # seeds from here on tuned the alarm


def curve(folder: Path) -> dict[str, list[float]]:
    """Tokens, gold and reward of a run, averaged over a window of updates and thinned."""
    rows = files.read_lines(folder / "metrics.jsonl")
    window = min(WINDOW, len(rows))
    tokens = [r["tokens"] for r in rows[window - 1 :]]
    kept = np.unique(np.linspace(0, len(tokens) - 1, min(POINTS, len(tokens))).astype(int))
    found = {name: means(rows, name, window)[kept].round(4).tolist() for name in ("gold", "reward")}
    return {"tokens": [tokens[i] for i in kept], **found}


def collect_loops(folder: Path, pattern: str) -> dict[str, Any]:
    """Name of a loop's folder -> its rounds with their curves."""
    out = {}
    for path in sorted(folder.glob(f"{pattern}/summary.json")):
        rows = files.read_lines(path.parent / "rounds.jsonl")
        for r in rows:
            r["curve"] = curve(path.parent / f"round-{r['round']}" / "ppo")
        out[path.parent.name] = rows
    return out


def collect_runs(folder: Path, pattern: str) -> dict[str, Any]:
    """Name of a run's folder -> where gold peaked and ended, the alarm, and the curve."""
    out = {}
    for path in sorted(folder.glob(f"{pattern}/summary.json")):
        rows = files.read_lines(path.parent / "metrics.jsonl")
        gold = means(rows, "gold", min(WINDOW, len(rows)))
        summary = json.loads(path.read_text(encoding="utf-8"))
        peak = int(gold.argmax())
        # Heard anew from the metrics, so that the page speaks of the alarm as it is now.
        rung = first_alarm(rows)
        out[path.parent.name] = {
            "tokens": summary["tokens"], "start": float(gold[0]), "peak": float(gold[peak]), "end": float(gold[-1]),
            "peak_tokens": rows[peak + WINDOW - 1]["tokens"], "alarm_tokens": rung.tokens if rung else None,
            "curve": curve(path.parent), "commit": summary["commit"],
        }  # fmt: skip
    return out


def interval(values: list[float]) -> str:
    """Mean and the 95% bootstrap interval of it."""
    array = np.array(values)
    if len(array) < 2 or np.ptp(array) == 0:
        return f"{array.mean():.3f}"
    found = stats.bootstrap((array,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    return f"{array.mean():.3f} [{low:.3f}, {high:.3f}]"


def share(k: int, n: int) -> str:
    """A share with Wilson's 95% interval."""
    if not n:
        return "-"
    low, high = stats.binomtest(k, n).proportion_ci(method="wilson")
    return f"{k}/{n} = {k / n:.0%} [{low:.0%}, {high:.0%}]"


def by_seed(rows: dict[str, Any], start: str) -> list[Any]:
    """Values of the names that begin with ``start``, by seed."""
    names = sorted((n for n in rows if n.startswith(start)), key=lambda n: int(n.rsplit("-", 1)[1]))
    return [rows[n] for n in names]


def loop_table(loops: dict[str, Any]) -> list[str]:
    """Gold at the end of every round, of the loop and of single rounds, and how far these stay below the loop."""
    lines = [f"{ROUNDS} the loop's 4 less this, by seed |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for task in NAMES:
        for kind, (what, _) in LOOPS.items():
            less = gains(loops, task, kind) if kind != "4" else []
            cells = rounds_cells(by_seed(loops, f"loop-{task}-{kind}-"))
            lines.append(f"| {task} | {what} | {cells} | {interval(less) if less else ''} |")
    return lines


def defaults_table(loops: dict[str, Any]) -> list[str]:
    """Gold at the end of every round of the loop as it comes."""
    lines = [ROUNDS.replace(" what |", ""), "|---|---|---|---|---|---|---|---|---|"]
    return [*lines, *(f"| {task} | {rounds_cells(by_seed(loops, f'defaults-{task}-'))} |" for task in NAMES)]


def rounds_cells(found: list[list[dict[str, Any]]]) -> str:
    """Number of seeds, labels, tokens, and test gold before and after each round, as cells of a table."""
    if not found:
        return "0 | | | not run | | | | "
    after = [interval([rows[r]["gold"]["after"] for rows in found]) for r in range(len(found[0]))]
    before = np.mean([rows[0]["gold"]["before"] for rows in found])
    tokens = np.mean([sum(r["tokens"] for r in rows) for rows in found])
    cells = " | ".join(after + [""] * (4 - len(after)))
    return f"{len(found)} | {found[0][-1]['labels']:,} | {tokens:,.0f} | {before:.3f} | {cells}"


def gains(loops: dict[str, Any], task: str, kind: str) -> list[float]:
    """How much more gold the loop's last round ends with than a single round, for each seed that has both."""
    last, once = (
        {name.rsplit("-", 1)[1]: rows[-1]["gold"]["after"] for name, rows in loops.items() if name.startswith(start)}
        for start in (f"loop-{task}-4-", f"loop-{task}-{kind}-")
    )
    return [last[seed] - once[seed] for seed in sorted(last.keys() & once.keys())]


def loop_figure(loops: dict[str, Any], path: Path) -> None:
    """Training gold over PPO tokens, the loop against single rounds; below, reward."""
    with plt.rc_context(figures.STYLE):
        ran = [task for task in NAMES if by_seed(loops, f"loop-{task}-4-")] or list(NAMES)
        size = (5.5 * len(ran) + 2 * (len(ran) == 1), 6.4)
        figure, axes = plt.subplots(2, len(ran), figsize=size, sharex="col", layout="constrained", squeeze=False)
        for column, task in enumerate(ran):
            for kind, (name, colour) in LOOPS.items():
                for k, rows in enumerate(by_seed(loops, f"loop-{task}-{kind}-")):
                    begun = 0
                    for r in rows:
                        x = [(begun + t) / 1000 for t in r["curve"]["tokens"]]
                        label = name if k == 0 and r["round"] == 1 else None
                        axes[0, column].plot(x, r["curve"]["gold"], color=colour, linewidth=1.2, label=label)
                        axes[1, column].plot(x, r["curve"]["reward"], color=colour, linewidth=1.2)
                        begun += r["tokens"]
            axes[0, column].set_title(NAMES[task], loc="left")
            axes[0, column].set_ylim(0, 1.02)
            axes[1, column].set_xlabel("thousand tokens of PPO")
        axes[0, 0].set_ylabel("gold")
        axes[1, 0].set_ylabel("reward of the round's model")
        axes[0, 0].legend(loc="lower left")
        figure.suptitle("Rounds of RLHF against one round with as many PPO tokens, a line a seed")
        figure.savefig(path)
        plt.close(figure)


def ensemble_table(found: dict[str, Any]) -> list[str]:
    """What a single model and ensembles lose after the peak of gold."""
    lines = ["| task | model | seeds | gold at its peak | at the end | lost |", "|---|---|---|---|---|---|"]
    for task in NAMES:
        for kind, what in ARMS.items():
            rows = by_seed(found, f"ensemble-{task}-{kind}-")
            if not rows:
                lines.append(f"| {task} | {what} | 0 | not run | | |")
                continue
            peak, end = ([r[k] for r in rows] for k in ("peak", "end"))
            lost = interval([p - e for p, e in zip(peak, end, strict=True)])
            lines.append(f"| {task} | {what} | {len(rows)} | {interval(peak)} | {interval(end)} | {lost} |")
    return lines


def one_round(stored: dict[str, Any]) -> dict[str, Any]:
    """The single rounds of one model and of an ensemble on the same labels, as ``ensemble_table`` reads runs."""
    named = {
        **{
            name.replace("loop-", "ensemble-"): rows
            for name, rows in stored["loop"].items()
            if name.split("-")[2] == "1"
        },
        **{name.replace("labels-", "ensemble-"): rows for name, rows in stored["labels"].items()},
    }
    curves = {name: rows[0]["curve"] for name, rows in named.items()}
    return {
        name: {"curve": curve, "peak": max(curve["gold"]), "end": curve["gold"][-1]} for name, curve in curves.items()
    }


def ensemble_figure(found: dict[str, Any], path: Path, title: str) -> None:
    """Gold over tokens, one model against ensembles on the same labels."""
    with plt.rc_context(figures.STYLE):
        ran = [task for task in NAMES if by_seed(found, f"ensemble-{task}-")]
        size = (5.5 * len(ran) + 2 * (len(ran) == 1), 3.8)
        figure, (axes,) = plt.subplots(1, len(ran), figsize=size, layout="constrained", squeeze=False)
        for axis, task in zip(axes, ran, strict=True):
            for (kind, name), colour in zip(ARMS.items(), (figures.ENTROPY, figures.LENGTH, figures.KL)):
                for k, row in enumerate(by_seed(found, f"ensemble-{task}-{kind}-")):
                    _line(axis, row["curve"], colour, name if k == 0 else None)
            axis.set_title(NAMES[task], loc="left")
            axis.set_ylim(0, 1.02)
            axis.set_xlabel("thousand tokens")
        axes[0].set_ylabel("gold")
        axes[0].legend(loc="lower left")
        figure.suptitle(title, fontsize=11)
        figure.savefig(path)
        plt.close(figure)


def _line(axis: Axes, row: dict[str, Any], colour: str, label: str | None) -> None:
    axis.plot([t / 1000 for t in row["tokens"]], row["gold"], color=colour, linewidth=1.4, label=label)


def is_hacked(row: dict[str, Any]) -> bool:
    return bool(row["peak"] - row["end"] >= HACKED)


def alarm_table(found: dict[str, Any]) -> list[str]:
    """Detections among the hacked runs and false alarms among the others, by kind of model."""
    lines = [
        "| model | runs | hacked | of these flagged | not hacked | of these flagged | tokens from peak to alarm |",
        "|---|---|---|---|---|---|---|",
    ]
    total: list[dict[str, Any]] = []
    for kind in ("strong", "weak", "biased", "all"):
        rows = total if kind == "all" else tested(found, kind)
        total = total if kind == "all" else [*total, *rows]
        bad, good = [r for r in rows if is_hacked(r)], [r for r in rows if not is_hacked(r)]
        rung = [[r for r in part if r["alarm_tokens"] is not None] for part in (bad, good)]
        late = [r["alarm_tokens"] - r["peak_tokens"] for r in rung[0]]
        spread = f"{np.median(late):+,.0f} ({min(late):+,.0f} to {max(late):+,.0f})" if late else "-"
        lines.append(
            f"| {kind} | {len(rows)} | {len(bad)} | {share(len(rung[0]), len(bad))} | {len(good)} | "
            f"{share(len(rung[1]), len(good))} | {spread} |"
        )
    return lines


def tested(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Runs of a kind that did not serve to tune the alarm."""
    names = [n for n in found if n.startswith(f"alarm-{kind}-") and int(n.rsplit("-", 1)[1]) < TUNED_FROM]
    return [found[n] for n in sorted(names)]


def alarm_figure(found: dict[str, Any], path: Path) -> None:
    """Gold of every run by kind of model, with a dot where the alarm rang."""
    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(12, 6.4), sharex="row", sharey=True, layout="constrained")
        for row, task in enumerate(NAMES):
            for axis, kind in zip(axes[row], ("strong", "weak", "biased"), strict=True):
                for name in sorted(n for n in found if n.startswith(f"alarm-{kind}-{task}-")):
                    if int(name.rsplit("-", 1)[1]) >= TUNED_FROM:
                        continue
                    run = found[name]
                    colour = figures.ENTROPY if is_hacked(run) else figures.LENGTH
                    axis.plot([t / 1000 for t in run["curve"]["tokens"]], run["curve"]["gold"], color=colour, alpha=0.7)
                    if run["alarm_tokens"] is not None:
                        gold = np.interp(run["alarm_tokens"], run["curve"]["tokens"], run["curve"]["gold"])
                        axis.plot(run["alarm_tokens"] / 1000, gold, "o", color=figures.INK, markersize=4, zorder=3)
                axis.set_title(f"{NAMES[task]}, {kind}", loc="left")
                axis.set_ylim(0, 1.02)
                axis.set_xlabel("thousand tokens")
            axes[row, 0].set_ylabel("gold")
        figure.suptitle("Gold while PPO trains; orange: ends 0.05 or more below its peak; dots: the alarm")
        figure.savefig(path)
        plt.close(figure)


def write(folder: Path) -> None:
    """The pages, from the runs in ``folder`` and those in docs/feedback.json."""
    stored: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}
    fresh = {
        "loop": collect_loops(folder, "loop-*"),
        "defaults": collect_loops(folder, "defaults-*"),
        "labels": collect_loops(folder, "labels-*"),
        "ensemble": collect_runs(folder, "ensemble-*"),
        "alarm": collect_runs(folder, "alarm-*"),
    }
    stored = {name: {**stored.get(name, {}), **found} for name, found in fresh.items()}
    DATA.write_text(json.dumps(stored, sort_keys=True) + "\n", encoding="utf-8")
    loop_figure(stored["loop"], DOCS / "img" / "loop.png")
    labelled = one_round(stored)
    ensemble_figure(labelled, DOCS / "img" / "labels.png", f"The loop's labels: {AGAINST}")
    ensemble_figure(stored["ensemble"], DOCS / "img" / "ensemble.png", f"Weak labels: {AGAINST}")
    alarm_figure(stored["alarm"], DOCS / "img" / "alarm.png")
    replace(DOCS / "rlhf.md", "loop", loop_table(stored["loop"]))
    replace(DOCS / "rlhf.md", "defaults", defaults_table(stored["defaults"]))
    replace(DOCS / "rlhf.md", "labels", ensemble_table(labelled))
    replace(DOCS / "rlhf.md", "ensemble", ensemble_table(stored["ensemble"]))
    replace(DOCS / "alarm.md", "alarm", alarm_table(stored["alarm"]))


def replace(page: Path, name: str, lines: list[str]) -> None:
    """Write a table between its marks in a page that a person wrote."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no {begin} ... {end}: put the marks where the table goes")
    page.write_text(f"{before}{begin}\n{chr(10).join(lines)}\n{end}{after}", encoding="utf-8")
