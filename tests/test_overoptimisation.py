"""The forms of Gao et al. 2022 recover what made the data, and best of n is what all subsets say."""

from itertools import combinations

import numpy as np
import pytest

from agents.maths.kl import kl_of_best
from agents.overoptimisation.fits import best_of_n, distance, fit, peak_interval, peak_shift

D = np.linspace(0, 4, 60)
MADE = {
    "best of n": (lambda d, a, b: d * (a - b * d), lambda a, b: a / (2 * b)),
    "RL": (lambda d, a, b: d * (a - b * np.log(np.maximum(d, 1e-300))), lambda a, b: np.exp(a / b - 1)),
}


@pytest.mark.parametrize("form", MADE)
@pytest.mark.parametrize(("a", "b"), [(0.3, 0.12), (0.2, 0.15)])
def test_a_fit_recovers_the_coefficients_and_the_peak(form, a, b):
    law, peak = MADE[form]
    found = fit(form, D, law(D, a, b))
    assert (found.a, found.b) == pytest.approx((a, b))
    assert found.rmse < 1e-12
    assert found.peak == pytest.approx(peak(a, b))
    # The peak is where the law itself is highest, by search.
    fine = np.linspace(0, 10, 200_001)
    assert found.peak == pytest.approx(fine[law(fine, a, b).argmax()], abs=1e-3)
    assert found.seen == (found.peak <= 4)
    np.testing.assert_allclose(found.at(D), law(D, a, b), atol=1e-12)


@pytest.mark.parametrize("form", MADE)
def test_residuals_are_as_large_as_the_noise(form):
    law, _ = MADE[form]
    noise = np.random.default_rng(0).normal(0, 0.05, 2000)
    d = np.linspace(0, 4, 2000)
    assert fit(form, d, law(d, 0.3, 0.12) + noise).rmse == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("form", MADE)
def test_the_interval_of_the_peak_holds_the_true_peak_about_as_often_as_it_says(form):
    law, peak = MADE[form]
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        runs = []
        for _ in range(8):
            a, b = 0.3 + 0.02 * rng.normal(), 0.2 + 0.01 * rng.normal()
            runs.append((D, law(D, a, b) + 0.02 * rng.normal(size=len(D))))
        found = peak_interval(form, runs, reps=200, rng=rng)
        assert found.low <= found.value <= found.high
        held += found.low <= peak(0.3, 0.2) <= found.high
    assert 0.8 <= held / 60 <= 1.0


def test_gold_that_only_rises_has_its_peak_nowhere_and_gold_that_only_falls_at_the_start():
    assert fit("best of n", D, 0.2 * D + 0.1 * D**2).peak == np.inf
    assert fit("RL", D, 0.2 * D).peak == np.inf
    assert fit("best of n", D, -0.2 * D - 0.1 * D**2).peak == 0.0
    # With b below 0 the law of RL falls first and rises in the end, here beyond what was seen.
    falls = fit("RL", D, D * (-0.16 + 0.01 * np.log(np.maximum(D, 1e-300))))
    assert falls.b == pytest.approx(-0.01)
    assert falls.peak == 0.0
    assert fit("RL", D, D * (0.1 + 0.01 * np.log(np.maximum(D, 1e-300)))).peak == np.inf
    rising = [(D, (0.2 + 0.01 * k) * D + 0.1 * D**2) for k in range(3)]
    assert peak_interval("best of n", rising, reps=50) == (np.inf, np.inf, np.inf)


def test_a_peak_beyond_what_was_seen_says_so():
    near = D[D < 0.5]
    assert not fit("best of n", near, near * (0.3 - 0.1 * near)).seen


def test_one_run_has_a_peak_and_no_interval():
    found = peak_interval("best of n", [(D, D * (0.3 - 0.1 * D))])
    assert found.value == pytest.approx(1.5)
    assert np.isnan(found.low)


