"""Agreement and win rates, against cases worked out by hand and against the published example."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mmenv.feedback.agreement import (
    agreement,
    first_shown,
    self_agreement,
    swapped_agreement,
    win_rates,
)
from mmenv.feedback.comparison import TIE, Comparison
from mmenv.feedback.judgement import judgement_record


def alpha_of(judgements):
    return agreement(judgements).alpha


def said(item, annotator, choice=None, repeat=False, n=5, policies=None, **more):
    provenance = {"seconds": 1.0 if repeat else 2.0, "order": [], "repeat": repeat}
    provenance |= {"policies": policies} if policies else {}
    responses = tuple(f"r{i}" for i in range(n))
    return Comparison(f"s{item}", "p", responses, choice, annotator=annotator, provenance=provenance, **more)


# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units, nominal.
TABLE = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def shown(item, choice, order, repeat=False, annotator="ann"):
    """A judgement between two responses that stood in ``order`` on the screen."""
    told = said(item, annotator, choice, repeat, n=2)
    return replace(told, provenance={**told.provenance, "order": order})


def test_who_goes_by_the_place_chooses_the_first_shown_and_disagrees_with_a_swapped_self():
    places = [shown(i, [0, 1][i % 2], [i % 2, 1 - i % 2]) for i in range(20)]
    again = [shown(i, 1 - i % 2, [1 - i % 2, i % 2], repeat=True) for i in range(8)]
    assert first_shown(places + again)[::3] == (1.0, 28)
    assert swapped_agreement(places + again)[::3] == (0.0, 8)


def test_who_goes_by_the_words_chooses_either_place_and_agrees_with_a_swapped_self():
    words = [shown(i, 0, [i % 2, 1 - i % 2]) for i in range(20)]
    again = [shown(i, 0, [1 - i % 2, i % 2], repeat=True) for i in range(8)]
    found = first_shown(words + again)
    assert found.value == 0.5
    assert 0.3 < found.low < 0.5 < found.high < 0.7
    assert swapped_agreement(words + again)[::3] == (1.0, 8)


def test_ties_unknown_orders_and_repeats_in_the_same_order_tell_nothing_of_the_place():
    untold = [shown(0, TIE, [0, 1]), shown(1, 0, []), said(2, "ann", 0, n=3)]
    assert first_shown(untold).n == 0
    same = [shown(0, 0, [0, 1]), shown(0, 1, [0, 1], repeat=True), shown(0, 0, [1, 0], annotator="bob")]
    assert swapped_agreement(same).n == 0


def test_alpha_is_that_of_the_published_example():
    judgements = [
        said(unit, f"observer {who}", int(value) - 1)
        for who, line in enumerate(TABLE.strip().splitlines())
        for unit, value in enumerate(line.split())
        if value != "."
    ]
    assert alpha_of(judgements) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_who_toss_coins_is_about_zero_and_of_two_who_agree_is_one():
    tosses = np.random.default_rng(0).integers(0, 2, (2, 2000)).tolist()
    random = [said(i, name, tosses[k][i], n=2) for k, name in enumerate(["ann", "bob"]) for i in range(2000)]
    assert abs(alpha_of(random)) < 0.06
    same = [said(i, name, TIE if i % 3 == 0 else i % 2, n=2) for name in ("ann", "bob") for i in range(30)]
    assert alpha_of(same) == pytest.approx(1)


def test_a_tie_is_a_value_of_its_own():
    rest = [said(i, name, i % 2) for name in ("ann", "bob") for i in range(1, 10)]
    agree = alpha_of([said(0, "ann", TIE), said(0, "bob", TIE), *rest])
    differ = alpha_of([said(0, "ann", TIE), said(0, "bob", 0), *rest])
    assert differ < agree == pytest.approx(1)


def test_alpha_is_unknown_where_nothing_overlaps_or_nothing_varies():
    assert math.isnan(alpha_of([]))
    assert math.isnan(alpha_of([said(0, "ann", 0), said(1, "bob", 1)]))
    assert math.isnan(alpha_of([said(0, "ann", 0), said(0, "bob", 0)]))


def test_a_repeat_is_no_second_annotator():
    assert math.isnan(alpha_of([said(0, "ann", 0), said(0, "ann", 1, repeat=True)]))


def test_what_is_preferred_follows_from_choice_ranking_or_scores():
    preferred = lambda judgement: judgement_record(judgement).preferred  # noqa: E731
    preferred = lambda judgement: judgement_record(judgement).preferred  # noqa: E731
    assert preferred(said(0, "ann", 2)) == 2
    assert preferred(said(0, "ann", n=3, ranking=(1, 0, 2))) == 1
    assert preferred(said(0, "ann", n=3, scores=(1, 4, 2))) == 1
    assert preferred(said(0, "ann", n=3, scores=(4, 4, 2))) == TIE
    assert preferred(said(0, None)) is None


def test_self_agreement_counts_only_ones_own_repeats():
    judgements = [
        said(0, "ann", 0), said(1, "ann", 1), said(2, "ann", TIE), said(0, "bob", 1),
        said(0, "ann", 0, repeat=True), said(1, "ann", 0, repeat=True), said(2, "ann", TIE, repeat=True),
        said(0, "bob", 1, repeat=True),
    ]  # fmt: skip
    assert self_agreement(judgements)["ann"] == (pytest.approx(2 / 3), 3)
    assert self_agreement(judgements)["bob"] == (1.0, 1)
    assert "cat" not in self_agreement(judgements)


def test_win_rates_are_of_policies_and_ties_count_half():
    pair = {"n": 2, "policies": ["old", "new"]}
    judgements = [
        said(0, "ann", 1, **pair),
        said(1, "ann", 1, **pair),
        said(2, "ann", 0, **pair),
        said(3, "ann", TIE, **pair),
    ]
    assert win_rates(judgements) == {"new": (2.5 / 4, 4), "old": (1.5 / 4, 4)}


def test_win_rates_of_rankings_scores_and_more_than_two():
    three = {"n": 3, "policies": ["a", "b", "b"]}
    assert win_rates([said(0, "ann", ranking=(1, 0, 2), **three)]) == {"a": (0.5, 2), "b": (0.5, 2)}
    assert win_rates([said(0, "ann", scores=(2.0, 2.0, 1.0), **three)]) == {"a": (0.75, 2), "b": (0.25, 2)}
    # A choice says nothing of those that were not chosen.
    assert win_rates([said(0, "ann", 0, n=3)]) == {
        "response 1": (1.0, 2),
        "response 2": (0.0, 1),
        "response 3": (0.0, 1),
    }


def test_without_policies_the_position_stands_for_them():
    assert win_rates([said(0, "ann", 1, n=2)]) == {"response 1": (0.0, 1), "response 2": (1.0, 1)}
    assert win_rates([said(0, "ann", 1, n=2, policies=["only one"])]) == {
        "response 1": (0.0, 1),
        "response 2": (1.0, 1),
    }
    assert win_rates([]) == {}


@pytest.mark.models
def test_alpha_is_that_of_the_package_krippendorff():
    """The numbers that other tests here name are the package's; it is GPL-3.0 and so no dependency."""
    package = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(2)
    for shift in (0, 1, 3):
        grades = np.clip(rng.integers(1, 6, 40) + rng.integers(-shift, shift + 1, (3, 40)), 1, 5).astype(float)
        grades[0, :9] = np.nan
        judgements = [
            said(i, f"annotator {k}", n=1, scores=(grade,))
            for k, row in enumerate(grades)
            for i, grade in enumerate(row)
            if not np.isnan(grade)
        ]
        expected = package.alpha(reliability_data=grades, level_of_measurement="ordinal")
        assert alpha_of(judgements) == pytest.approx(expected)


