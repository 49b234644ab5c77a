"""Reward functions: checked scores, composed rewards, preference models."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from agents.rollouts.pairs import annotate
from mmenv.data.sample import Response, Sample
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.rewards.base import GoldReward, LengthPenalty, RewardError, WeightedSum, reward_name, score
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.losses import bradley_terry
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.training import Pairs, agreement, fit
from tests.backbones import small_backbone

SAMPLES = [Sample(f"s/{i}", i, "what ?") for i in range(3)]
RESPONSES = [Response("a dog", (5, 6, 1)), Response("", (1,)), Response("cat", (7, 8), "budget")]


def one(samples, responses):
    return np.ones(len(samples))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda s, r: np.array([0.0, np.nan, 1.0]), "s/1"),
        (lambda s, r: np.zeros(2), r"shape \(2,\) for 3"),
        (lambda s, r: 1 / 0, "ZeroDivisionError.*s/0"),
        (lambda s, r: np.array([0.0, 0.0, np.inf]), "'cat'"),
    ],
)
def test_a_bad_reward_function_is_named_with_its_sample(bad, message):
    with pytest.raises(RewardError, match=message):
        score(bad, SAMPLES, RESPONSES)


def test_names_of_rewards():
    assert reward_name(one) == "one"
    assert reward_name(LengthPenalty()) == "length"


def test_a_weighted_sum_adds_its_parts():
    with pytest.raises(ValueError, match="named 'length', so info cannot tell them apart"):
        WeightedSum((LengthPenalty(0.5), 1.0), (LengthPenalty(0.1), 1.0))
    total = WeightedSum((one, 2.0), (LengthPenalty(0.5, free=1), 1.0))
    np.testing.assert_allclose(total(SAMPLES, RESPONSES), [1.0, 2.0, 1.5])
    assert list(total.components(SAMPLES, RESPONSES)) == ["one", "length"]


def test_gold_that_is_unknown_cannot_be_a_reward():
    with pytest.raises(RewardError, match="s/0"):
        GoldReward(lambda s, r: None)(SAMPLES, RESPONSES)


def test_bradley_terry_at_no_difference_is_log_two():
    assert bradley_terry(torch.zeros(3)).mean().item() == pytest.approx(np.log(2))


def test_an_annotator_prefers_gold_and_slips_as_often_as_told():
    rng = np.random.default_rng(0)
    pairs = [(Response("x", (1,)), Response("y", (1, 2, 3)))] * 4000
    gold = np.tile([0.2, 0.7], (4000, 1))
    assert SyntheticAnnotator(0.0).prefer(pairs, gold, rng).mean() == 1.0
    assert SyntheticAnnotator(0.0, flip=0.25).prefer(pairs, gold, rng).mean() == pytest.approx(0.75, abs=0.03)
    assert SyntheticAnnotator(0.5).prefer(pairs, gold, rng).mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)
    assert SyntheticAnnotator(0.0, length_bias=1.0).prefer(pairs, gold[:, ::-1], rng).mean() == 1.0


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return small_backbone(tmp_path_factory.mktemp("backbone"))


def pairs_of_answers(n):
    """Right answer against another word, in random order."""
    rng = np.random.default_rng(0)
    samples = [Sample(f"s/{i}", i, "is there a dog ?", np.full((96, 96, 3), i % 256, np.uint8)) for i in range(n)]
    both = [(Response("yes", (4, 1)), Response("two", (5, 1))) for _ in samples]
    both = [pair if rng.random() < 0.5 else pair[::-1] for pair in both]
    gold = np.array([[r.text == "yes" for r in pair] for pair in both], dtype=float)
    return Pairs(samples, both, gold)


def learn(model, pairs, config):
    fit(model, annotate(pairs, SyntheticAnnotator(0.0), np.random.default_rng(0)), pairs.samples, config)


@pytest.mark.parametrize("head", ["last", "mean", "sum"])
@pytest.mark.parametrize("trained", ["all", "head"])
def test_a_preference_is_learned_and_the_model_is_normalised(backbone, head, trained):
    torch.manual_seed(0)
    model, pairs = PreferenceModel(backbone, head=head), pairs_of_answers(256)
    learn(model, pairs, RewardConfig(epochs=8, lr=5e-3, trained=trained))
    assert agreement(model, pairs)[0] > 0.95
    scores = model(*pairs.flat())
    assert scores.mean() == pytest.approx(0, abs=0.05)
    assert scores.std() == pytest.approx(1, abs=0.05)


def test_a_handful_of_comparisons_can_be_learned_from(backbone):
    model, pairs = PreferenceModel(backbone), pairs_of_answers(3)
    learn(model, pairs, RewardConfig(epochs=10))  # ten steps: a cycle cannot rise in one
    assert np.isfinite(model(*pairs.flat())).all()


def test_equal_scores_of_responses_that_differ_in_gold_count_as_misses():
    pairs = pairs_of_answers(20)
    assert agreement(lambda samples, responses: np.zeros(len(samples), np.float32), pairs) == (0.0, 0.0)
    assert agreement(lambda samples, responses: np.array([r.text == "yes" for r in responses], float), pairs)[0] == 1.0


def test_responses_whose_golds_differ_by_less_than_a_tenth_are_ties():
    pairs = dataclasses.replace(pairs_of_answers(3), gold=np.array([[0.5, 0.59], [0.5, 0.6], [0.6, 0.5]]))
    assert pairs.distinct.tolist() == [False, True, True]


def test_scores_do_not_depend_on_the_batch(backbone):
    model, pairs = PreferenceModel(backbone), pairs_of_answers(8)
    samples, responses = pairs.flat()
    alone = [model([s], [r])[0] for s, r in zip(samples, responses, strict=True)]
    np.testing.assert_allclose(model(samples, responses), alone, atol=1e-4)


def test_responses_much_longer_than_the_others_are_read_apart_and_scores_keep_their_order(backbone):
    model, sample = PreferenceModel(backbone), Sample("s", 0, "what ?", np.zeros((96, 96, 3), np.uint8))
    responses = [Response(text) for text in ("dog", "red cat " * 15, "two", "a cat", "left of " * 12, "yes")]
    alone = [model([sample], [response])[0] for response in responses]
    np.testing.assert_allclose(model([sample] * 6, responses), alone, atol=1e-4)
    parts = model.reader.read([sample] * 6, responses).by_length()
    assert [part.tolist() for part in parts] == [[0, 2, 3, 5], [1, 4]]


def test_training_leaves_global_randomness_alone(backbone):
    model, before = PreferenceModel(backbone), torch.random.get_rng_state()
    learn(model, pairs_of_answers(3), RewardConfig(epochs=1, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)


SPELLINGS = {
    "a gray plate and two dogs": (
        "A Gray plate, and two dogs.",
        "a grey plate and 2 dogs",
        "the gray plate and two dogs",
    ),
    "twenty": ("20", "Twenty!", "twenty ."),
    "it is red": ("It's red.", "IT IS RED", "it\u2019s red"),
    "bottom right": ("bottom-right", "Bottom right.", "the bottom right"),
    "there is a dog . it is red": ("There is a dog. It is red.", "there's a dog; it's red"),
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_one_answer_has_one_score_however_it_is_spelled(backbone, text):
    model, sample = PreferenceModel(backbone), Sample("s", 0, "what ?", np.zeros((96, 96, 3), np.uint8))
    texts = (text, *SPELLINGS[text], "a cat")
    scores = model([sample] * len(texts), [Response(spelling) for spelling in texts])
    np.testing.assert_array_equal(scores[1:-1], np.repeat(scores[0], len(texts) - 2))
    assert scores[-1] != scores[0]


def test_where_a_sentence_ends_is_read_and_what_ends_it_is_not(backbone):
    model, sample = PreferenceModel(backbone), Sample("s", 0, "what ?", np.zeros((96, 96, 3), np.uint8))
    texts = ("I see a dog. A cat is red.", "i see a dog; a cat is red", "i see a dog a cat. is red")
    one, same, other = model([sample] * 3, [Response(text) for text in texts])
    assert one == pytest.approx(same, abs=1e-5)
    assert other != pytest.approx(one, abs=1e-5)


def test_an_answer_that_was_cut_off_has_another_score_than_one_that_ended(backbone):
    model, sample = PreferenceModel(backbone), Sample("s", 0, "what ?", np.zeros((96, 96, 3), np.uint8))
    ended, cut = model([sample] * 2, [Response("two dogs"), Response("two dogs", stop="budget")])
    assert ended != cut


def test_samples_of_different_media_are_named_and_not_mixed_up(backbone):
    image, model = np.zeros((96, 96, 3), np.uint8), PreferenceModel(backbone)
    said = [Response("a dog")] * 3
    plain = [Sample(f"s/{i}", i, "what ?", image) for i in range(3)]
    for other in (
        Sample("t", 0, "what ?"),
        Sample("t", 0, "what ?", image[:24]),
        Sample("t", 0, "?", image, np.zeros(9)),
    ):
        with pytest.raises(
            RewardError, match=r"samples 's/0' and 't' differ in their media .* score samples of one kind"
        ):
            model([plain[0], other], said[:2])
        with pytest.raises(RewardError, match="samples 't' and 's/0' differ in their media"):
            model([other, plain[0]], said[:2])


def test_what_the_model_does_not_read_of_a_response_or_a_prompt_is_warned_of_once(backbone):
    model, sample = PreferenceModel(backbone), Sample("s", 0, "what ?", np.zeros((96, 96, 3), np.uint8))
    longest = model.reader.longest
    long = "dog " * (longest + 9)
    with pytest.warns(UserWarning, match=f"2 of 3 responses .* the {longest} tokens .* max_response_tokens={longest}"):
        scores = model([sample] * 3, [Response(long + "dog"), Response(long + "cat"), Response("dog")])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model([sample], [Response(long)])
        PreferenceModel(backbone)([sample], [Response("dog " * (longest - 1))])
    room = backbone.network.config.max_audio_tokens * 1600
    with pytest.warns(UserWarning, match=f"1 of 1 sounds have more than the {room} values"):
        model([Sample("s", 0, "what ?", sample.image, np.zeros(room + 1, np.float32))], [Response("dog")])
    most = backbone.network.config.max_prompt
    with pytest.warns(UserWarning, match=f"1 of 1 prompts have more than the {most} tokens"):
        model([Sample("s", 0, "what " * (most + 1), sample.image)], [Response("dog")])