def test_a_shift_is_that_of_pairs_and_so_narrower_than_what_seeds_differ_by():
    law, _ = MADE["best of n"]
    rng = np.random.default_rng(0)
    seeds = 0.4 + 0.1 * rng.normal(size=8)
    runs = [(D, law(D, a, 0.15)) for a in seeds]
    others = [(D, law(D, a - 0.03, 0.15)) for a in seeds]
    found = peak_shift("best of n", runs, others, reps=400)
    assert found == pytest.approx([0.1, 0.1, 0.1])  # 0.03 / (2 * 0.15), in every pair
    alone = peak_interval("best of n", runs, reps=400)
    assert alone.high - alone.low > 0.1
    assert peak_shift("best of n", others, runs, reps=400).value == pytest.approx(-0.1)
    # Paired with other seeds, the same runs tell much less.
    mixed = peak_shift("best of n", runs, others[::-1], reps=400)
    assert mixed.low < 0 < mixed.high


def test_a_shift_from_or_to_a_peak_that_is_nowhere():
    rises, falls = [(D, 0.2 * D + 0.1 * D**2)] * 2, [(D, D * (0.3 - 0.1 * D))] * 2
    assert peak_shift("best of n", rises, falls, reps=20) == (np.inf, np.inf, np.inf)
    assert peak_shift("best of n", falls, rises, reps=20) == (-np.inf, -np.inf, -np.inf)
    assert peak_shift("best of n", rises, rises, reps=20) == (0, 0, 0)
    single = peak_shift("best of n", falls[:1], falls[:1])
    assert single.value == 0
    assert np.isnan(single.low)
    with pytest.raises(ValueError, match="2 runs and 1 others"):
        peak_shift("best of n", rises, falls[:1])


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="two coefficients need two"):
        fit("RL", np.array([0.0, 1.0, 1.0]), np.zeros(3))
    with pytest.raises(ValueError, match="nan or infinite"):
        fit("RL", D, np.where(D > 3, np.nan, D))
    with pytest.raises(ValueError, match="choose 'best of n' or 'RL'"):
        fit("sft", D, D)
    with pytest.raises(ValueError, match="two coefficients need two"):
        peak_interval("RL", [(D, D), (np.ones(1), np.ones(1))])


def test_the_distance_is_the_root_and_an_estimate_below_zero_is_the_start():
    np.testing.assert_allclose(distance(np.array([4.0, -0.01, 0.25])), [2, 0, 0.5])


def test_kl_of_best_is_that_of_the_maximum_of_n_uniform_draws():
    # The best of n has density n u^(n - 1) over u in (0, 1): KL = E[log(n u^(n - 1))].
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in (1, 2, 16, 100):
        density = n * u ** (n - 1)
        assert kl_of_best(n) == pytest.approx(np.mean(density * np.log(np.maximum(density, 1e-300))), abs=1e-3)


@pytest.mark.parametrize("ties", [False, True])
def test_best_of_n_is_the_mean_over_all_subsets(ties):
    rng = np.random.default_rng(0)
    reward, gold = rng.normal(size=(3, 7)), rng.uniform(size=(3, 7))
    if ties:
        reward = np.round(reward)
    found = best_of_n(reward, gold)
    for context in range(3):
        for n in range(1, 8):
            chosen = []
            for subset in map(list, combinations(range(7), n)):
                best = reward[context, subset] == reward[context, subset].max()
                chosen.append(gold[context, subset][best].mean())
            assert found[context, n - 1] == pytest.approx(np.mean(chosen))


def test_best_of_n_is_unbiased_for_n_far_below_the_samples():
    rng = np.random.default_rng(1)
    reward = rng.uniform(size=(4000, 12))
    # The best of n uniform rewards is n / (n + 1) on average.
    np.testing.assert_allclose(best_of_n(reward, reward).mean(0), np.arange(1, 13) / np.arange(2, 14), atol=0.02)


def test_best_of_thousands_has_weights_that_sum_to_one():
    reward = np.arange(2000.0)[None]
    np.testing.assert_allclose(best_of_n(reward, np.ones((1, 2000))), 1, rtol=1e-8)


def test_scores_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="both are \\(contexts, responses\\)"):
        best_of_n(np.ones((2, 3)), np.ones((2, 4)))