def test_alpha_of_grades_is_ordinal_and_that_of_another_program():
    rng = np.random.default_rng(0)
    true = rng.integers(1, 6, 60)
    grades = np.clip(true + rng.integers(-1, 2, (3, 60)), 1, 5).astype(float)  # (annotators, responses)
    grades[0, :9] = grades[2, 5:20] = np.nan
    judgements = [
        said(i, f"annotator {k}", n=1, scores=(grade,)) for k, row in enumerate(grades) for i, grade in enumerate(row)
        if not np.isnan(grade)
    ]  # fmt: skip
    found = agreement(judgements)
    assert (found.kind, found.units) == ("scores", 56)
    assert found.alpha == pytest.approx(0.7489352258249469)  # by krippendorff 0.9; 0.266 as nominal data


def test_grades_of_one_response_an_item_agree_or_not():
    """There is nothing to prefer among one response; its grade was forgotten."""
    agree = [said(i, name, n=1, scores=(float(1 + i % 5),)) for i in range(10) for name in ("ann", "bob")]
    against = [said(i, "ann", n=1, scores=(1.0 + i % 5,)) for i in range(10)]
    against += [said(i, "bob", n=1, scores=(5.0 - i % 5,)) for i in range(10)]
    assert alpha_of(agree) == pytest.approx(1)
    assert alpha_of(against) < -0.5


