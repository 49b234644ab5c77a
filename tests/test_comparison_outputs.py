"""Figures and tables of a comparison: all they were given is in them, inside the frame, and the same every time."""

import io
from itertools import combinations, pairwise
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from agents.comparing import aggregate, figures, study, tables
from agents.comparing.aggregate import Estimate, can_tell
from agents.comparing.paired_tests import PairedTest, paired_tests
from agents.overoptimisation import figures as courses
from agents.overoptimisation import report as overoptimised
from agents.overoptimisation.fits import Fit, fit

TWELVE = [f"a rather long algorithm {k}" for k in range(12)]
THRESHOLDS = np.linspace(0, 1, 21)
D = np.linspace(0.01, 3, 20)


def scores(names, runs=4):
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.3, 0.9, (runs, 3)) for name in names}


def draw(kind, names, path):
    found = scores(names)
    if kind == "intervals":
        figures.intervals({n: aggregate.aggregates(s, 50) for n, s in found.items()}, path, "Intervals")
    elif kind == "profiles":
        curves = {n: aggregate.performance_profile(s, THRESHOLDS, 50) for n, s in found.items()}
        figures.profiles(curves, THRESHOLDS, path, "Profiles")
    elif kind == "efficiency":
        tokens = np.linspace(1000, 50_000, 9)
        curves = {n: aggregate.sample_efficiency(s[..., None] * tokens / 50_000, 50) for n, s in found.items()}
        figures.efficiency(curves, tokens, path, "Efficiency")
    elif kind == "improvement":
        better = aggregate.probability_of_improvement
        pairs = {
            (x, y): aggregate.stratified_bootstrap((found[x], found[y]), better, 50) for x, y in combinations(names, 2)
        }
        figures.improvement(
            pairs,
            path,
            "Improvement, in a title of so many words that a figure of two algorithms cannot hold them in a line",
        )
    else:
        course = courses.Course(D, D * (0.3 - 0.1 * D), D)
        fits = {n: fit("best of n", course.d, course.gold) for n in names[:-1]}
        courses.algorithms({n: [course] for n in names}, fits, path, "Gold and reward")


KINDS = ("intervals", "profiles", "efficiency", "improvement", "overoptimisation")


