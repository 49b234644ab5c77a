"""What to ask: each strategy asks what it says, and bad arguments are named."""

from __future__ import annotations

import numpy as np
import pytest

from mmenv.feedback.comparison import Comparison
from mmenv.feedback.selection import STRATEGIES, select

ITEMS = [Comparison(f"s/{i}", "p", ("a", "b")) for i in range(40)]
DOUBT = {c.sample_id: (i * 7) % 40 for i, c in enumerate(ITEMS)}  # a shuffle of 0 to 39


def doubt(comparisons):
    return np.array([DOUBT[c.sample_id] for c in comparisons], float)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_items_are_distinct_and_the_draw_repeats_itself(strategy):
    one, two = (select(ITEMS, 20, strategy, doubt, np.random.default_rng(3)) for _ in range(2))
    assert one == two
    assert len(set(one)) == 20
    assert sorted(select(ITEMS, 40, strategy, doubt)) == list(range(40))
    assert select(ITEMS, 0, strategy, doubt) == []


def test_uncertain_asks_the_greatest_disagreement_first():
    asked = select(ITEMS, 10, "uncertain", doubt, np.random.default_rng(0))
    assert [DOUBT[ITEMS[i].sample_id] for i in asked] == list(range(39, 29, -1))


def test_mixed_asks_half_by_disagreement_and_shows_them_among_the_others():
    asked = [DOUBT[ITEMS[i].sample_id] for i in select(ITEMS, 11, "mixed", doubt, np.random.default_rng(0))]
    assert {39, 38, 37, 36, 35, 34} <= set(asked)
    assert asked[:6] != [39, 38, 37, 36, 35, 34]
    draws = [select(ITEMS, 10, "mixed", doubt, np.random.default_rng(seed)) for seed in range(200)]
    others = [DOUBT[ITEMS[i].sample_id] for asked in draws for i in asked if DOUBT[ITEMS[i].sample_id] < 35]
    assert np.mean(others) == pytest.approx(17, abs=1)


def test_equal_doubt_is_a_draw():
    flat = [
        tuple(select(ITEMS, 3, "uncertain", lambda c: np.zeros(len(c)), np.random.default_rng(s))) for s in range(9)
    ]
    assert len(set(flat)) > 5


def test_random_asks_no_model():
    assert len(select(ITEMS, 5, "random", lambda c: 1 / 0)) == 5, "and the doubt that would divide by zero is not asked"


def test_what_cannot_be_selected_is_named():
    with pytest.raises(ValueError, match="'greedy' is unknown"):
        select(ITEMS, 1, "greedy")
    with pytest.raises(ValueError, match="k=41 of 40"):
        select(ITEMS, 41)
    with pytest.raises(ValueError, match="needs disagreement="):
        select(ITEMS, 1, "uncertain")
    with pytest.raises(ValueError, match=r"shape \(1,\) for 40"):
        select(ITEMS, 1, "mixed", lambda c: np.zeros(1))
    with pytest.raises(ValueError, match="not finite"):
        select(ITEMS, 1, "mixed", lambda c: np.full(len(c), np.nan))