def test_grades_below_the_best_count():
    rest = [said(i, name, n=2, scores=(5.0, 1.0 + i % 3)) for i in range(1, 9) for name in ("ann", "bob")]
    near = alpha_of([said(0, "ann", n=2, scores=(5.0, 1.0)), said(0, "bob", n=2, scores=(5.0, 2.0)), *rest])
    far = alpha_of([said(0, "ann", n=2, scores=(5.0, 1.0)), said(0, "bob", n=2, scores=(5.0, 4.0)), *rest])
    assert far < near < 1


def test_places_behind_the_first_count_in_rankings():
    def ranked(item, name, ranking):
        return said(item, name, n=3, ranking=ranking)

    same = [ranked(i, name, (i % 3, (i + 1) % 3, (i + 2) % 3)) for i in range(9) for name in ("ann", "bob")]
    assert alpha_of(same) == pytest.approx(1)
    swapped = [ranked(i, "ann", (i % 3, (i + 1) % 3, (i + 2) % 3)) for i in range(9)]
    swapped += [ranked(i, "bob", (i % 3, (i + 2) % 3, (i + 1) % 3)) for i in range(9)]
    found = agreement(swapped)
    assert (found.kind, found.units) == ("ranking", 27)
    assert found.same.value == pytest.approx(2 / 3)  # of three pairs one is turned round
    assert found.alpha == pytest.approx(0.345679012345679)  # by krippendorff 0.9


def test_who_agree_on_everything_are_seen_to_agree_though_alpha_is_unknown():
    judgements = [said(i, name, 0) for i in range(10) for name in ("ann", "bob", "cat")]
    found = agreement(judgements)
    assert math.isnan(found.alpha)
    assert found.same[::3] == (1.0, 30)
    assert agreement([]).same.n == 0


def test_choices_rankings_and_grades_beside_each_other_are_not_mixed_up():
    choices = [said(i, name, i % 2) for i in range(4) for name in ("ann", "bob")]
    grades = [said(i, name, n=1, scores=(1.0 + i,)) for i in range(9) for name in ("ann", "bob")]
    assert agreement([*choices, *grades])[2:] == ("scores", 9)
    assert agreement([*choices, *grades[:2]])[2:] == ("choice", 4)


def test_alpha_of_many_different_numbers_is_quick_and_right():
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(2, 300)).round(2)
    judgements = [said(i, str(k), n=1, scores=(x,)) for k, row in enumerate(numbers) for i, x in enumerate(row)]
    assert alpha_of(judgements) == pytest.approx(0.07958862445572756, abs=1e-9)