@pytest.mark.parametrize("names", [TWELVE, TWELVE[:5], TWELVE[:2]], ids=["twelve", "five", "two"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_names_every_algorithm_and_no_text_leaves_it(kind, names, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(plt, "close", closed.append)
    # Files are another test's: to lay out is enough, and once.
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, path, **_: path.endswith("png") and figure.draw_without_rendering()
    )
    draw(kind, names, tmp_path / kind)
    (figure,) = closed
    monkeypatch.undo()
    texts = [t for t in figure.findobj(plt.Text) if t.get_text() and t.get_visible()]
    assert set(names) <= {t.get_text() for t in texts}
    renderer, edge = figure.canvas.get_renderer(), figure.bbox.padded(1)
    # Ticks beyond the limits of an axis exist and are not drawn; a figure's own texts and titles always are.
    drawn = [figure._suptitle, *(a.title for a in figure.axes), *(a._left_title for a in figure.axes)]
    drawn += [label for a in figure.axes for label in (*a.get_yticklabels(), *a.texts) if label.get_text() in names]
    for text in [t for t in drawn if t.get_text()] + [t for a in figure.axes for t in a.texts]:
        box = text.get_window_extent(renderer)
        assert edge.contains(box.x0, box.y0), text
        assert edge.contains(box.x1, box.y1), text
    plt.close(figure)


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_an_svg_and_a_png_that_do_not_change_from_one_drawing_to_the_next(kind, tmp_path):
    for name in ("one", "two"):
        draw(kind, TWELVE[:3], tmp_path / name)
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    with Image.open(tmp_path / "one.png") as one:
        assert np.asarray(one).std() > 5
    assert not plt.get_fignums()


def varied(n=3):
    """Runs of n values whose peaks are at 0.5, 1, 1.5, ...; the last could not be fitted."""
    names = [f"labels={300 * 10**k}" for k in range(n)]
    laws = {name: D * (1 - D / (1 + k)) for k, name in enumerate(names)}
    groups = {"labels": {name: [courses.Course(D, law, D)] * 2 for name, law in laws.items()}}
    groups["beta"] = {"beta=0.1": groups["labels"][names[0]]}
    fits = {name: fit("best of n", D, laws[name]) for name in names[:-1]}
    return groups, fits, {name: Estimate(f.peak, f.peak - 0.2, f.peak + 9) for name, f in fits.items()}


def test_what_is_varied_is_named_with_its_peak_and_a_bar_as_long_as_its_interval(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(plt, "close", closed.append)
    courses.variations(*varied(), tmp_path / "varied", "What is varied")
    (figure,) = closed
    monkeypatch.undo()
    texts = [t.get_text() for t in figure.findobj(plt.Text)]
    for told in ("labels", "beta", "labels=300: peak at 0.50 [0.30, 9.50]", "labels=30000: no fit", "beta=0.1: no fit"):
        assert told in texts
    bars = [line.get_xdata() for axis in figure.axes for line in axis.lines if line.get_linewidth() == 5]
    # A bar ends where distances were seen.
    np.testing.assert_allclose(bars, [[0.3, 3], [0.8, 3]])
    renderer, edge = figure.canvas.get_renderer(), figure.bbox.padded(1)
    for text in (figure._suptitle, *(t for a in figure.axes for t in (a._left_title, *a.texts))):
        box = text.get_window_extent(renderer)
        assert edge.contains(box.x0, box.y0), text
        assert edge.contains(box.x1, box.y1), text
    plt.close(figure)


def test_the_interval_of_a_peak_is_a_band_and_other_fits_stand_behind(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(plt, "close", closed.append)
    groups, fits, peaks = varied()
    courses.algorithms(groups["labels"], fits, tmp_path / "banded", "Banded", peaks)
    (figure,) = closed
    monkeypatch.undo()
    bands = [patch.get_bbox() for axis in figure.axes for patch in axis.patches]
    np.testing.assert_allclose([(box.x0, box.x1) for box in bands], [(0.3, 3), (0.8, 3)])
    behind = [sum(line.get_color() == figures.PALE for line in a.lines) for a in figure.axes[::2]]
    assert behind == [2, 2, 2]  # its own, which is covered, and the other; both behind what could not be fitted
    plt.close(figure)


def test_every_figure_and_table_has_the_algorithms_in_one_order_the_best_first(tmp_path, monkeypatch):
    """Final gold orders them, also where another was ahead on the way, or wins more pairs."""
    closed = []
    monkeypatch.setattr(plt, "close", closed.append)
    golds = {"third": (0.3, 0.3), "first": (0.9, 0.8), "second": (0.5, 0.7)}
    rows = [
        {
            "label": label, "env_id": "mmenv/VQA-v0", "seed": seed, "status": "done", "updates": 1,
            "algorithm": "ppo", "gold": {"before": 0.1, "after": gold},
            "greedy": {"gold": {"before": 0.2, "after": gold}},
            "tokens": 100, "reward": {"after": 0.0}, "kl": 0.0, "also": {}, "episodes": 8, "split": "test",
            "commit": "c", "machine": "m", "versions": {"mmenv": "1"}, "config": {"total_tokens": 100, "num_envs": 4},
            "curve": {"tokens": [10, 100], "gold": [0.1 if label == "first" else 0.9, gold]},
        }
        for label, each in golds.items() for seed, gold in enumerate(each)
    ]  # fmt: skip
    text = study.report(rows, tmp_path)
    monkeypatch.undo()
    titles = [[a.get_title("left") for a in figure.axes] for figure in closed]
    ticks = [[t.get_text() for t in figure.axes[0].get_yticklabels()] for figure in closed]
    order = ["first", "second", "third"]
    assert [found for found in titles if "first" in found] == [order, order]  # profiles and efficiency
    assert [found for found in ticks if "first" in found] == [order[::-1], order]  # from below, and from above
    assert [line.split(" | ")[0] for line in text.split("## Over")[1].splitlines() if line.startswith("| ")][2:5] == [
        f"| {label}" for label in order
    ]
    assert "Two seeds: their interval says little." in text


def test_a_single_run_is_drawn_without_an_interval(tmp_path):
    found = {n: aggregate.aggregates(s) for n, s in scores(["x", "y"], runs=1).items()}
    figures.intervals(found, tmp_path / "single", "One run each")
    figures.improvement({("x", "y"): Estimate(0.7, np.nan, np.nan)}, tmp_path / "pair", "One run each")
    assert (tmp_path / "single.png").is_file()
    assert (tmp_path / "pair.png").is_file()


def cells(text):
    lines = [[c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines()]
    assert all(len(a) == len(b) for a, b in pairwise(lines))
    return lines


def test_the_table_by_environment_has_means_intervals_and_seeds():
    found = {"PPO": {("a", 0): 0.4, ("a", 1): 0.6, ("b", 0): 0.7}, "GRPO": {("a", 0): 0.5}}
    header, _, ppo, grpo = cells(tables.by_environment(found))
    assert header == ["algorithm", "a", "b (unfinished: 1 not run)"]
    # Student's for two values: 0.1 times 12.706.
    assert ppo == ["PPO", "0.500 [-0.771, 1.771], n = 2", "0.700, n = 1"]
    assert grpo == ["GRPO", "0.500, n = 1", "not run"]


def test_the_table_of_aggregates_has_values_and_their_intervals():
    found = {n: {"IQM": Estimate(v, v - 0.1, v + 0.1)} for n, v in (("better", 0.6), ("worse", 0.4))}
    _, _, *rows = cells(tables.aggregate(found, {"worse": 12, "better": 9}))
    assert rows == [["better", "9", "0.600 [0.500, 0.700]"], ["worse", "12", "0.400 [0.300, 0.500]"]]


def test_the_table_of_pairs_shows_signed_differences_and_both_p():
    tests = [
        PairedTest("x", "y", Estimate(-0.02, -0.05, 0.01), 15, 0, 0.2, 0.4),
        PairedTest("x", "z", Estimate(0.1, 0.08, 0.12), 14, 2, 2e-5, 4e-5),
    ]
    header, _, first, second = cells(tables.paired(tests))
    assert header[-1] == "p, Holm over 2"
    assert first == ["x", "z", "+0.100 [+0.080, +0.120]", "14", "2", "< 0.0001", "< 0.0001"]
    assert second == ["x", "y", "-0.020 [-0.050, +0.010]", "15", "0", "0.2", "0.4"]


def test_real_tests_go_into_the_table():
    found = {n: {(t, s): v[s, k] for k, t in enumerate("abc") for s in range(4)} for n, v in scores("pqr").items()}
    assert len(cells(tables.paired(paired_tests(found)))) == 2 + 3


def test_a_peak_that_was_not_seen_is_not_put_down_as_a_number():
    fits = {"near": Fit("RL", 0.3, 0.1, 0.01, 2.0), "far": Fit("best of n", 0.3, 0.1, 0.01, 2.0)}
    intervals = {n: Estimate(f.peak, f.peak - 1, f.peak + 1) for n, f in fits.items()}
    _, _, near, far = cells(overoptimised.peak_table(fits, intervals))
    assert near[-1] == "beyond 2.00"
    assert far[-1] == "1.50 [0.50, 2.50]"


def test_a_bar_in_a_name_does_not_end_the_cell():
    assert tables.table(["a|b"], []).splitlines()[0] == r"| a\|b |"


def test_intervals_end_where_a_score_can_go_no_further():
    found = {"ppo": {("VQA", 0): 0.1, ("VQA", 1): 0.95}}
    for score, ends in (("gold", "[0.000, 1.000]"), ("kl", "[0.000, 5.925]"), ("reward", "[-4.875, 5.925]")):
        *_, row = cells(tables.by_environment(found, score))
        assert ends in row[1], score
    assert np.isnan(Estimate(np.float64(0.5), np.nan, np.nan).of("gold").low)


def test_two_seeds_are_never_bold_and_few_runs_only_where_their_test_could_tell(tmp_path, monkeypatch):
    assert [can_tell(runs, 1) for runs in (1, 2, 3, 4)] == [False, False, False, True]
    assert [can_tell(2, tasks) for tasks in (1, 3, 9)] == [False] * 3
    assert can_tell(3, 2)
    weights = []
    annotate = Axes.annotate

    def noted(axis, text, *args, **kwargs):
        weights.append(kwargs.get("fontweight"))
        return annotate(axis, text, *args, **kwargs)

    monkeypatch.setattr(Axes, "annotate", noted)
    for told in (True, False):
        weights.clear()
        figures.improvement({("x", "y"): Estimate(1.0, 1.0, 1.0)}, tmp_path / "p", "Pairs", told)
        assert ("bold" in weights) == told


def test_a_report_in_80_columns_keeps_the_names_of_rows_and_shows_no_figures(tmp_path):
    rows = [[f"labels={300 * 10**k}", *["0.123 [-0.456, 0.789]"] * 7] for k in range(4)]
    head = ["algorithm", "runs", "gold, highest of the fit", "at the end", "lost", "reward at the end", "√KL", "below"]
    text = "# Title\n\n![gold](x.svg)\n\nA sentence.\n\n" + tables.table(head, rows)
    console = Console(file=io.StringIO(), width=80, emoji=False)
    tables.show(console, text)
    said = console.file.getvalue()
    assert all(row[0] in said for row in rows)
    assert "gold]" not in said
    assert "🌆" not in said
    assert max(map(len, said.splitlines())) <= 80
