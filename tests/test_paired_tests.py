"""Paired tests: exact where they can be, corrected for how many there are, and of no effect found in noise."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from agents.comparing.paired_tests import holm, paired_tests, sign_flip_p


def cells(shift=0.0, seeds=5, tasks="abc", noise=0.02, stream=0):
    rng = np.random.default_rng(stream)
    return {(t, s): 0.5 + 0.1 * tasks.index(t) + shift + noise * rng.normal() for t in tasks for s in range(seeds)}


def test_the_sign_flip_p_is_the_share_of_all_flips_that_are_as_far_from_zero():
    differences = np.array([0.3, -0.1, 0.25, 0.4, 0.05, -0.02])
    sums = np.array([np.dot(signs, differences) for signs in product([-1, 1], repeat=6)])
    assert sign_flip_p(differences) == pytest.approx(np.mean(np.abs(sums) >= differences.sum() - 1e-12))


def test_wilcoxon_agrees_where_ranks_and_values_say_the_same():
    differences = np.arange(1.0, 9.0) * np.array([-1, -1, 1, 1, 1, 1, 1, 1])
    assert sign_flip_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_five_pairs_give_no_p_below_a_sixteenth_and_one_pair_none_at_all():
    assert sign_flip_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == 2 / 32
    assert sign_flip_p(np.array([9.0])) == 1.0
    assert sign_flip_p(np.zeros(8)) == 1.0


def test_drawn_flips_agree_with_the_normal_limit():
    differences = np.random.default_rng(0).normal(0.3, 1, 40)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert sign_flip_p(differences) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.05)


def test_holm_on_a_worked_example():
    # 3 x 0.01; then 2 x 0.03 and 1 x 0.04, which may not fall below what came before.
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])
    assert holm(np.array([])).shape == (0,)


def test_holm_keeps_the_chance_of_any_false_alarm_among_fifteen_pairs():
    rng, alarms, naive = np.random.default_rng(0), 0, 0
    for _ in range(200):
        p = np.array([stats.ttest_1samp(rng.normal(size=8), 0).pvalue for _ in range(15)])
        alarms, naive = alarms + (holm(p) < 0.05).any(), naive + (p < 0.05).any()
    assert alarms / 200 < 0.09
    assert naive / 200 > 0.4


def test_a_real_difference_is_found_with_its_size_and_equal_algorithms_are_not_told_apart():
    tests = {(t.x, t.y): t for t in paired_tests({"x": cells(0.05), "y": cells(stream=1), "z": cells(stream=2)})}
    assert tests["x", "y"].p_corrected < 0.01
    assert tests["x", "y"].difference.low < 0.05 < tests["x", "y"].difference.high
    assert tests["x", "y"].pairs == 15
    assert tests["y", "z"].p_corrected > 0.05
    assert all(t.p_corrected >= t.p for t in tests.values())


def test_pairing_takes_out_what_a_task_and_seed_do_to_both():
    shared = {(t, s): np.random.default_rng(s).normal() for t in "ab" for s in range(6)}
    better = {c: v + 0.01 + 0.001 * i for i, (c, v) in enumerate(shared.items())}
    (test,) = paired_tests({"better": better, "worse": shared})
    assert test.p < 0.001


def test_against_a_baseline_fewer_comparisons_are_corrected_for():
    scores = {name: cells(stream=i) for i, name in enumerate("pqrs")}
    tests = paired_tests(scores, baseline="q")
    assert [(t.x, t.y) for t in tests] == [("p", "q"), ("r", "q"), ("s", "q")]
    assert len(paired_tests(scores)) == 6
    with pytest.raises(ValueError, match="baseline='nobody' has no scores: choose among p, q"):
        paired_tests(scores, baseline="nobody")


def test_seeds_that_only_one_has_are_left_out_and_counted_and_tasks_weigh_the_same():
    x = {("a", 0): 1.0, ("a", 1): 1.0, ("a", 2): 1.0, ("b", 0): 0.0, ("b", 1): 0.0, ("b", 9): 5.0}
    y = {("a", 0): 0.0, ("a", 1): 0.0, ("a", 2): 0.0, ("b", 0): 0.0, ("b", 1): 0.0, ("c", 0): 5.0}
    (test,) = paired_tests({"x": x, "y": y})
    assert (test.pairs, test.left_out) == (5, 2)
    assert test.difference.value == pytest.approx(0.5)  # not 3 / 5


def test_p_is_that_of_the_reported_difference_not_of_the_mean_over_cells():
    x = {("a", 0): 1.0, ("a", 1): 1.0, ("a", 2): 1.0, ("b", 0): -1.0}
    (test,) = paired_tests({"x": x, "y": dict.fromkeys(x, 0.0)})
    assert (test.difference.value, test.p) == (0.0, 1.0)


def test_one_seed_has_a_difference_without_an_interval():
    (test,) = paired_tests({"x": cells(0.1, seeds=1), "y": cells(seeds=1)})
    assert test.difference.value == pytest.approx(0.1)
    assert np.isnan(test.difference.low)


def test_what_cannot_be_paired_is_refused_by_name():
    broken = {**cells(), ("b", 3): np.nan}
    with pytest.raises(ValueError, match="score of y on task b, seed 3 is nan"):
        paired_tests({"x": cells(), "y": broken})
    with pytest.raises(ValueError, match="x and y share no"):
        paired_tests({"x": {("a", 0): 1.0}, "y": {("a", 1): 1.0}})
