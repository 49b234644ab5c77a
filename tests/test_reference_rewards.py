"""Metrics of the references as rewards, checked against the libraries and by hand."""

from __future__ import annotations

import sys

import gymnasium as gym
import numpy as np
import pytest
from datafiles import captioned
from pycocoevalcap.cider.cider import Cider

import mmenv
from mmenv.data.sample import Response, Sample
from mmenv.rewards.metrics.references import METRICS, ReferenceReward, plain

REFERENCES = [("a red dog runs .", "the dog is red"), ("a blue cat sits",), ("赤い車",), ("two dogs play in the park",)]
SAID = ["a red dog", "A cat sits!", "赤い車", "birds"]
SAMPLES = [Sample(str(i), i, "?", references=r) for i, r in enumerate(REFERENCES)]
RESPONSES = [Response(text) for text in SAID]


def test_cider_is_that_of_pycocoevalcap_over_the_documents():
    references = {i: [plain(r) for r in several] for i, several in enumerate(REFERENCES)}
    _, expected = Cider().compute_score(references, {i: [plain(text)] for i, text in enumerate(SAID)})
    np.testing.assert_allclose(ReferenceReward("cider", REFERENCES)(SAMPLES, RESPONSES), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("exact", [0, 0, 1, 0]),
        ("wer", [-0.4, -0.5, 0, -1]),  # of 5 words 2 are missing; of 4 one is missing and "!" is too many
        ("rouge-l", [0.75, 0.75, 1, 0]),  # F1 of 3/3 and 3/5; of 3/4 and 3/4
    ],
)
def test_metrics_are_what_they_are_by_hand(metric, expected):
    np.testing.assert_allclose(ReferenceReward(metric)(SAMPLES, RESPONSES), expected, rtol=1e-6)


def test_bleu_is_whole_for_the_same_words_and_nothing_for_others():
    scores = ReferenceReward("bleu")(SAMPLES, RESPONSES)
    assert scores[2] == pytest.approx(1.0)
    assert scores[3] == 0.0
    assert 0 < scores[1] < 1


@pytest.mark.parametrize("metric", [*METRICS])
@pytest.mark.parametrize("text", ["", " ", "\u200d", "\n"])
def test_silence_earns_nothing_by_any_metric(metric, text):
    for references in (("a dog",), ("a dog", "", " "), ("A",), ("?",)):
        silent = ReferenceReward(metric, [references])([Sample("1", 0, "?", references=references)], [Response(text)])
        assert silent == (-1 if metric == "wer" else 0)


def test_silence_is_never_better_paid_than_a_wrong_answer():
    sample = Sample("1", 0, "?", references=("dog",))
    reward = ReferenceReward("wer")
    wrong, silent = reward([sample] * 2, [Response("a cat and a bird"), Response("")])
    assert wrong == silent == -1
    assert reward.measure(sample, "a cat and a bird") == 5.0  # the metric itself is the whole error rate


def test_references_without_a_word_are_none():
    with pytest.raises(mmenv.RewardError, match="'7' has no references"):
        ReferenceReward("exact")([Sample("7", 0, "?", references=("", " "))], [Response("")])


def test_a_sample_without_references_is_named():
    with pytest.raises(mmenv.RewardError, match="'7' has no references"):
        ReferenceReward("exact")([Sample("7", 0, "?")], [Response("a")])


def test_a_missing_library_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install -c constraints.txt -e "\.\[metrics\]"'):
        gym.make("mmenv/VQA-v0", reward="wer")


@pytest.mark.parametrize("metric", [*METRICS])
def test_every_metric_is_a_reward_by_name(tmp_path, metric):
    env = gym.make("mmenv/Captioning-v0", dataset=captioned(tmp_path, 12), split="all", reward=metric)
    right, scores = env.get_wrapper_attr("tokenizer").encode("Ein grünes Bild, übrigens groß."), []
    for tokens in (right, right[:1]):
        env.reset(options={"sample_index": 1})
        for token in tokens:
            env.step(token)
        _, reward, _, _, info = env.step(1)
        assert "gold" not in info
        scores.append(reward)
    assert scores[0] > scores[1]


def test_a_metric_is_a_reward_on_the_embedded_world_too():
    env = gym.make("mmenv/VQA-v0", reward="vqa")
    env.reset(seed=0)
    assert env.step(1)[1] == 0.0


def test_an_evaluation_reports_metrics_where_there_is_no_gold(tmp_path):
    folder = captioned(tmp_path, 12)
    tokenizer = gym.make("mmenv/Captioning-v0", dataset=folder, reward="exact").get_wrapper_attr("tokenizer")
    text = tokenizer.encode("Ein grünes Bild, übrigens groß.")

    def act(observations, state, starts):
        step = 0 if state is None else state
        token = text[step] if step < len(text) else 1
        return np.full(len(starts), token), step + 1

    found = mmenv.evaluate(
        act, "mmenv/Captioning-v0", dataset=folder, split="all", reward="exact", metrics=("exact", "wer", "cider")
    )
    assert np.isnan(found.gold)
    assert found.metrics["exact"] == found.reward == pytest.approx(2 / 12)
    assert found.metrics["wer"] > 0.5
    assert found.metrics["cider"] == pytest.approx(10 * 2 / 12, rel=0.2)
    assert "exact 0.167" in str(found)
    with pytest.raises(mmenv.ArgumentError, match="meteor"):
        mmenv.evaluate(act, "mmenv/Captioning-v0", dataset=folder, reward="exact", metrics=("meteor",))
