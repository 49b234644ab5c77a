"""The statistics of Agarwal et al. 2021: as the rliable package has them, and honest where there is little to know."""

import numpy as np
import pytest
from rliable import library, metrics
from scipy import stats

from agents.comparing import aggregate
from agents.comparing.aggregate import stratified_bootstrap

SHAPES = ((3, 1), (5, 6), (10, 9), (7, 3))
# Ends of two 95% intervals, each of 2000 resamples, differ by a few hundredths of the interval's length.
REPS, APART = 2000, 0.12


def scores(shape, seed=0):
    """Between 0 and 1.1, different by task, with some ties."""
    rng = np.random.default_rng([seed, *shape])
    return np.round(rng.beta(2, 2, shape) * rng.uniform(0.4, 1.1, shape[1]), 2)


def theirs(arrays, function, reps=REPS):
    """rliable's percentile interval; it draws from numpy's global state, which is put back."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    _, interval = library.get_interval_estimates({"x": arrays}, lambda *a: np.atleast_1d(function(*a)), reps=reps)
    np.random.set_state(before)  # noqa: NPY002
    return interval["x"]


def assert_same_interval(ours, theirs, apart=APART):
    (low,), (high,) = theirs
    assert np.abs(np.array([ours.low - low, ours.high - high])).max() < apart * (high - low)


PAIRS = {
    "IQM": metrics.aggregate_iqm, "median": metrics.aggregate_median, "mean": metrics.aggregate_mean,
    "optimality gap": metrics.aggregate_optimality_gap,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PAIRS)
def test_aggregates_are_those_of_rliable(name, shape):
    x = scores(shape)
    assert aggregate.AGGREGATES[name](x) == pytest.approx(PAIRS[name](x), abs=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_stratified_intervals_are_those_of_rliable(name):
    x = scores((8, 6))
    assert_same_interval(stratified_bootstrap(x, aggregate.AGGREGATES[name], REPS), theirs(x, PAIRS[name]))


def test_resampling_within_tasks_is_narrower_than_resampling_everything():
    x = np.array([0.1, 0.5, 0.9]) + 0.01 * np.random.default_rng(0).normal(size=(10, 3))
    ours = stratified_bootstrap(x, aggregate.mean)
    pooled = stats.bootstrap((x.ravel(),), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    assert ours.high - ours.low < 0.1 * (pooled.high - pooled.low)


@pytest.mark.parametrize(("nx", "ny"), [(5, 5), (4, 9), (1, 3)])
def test_probability_of_improvement_is_that_of_rliable(nx, ny):
    x, y = scores((nx, 6)), scores((ny, 6), seed=1)
    ours = aggregate.probability_of_improvement(x, y)
    assert ours == pytest.approx(metrics.probability_of_improvement(x, y), abs=1e-12)
    assert ours == pytest.approx(1 - aggregate.probability_of_improvement(y, x), abs=1e-12)


def test_a_tie_is_half_a_win():
    assert aggregate.probability_of_improvement(np.full((3, 2), 0.5), np.full((4, 2), 0.5)) == 0.5


def test_the_interval_of_improvement_is_that_of_rliable():
    x, y = scores((6, 5)), scores((9, 5), seed=1)
    ours = stratified_bootstrap((x, y), aggregate.probability_of_improvement, REPS)
    assert_same_interval(ours, theirs([x, y], metrics.probability_of_improvement, 800), 0.18)


def test_profiles_and_their_bands_are_those_of_rliable():
    x, thresholds = scores((8, 6)), np.linspace(0, 1.1, 23)
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    profile, band = library.create_performance_profile({"x": x}, thresholds, reps=REPS)
    np.random.set_state(before)  # noqa: NPY002
    ours = aggregate.performance_profile(x, thresholds, REPS)
    np.testing.assert_allclose(ours.value, profile["x"], atol=1e-12)
    # Shares are multiples of 1 / 48: an end may fall on a neighbour.
    np.testing.assert_allclose(np.stack([ours.low, ours.high]), band["x"], atol=1.01 / 48)


def test_sample_efficiency_is_the_iqm_at_every_point_with_bands_as_rliable_has_them():
    curves = scores((6, 4))[..., None] * np.linspace(0.2, 1, 7)
    ours = aggregate.sample_efficiency(curves, REPS)
    assert ours.value == pytest.approx([metrics.aggregate_iqm(curves[..., k]) for k in range(7)])
    (low,), (high,) = theirs(curves[..., 3], metrics.aggregate_iqm)
    assert ours.low[3] == pytest.approx(low, abs=APART * (high - low))
    # Whole curves are drawn: where each point is a multiple of the last one, so are the ends.
    np.testing.assert_allclose(ours.low, ours.low[-1] * np.linspace(0.2, 1, 7))


def test_resampling_in_parts_gives_every_repetition(monkeypatch):
    monkeypatch.setattr(aggregate, "ELEMENTS", 100)
    drawn = []
    stratified_bootstrap(scores((3, 4)), lambda s: drawn.append(s.shape[:-2]) or aggregate.mean(s), 50)
    assert sum(shape[0] for shape in drawn if shape) == 50
    assert len(drawn) > 5


def test_the_same_seed_gives_the_same_interval_and_leaves_scores_as_they_were():
    x = scores((5, 6))
    kept = x.copy()
    assert aggregate.aggregates(x, rng=3) == aggregate.aggregates(x, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(x, kept)


def test_one_run_has_a_value_and_no_interval():
    for estimate in (*aggregate.aggregates(scores((1, 6))).values(), aggregate.mean_interval([0.5])):
        assert np.isfinite(estimate.value)
        assert np.isnan(estimate.low)
        assert np.isnan(estimate.high)


def test_students_interval_holds_the_mean_of_five_runs_as_often_as_it_says_and_percentiles_do_not():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(1000, 5))
    student = [aggregate.mean_interval(row) for row in drawn]
    percentiles = [stratified_bootstrap(row[:, None], aggregate.mean, 400, rng) for row in drawn]
    held = [np.mean([e.low <= 0 <= e.high for e in found]) for found in (student, percentiles)]
    assert 0.93 < held[0] < 0.97
    assert 0.80 < held[1] < 0.87


def test_a_nan_is_refused_by_the_name_of_its_cell():
    x = scores((4, 3))
    x[2, 1] = np.nan
    with pytest.raises(ValueError, match="run 2 on task 1 is nan"):
        stratified_bootstrap(x, aggregate.interquartile_mean)
    curves = np.stack([scores((4, 3)), x], axis=-1)
    with pytest.raises(ValueError, match="run 2 on task 1 is nan"):
        aggregate.sample_efficiency(curves)
    with pytest.raises(ValueError, match="shape \\(3,\\)"):
        stratified_bootstrap(np.ones(3), aggregate.mean)
    with pytest.raises(ValueError, match="2 tasks and y has 3"):
        aggregate.probability_of_improvement(np.ones((4, 2)), np.ones((4, 3)))


def test_a_matrix_has_seeds_as_rows_and_names_the_cell_that_is_missing():
    cells = {("b", 0): 0.3, ("a", 0): 0.1, ("a", 7): 0.2, ("b", 7): 0.4}
    np.testing.assert_array_equal(aggregate.matrix(cells), [[0.1, 0.3], [0.2, 0.4]])
    for wrong in ({k: v for k, v in cells.items() if k != ("b", 7)}, {**cells, ("b", 7): np.nan}):
        with pytest.raises(ValueError, match="task b, seed 7 has no score"):
            aggregate.matrix(wrong)
    with pytest.raises(ValueError, match="no scores"):
        aggregate.matrix({})


def test_curves_meet_on_a_grid_that_all_have_reached():
    tokens = [np.array([100.0, 300.0, 1000.0]), np.array([200.0, 900.0])]
    grid = aggregate.common_grid(tokens, 8)
    np.testing.assert_allclose(grid, np.linspace(200, 900, 8))
    assert aggregate.interpolate(tokens[0], np.array([0.0, 0.2, 0.9]), grid)[:2] == pytest.approx([0.1, 0.2])
    with pytest.raises(ValueError, match="goes beyond the tokens 200 to 900"):
        aggregate.interpolate(tokens[1], np.zeros(2), np.array([200.0, 901.0]))
    with pytest.raises(ValueError, match="none in common"):
        aggregate.common_grid([np.array([1.0, 2.0]), np.array([3.0, 4.0])])
    with pytest.raises(ValueError, match="increase"):
        aggregate.interpolate(np.array([1.0, 1.0]), np.zeros(2), np.array([1.0]))
