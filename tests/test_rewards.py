"""Reward functions: checked scores, composed rewards, preference models."""

import warnings

import numpy as np
import pytest
import torch
from mmenv.tasks.demonstrations import demonstrate

from mmenv.data.sample import Response, Sample
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.models.checkpoints import load_pretrained
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.registration import task_of
from mmenv.rewards.base import GoldReward, LengthPenalty, RewardError, WeightedSum, reward_name, score
from mmenv.rewards.preference.losses import bradley_terry
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.training import Pairs, agreement
from mmenv.worlds.grid import concepts
from scripts.pair_training import train_on_pairs

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


@pytest.mark.parametrize("name", ["VQA", "Captioning", "SpokenDialogue"])
def test_demonstrations_are_of_mixed_quality_and_within_the_budget(name):
    task, rng = task_of(f"mmenv/{name}-v0")(dataset=None, image_size=None, tokenizer=None), np.random.default_rng(0)
    samples = [task.sample("train", i) for i in range(400)]
    texts = [demonstrate(s, rng) for s in samples]
    gold = np.mean([task.gold(s, Response(t)) for s, t in zip(samples, texts, strict=True)])
    assert 0.4 < gold < 0.75
    assert max(len(task.tokenizer.encode(t)) for t in texts) < task.max_response_tokens


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return Network(NetworkConfig(vocab_size=401, width=32, layers=1))


def pairs_of_answers(n):
    """Right answer against another word, in random order."""
    task = task_of("mmenv/VQA-v0")(dataset=None, image_size=None, tokenizer=None)
    rng = np.random.default_rng(0)
    samples = [task.sample("train", i) for i in range(n)]
    both = [(Response("yes", (4, 1)), Response("two", (5, 1))) for _ in samples]
    both = [pair if rng.random() < 0.5 else pair[::-1] for pair in both]
    gold = np.array([[r.text == "yes" for r in pair] for pair in both], dtype=float)
    return Pairs(samples, both, gold)


@pytest.mark.parametrize("kind", ["token", "state"])
def test_a_head_learns_a_preference_and_is_normalised(backbone, kind):
    model, pairs = PreferenceModel(backbone, kind), pairs_of_answers(256)
    train_on_pairs(model, pairs, SyntheticAnnotator(0.0), epochs=8, lr=5e-3)
    assert agreement(model, pairs)[0] > 0.95
    scores = model(*pairs.flat())
    assert scores.mean() == pytest.approx(0, abs=0.05)
    assert scores.std() == pytest.approx(1, abs=0.05)


def test_a_handful_of_comparisons_can_be_learned_from(backbone):
    model, pairs = PreferenceModel(backbone), pairs_of_answers(3)
    train_on_pairs(model, pairs, SyntheticAnnotator(0.0), epochs=10)  # ten steps: a cycle cannot rise in one
    assert np.isfinite(model(*pairs.flat())).all()


def test_the_head_is_told_what_the_picture_shows_and_what_was_said_before():
    model = PreferenceModel(load_pretrained("base"))
    task = task_of("mmenv/Captioning-v0")(dataset=None, image_size=None, tokenizer=None)
    sample = next(s for s in (task.sample("test", i) for i in range(99)) if len(s.truth.things) == 3)
    names = [t.name for t in sample.truth.things]
    absent = next(c.name for c in concepts() if c.name not in names)
    features, _ = model.features([sample], [Response(" ".join([*names, absent, names[0]]))])
    before, seen = features[0, :5, -2].tolist(), features[0, :5, -1].tolist()
    assert before == [0, 0, 0, 0, 1]
    assert min(seen[:3]) > 4 * 0.8 > 4 * 0.7 > seen[3]


def test_scores_do_not_depend_on_the_batch(backbone):
    model, pairs = PreferenceModel(backbone), pairs_of_answers(8)
    samples, responses = pairs.flat()
    alone = [model([s], [r])[0] for s, r in zip(samples, responses, strict=True)]
    np.testing.assert_allclose(model(samples, responses), alone, atol=1e-4)


def test_training_leaves_global_randomness_alone(backbone):
    model, before = PreferenceModel(backbone), torch.random.get_rng_state()
    train_on_pairs(model, pairs_of_answers(3), SyntheticAnnotator(0.0), epochs=1, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_samples_of_different_media_are_named_and_not_mixed_up(backbone):
    image, model = np.zeros((48, 48, 3), np.uint8), PreferenceModel(backbone)
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
    model, sample = PreferenceModel(backbone), Sample("s", 0, "what ?", np.zeros((48, 48, 3), np.uint8))
    long = "a " * 60
    with pytest.warns(UserWarning, match=r"2 of 3 responses have more than the 47 tokens .* max_response_tokens=47"):
        scores = model([sample] * 3, [Response(long + "dog"), Response(long + "cat"), Response("dog")])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model([sample], [Response(long)])
        PreferenceModel(backbone)([sample], [Response("a " * 46)])
    room = backbone.config.max_audio_tokens * 1600
    with pytest.warns(UserWarning, match=f"1 of 1 sounds have more than the {room} values"):
        model([Sample("s", 0, "what ?", sample.image, np.zeros(room + 1, np.float32))], [Response("dog")])
    most = backbone.config.max_prompt
    with pytest.warns(UserWarning, match=f"1 of 1 prompts have more than the {most} tokens"):
        model([Sample("s", 0, "what " * (most + 1), sample.image)], [Response("dog")])
