"""Synthetic annotators: what they draw follows the laws they name, they tire, and panels disagree."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmenv.data.sample import Response
from mmenv.feedback.annotators import AnnotatorPanel, SyntheticAnnotator
from mmenv.feedback.comparison import Comparison

TWO = Comparison("s", "what ?", ("a", "b"))
THREE = Comparison("s", "what ?", ("a", "b", "c"))
N = 4000


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def share(annotator, comparison, golds, test, kind="choice", labels=0):
    rng = np.random.default_rng(0)
    return np.mean([test(annotator.judge(comparison, golds, rng, kind, labels)) for _ in range(N)])


def test_ties_follow_rao_and_kupper():
    annotator = SyntheticAnnotator(0.2, tie_band=0.1)
    won = share(annotator, TWO, (0.7, 0.5), lambda c: c.choice == 0)
    tied = share(annotator, TWO, (0.7, 0.5), lambda c: c.choice == "tie")
    assert won == pytest.approx(sigmoid(1 - 0.5), abs=0.03)
    assert tied == pytest.approx(1 - sigmoid(0.5) - sigmoid(-1.5), abs=0.03)


def test_the_best_of_three_follows_luce_and_a_ranking_plackett():
    golds, annotator = np.array([0.9, 0.6, 0.5]), SyntheticAnnotator(0.2)
    odds = np.exp(golds / 0.2)
    assert share(annotator, THREE, golds, lambda c: c.choice == 0) == pytest.approx(odds[0] / odds.sum(), abs=0.03)
    expected = odds[0] / odds.sum() * odds[1] / odds[1:].sum()
    ranked = share(annotator, THREE, golds, lambda c: c.ranking == (0, 1, 2), "ranking")
    assert ranked == pytest.approx(expected, abs=0.03)


def test_grades_follow_a_cumulative_logit():
    found = share(SyntheticAnnotator(0.1), TWO, (0.55, 0.0), lambda c: c.scores[0] <= 3, "scores")
    assert found == pytest.approx(sigmoid((0.6 - 0.55) / 0.1), abs=0.03)
    exact = SyntheticAnnotator(0.0).judge(THREE, (0.0, 0.5, 1.0), np.random.default_rng(0), "scores")
    assert exact.scores == (1.0, 3.0, 5.0)
    harsh = SyntheticAnnotator(0.0, harshness=0.25).judge(THREE, (0.0, 0.5, 1.0), np.random.default_rng(0), "scores")
    assert harsh.scores == (1.0, 2.0, 4.0)


def test_slips_turn_every_kind_of_judgement_round():
    rng, golds = np.random.default_rng(0), (0.0, 0.5, 1.0)
    slipping = SyntheticAnnotator(0.0, flip=1.0)
    assert slipping.judge(THREE, golds, rng).choice in (0, 1)
    assert slipping.judge(THREE, golds, rng, "ranking").ranking == (0, 1, 2)
    assert slipping.judge(THREE, golds, rng, "scores").scores == (5.0, 3.0, 1.0)


def test_a_judgement_replaces_the_one_before_and_names_its_author():
    scored = Comparison("s", "what ?", ("a", "b"), scores=(0.1, 3.0), provenance={"policy": "ppo"})
    judged = SyntheticAnnotator(0.0, name="ann").judge(scored, (1.0, 0.0), np.random.default_rng(0))
    assert (judged.choice, judged.scores, judged.annotator) == (0, None, "ann")
    assert judged.provenance == {"policy": "ppo"}
    assert judged.created.endswith("Z")
    assert judged.decided


def test_words_count_where_there_are_no_tokens():
    longer = Comparison("s", "p", ("a", "a b c d"))
    judged = SyntheticAnnotator(0.0, length_bias=0.2).judge(longer, (0.5, 0.0), np.random.default_rng(0))
    assert judged.choice == 1


def test_an_annotator_tires_and_slips_more():
    fresh = SyntheticAnnotator(0.0, flip=0.05, tiring=0.1)
    assert share(fresh, TWO, (1, 0), lambda c: c.choice == 1) == pytest.approx(0.05, abs=0.015)
    assert share(fresh, TWO, (1, 0), lambda c: c.choice == 1, labels=2000) == pytest.approx(0.25, abs=0.03)
    assert share(fresh, TWO, (1, 0), lambda c: c.choice == 1, labels=90_000) == pytest.approx(0.5, abs=0.03)
    pairs = [(Response("x", (1,)), Response("y", (1,)))] * 4000
    slips = SyntheticAnnotator(0.0, tiring=0.1).prefer(pairs, np.tile([1.0, 0.0], (4000, 1)), np.random.default_rng(0))
    assert slips[:1000].mean() == pytest.approx(0.05, abs=0.025)
    assert slips[3000:].mean() == pytest.approx(0.35, abs=0.05)


def test_an_annotator_blurs():
    blurring = SyntheticAnnotator(0.1, blurring=1.0)
    clear, later = (share(blurring, TWO, (0.6, 0.4), lambda c: c.choice == 0, labels=g) for g in (0, 3000))
    assert clear == pytest.approx(sigmoid(2), abs=0.03)
    assert later == pytest.approx(sigmoid(0.5), abs=0.03)


def test_taste_is_constant_for_one_and_differs_between_two():
    items = [Comparison(f"s/{i}", "p", ("a", "b")) for i in range(200)]
    rng = np.random.default_rng(0)
    ann, ben = (SyntheticAnnotator(0.0, taste=1.0, name=n) for n in ("ann", "ben"))
    first, again, other = ([who.judge(c, (0.5, 0.5), rng).choice for c in items] for who in (ann, ann, ben))
    assert first == again
    assert 0.35 < np.mean(np.array(first) == np.array(other)) < 0.65


def test_a_panel_disagrees_with_itself_more_than_its_members_with_themselves():
    panel, rng = AnnotatorPanel.of(5, seed=1, base=SyntheticAnnotator(0.02)), np.random.default_rng(0)
    golds = rng.random((300, 2))
    items = [Comparison(f"s/{i}", "p", ("a", "b b b")) for i in range(300)]
    judged = panel.judge(items, golds, rng, overlap=2)
    assert len(judged) == 600
    assert all(a.annotator != b.annotator for a, b in zip(judged[::2], judged[1::2], strict=True))
    between = np.mean([a.choice == b.choice for a, b in zip(judged[::2], judged[1::2], strict=True)])
    one = panel.annotators[0]
    within = np.mean([one.judge(c, g, rng).choice == one.judge(c, g, rng).choice for c, g in zip(items, golds)])
    assert between < within
    assert {c.annotator for c in judged} == {f"synthetic-{i}" for i in range(1, 6)}


def test_a_panel_without_spread_differs_by_name_alone():
    panel = AnnotatorPanel.of(3, spread=0.0)
    assert {(a.temperature, a.flip, a.length_bias, a.taste, a.harshness) for a in panel.annotators} == {
        (0.1, 0.0, 0.0, 0.0, 0.0)
    }
    judged = panel.judge([TWO] * 9, [(1, 0)] * 9, np.random.default_rng(0))
    assert {c.annotator for c in judged} <= {"synthetic-1", "synthetic-2", "synthetic-3"}


def test_what_cannot_be_judged_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'stars' is unknown"):
        SyntheticAnnotator().judge(TWO, (0, 1), rng, "stars")
    with pytest.raises(ValueError, match="1 golds for 2 responses"):
        SyntheticAnnotator().judge(TWO, (0,), rng)
    with pytest.raises(ValueError, match="a name of its own"):
        AnnotatorPanel((SyntheticAnnotator(), SyntheticAnnotator()))
    with pytest.raises(ValueError, match="overlap=4 of 3"):
        AnnotatorPanel.of(3).judge([TWO], [(0, 1)], rng, overlap=4)
