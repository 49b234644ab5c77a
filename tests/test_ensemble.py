"""Ensembles: how members are combined, what they share, doubt, and files."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open

import mmenv  # noqa: F401
from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.models.checkpoints import WeightsError
from mmenv.models.transformer import Network
from mmenv.rewards.loading import load_reward
from mmenv.rewards.preference.calibration import evaluate
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.ensemble import EnsembleReward, combined, fit_ensemble, load_ensemble
from mmenv.rewards.preference.model import PreferenceModel, load_preference_model
from tests.backbones import small_backbone

WORDS = ("yes", "no", "two", "three")
IMAGE = np.zeros((96, 96, 3), np.uint8)
PAIRS = [
    Comparison(f"s/{i}", "what ?", (WORDS[i % 3], WORDS[i % 3 + 1]), 0, annotator="a") for i in range(48)
]  # fmt: skip
SAMPLES = [Sample(f"s/{i}", i, "what ?", IMAGE) for i in range(48)]
RESPONSES = [Response(WORDS[i % 4]) for i in range(48)]


CONFIG = RewardConfig(epochs=8, lr=5e-3, backbone_lr=3e-3, batch=16)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_backbone(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def ensemble(base):
    return fit_ensemble(base, PAIRS, SAMPLES, CONFIG, members=3)


@pytest.fixture(scope="module")
def heads(base):
    return fit_ensemble(base, PAIRS, SAMPLES, RewardConfig(epochs=8, batch=16, trained="head"), members=3)


def test_members_are_combined_as_told():
    each = np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)
    assert combined(each, "mean", 1.0).tolist() == [2.0, 0.0]
    assert combined(each, "minimum", 1.0).tolist() == [1.0, 0.0]
    assert combined(each, "variance", 0.5).tolist() == [1.5, 0.0]
    with pytest.raises(ValueError, match="'maximum' is unknown"):
        combined(each, "maximum", 1.0)


@pytest.mark.parametrize("combine", ["mean", "minimum", "variance"])
def test_scores_of_the_reference_have_mean_zero_and_deviation_one(ensemble, combine):
    responses = [r for c in PAIRS for r in c.as_responses()]
    scores = ensemble.with_combine(combine)([s for s in SAMPLES for _ in range(2)], responses)
    assert scores.dtype == np.float32
    assert scores.mean() == pytest.approx(0, abs=0.02)
    assert scores.std() == pytest.approx(1, abs=0.02)


def test_the_ensemble_is_its_members(ensemble):
    each = ensemble.each(SAMPLES, RESPONSES)
    alone = np.stack([model(SAMPLES, RESPONSES) for model in ensemble.models])
    np.testing.assert_allclose(each, alone, atol=1e-5)
    np.testing.assert_allclose(ensemble.disagreement(SAMPLES, RESPONSES), alone.std(0), atol=1e-5)
    np.testing.assert_allclose(ensemble(SAMPLES, RESPONSES), (alone.mean(0) - ensemble.mean) / ensemble.std, atol=1e-5)


def test_members_differ_and_agree_on_what_they_saw(ensemble):
    each = ensemble.each(SAMPLES[:4], [Response(w) for w in WORDS])
    assert not np.allclose(each[0], each[1])
    assert (np.diff(each, axis=1) < 0).all()


def test_doubt_is_greater_of_what_was_never_seen(ensemble):
    strange = [Response("a dog is above a cat and left of a bus"), Response("red red red red")]
    known = ensemble.disagreement(SAMPLES[:4], [Response(w) for w in WORDS]).mean()
    assert ensemble.disagreement(SAMPLES[:2], strange).mean() > 2 * known


def test_doubt_about_a_comparison_is_the_spread_of_the_preference(ensemble):
    three = Comparison("s", "what ?", ("two", "red red red red", "yes"))
    doubt = ensemble.doubt([PAIRS[0], three, Comparison("s", "what ?", ("yes",))], SAMPLES[:3])
    raw = np.stack([m(SAMPLES[:2], PAIRS[0].as_responses()) * m.std for m in ensemble.models])
    expected = (1 / (1 + np.exp(raw[:, 1] - raw[:, 0]))).std()
    assert doubt[0] == pytest.approx(expected, abs=1e-4)
    raw = np.stack([m(SAMPLES[:3], three.as_responses()) * m.std for m in ensemble.models])
    spreads = [(1 / (1 + np.exp(raw[:, j] - raw[:, i]))).std() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert doubt[1] == pytest.approx(np.mean(spreads), abs=1e-4)
    assert doubt[2] == 0


def test_media_are_encoded_once_and_heads_on_one_backbone_share_its_pass(ensemble, heads, monkeypatch):
    calls = []
    for name in ("encode", "forward"):
        method = getattr(Network, name)
        monkeypatch.setattr(Network, name, lambda *a, name=name, method=method: calls.append(name) or method(*a))
    ensemble(SAMPLES, RESPONSES)
    assert sorted(calls) == ["encode", "forward", "forward", "forward"]
    calls.clear()
    heads(SAMPLES, RESPONSES)
    assert sorted(calls) == ["encode", "forward"]


def test_an_ensemble_repeats_itself(base, ensemble):
    again = fit_ensemble(base, PAIRS, SAMPLES, CONFIG, members=3)
    np.testing.assert_array_equal(again.each(SAMPLES, RESPONSES), ensemble.each(SAMPLES, RESPONSES))


def test_what_is_saved_is_loaded_and_can_be_read_in_another_way(ensemble, tmp_path):
    path = tmp_path / "five.safetensors"
    ensemble.with_combine("variance", 0.5).save(path, {"note": "x"})
    loaded = load_reward(path)
    assert isinstance(loaded, EnsembleReward)
    assert (loaded.combine, loaded.weight, loaded.name) == ("variance", 0.5, "five")
    expected = ensemble.with_combine("variance", 0.5)(SAMPLES, RESPONSES)
    np.testing.assert_allclose(loaded(SAMPLES, RESPONSES), expected, atol=0.02)  # heads are kept in half precision
    cautious = load_ensemble(path, "minimum")
    expected = ensemble.with_combine("minimum")(SAMPLES, RESPONSES)
    np.testing.assert_allclose(cautious(SAMPLES, RESPONSES), expected, atol=0.02)


@pytest.mark.parametrize("members", [1, 2])
def test_a_smaller_head_is_trained_and_its_file_is_loaded_as_it_was_saved(base, tmp_path, members):
    small = fit_ensemble(base, PAIRS, SAMPLES, RewardConfig(epochs=2, hidden=8, head="sum"), members)
    assert [m.head.out.in_features for m in small.models] == [8] * members
    small.save(tmp_path / "small.safetensors")
    loaded = load_ensemble(tmp_path / "small.safetensors")
    np.testing.assert_allclose(loaded(SAMPLES, RESPONSES), small(SAMPLES, RESPONSES), atol=0.05)
    small.models[0].save(tmp_path / "one.safetensors")
    one = load_preference_model(tmp_path / "one.safetensors")
    assert one.head.out.in_features == 8
    np.testing.assert_allclose(one(SAMPLES, RESPONSES), small.models[0](SAMPLES, RESPONSES), atol=0.05)


def test_an_environment_pays_by_a_saved_ensemble(ensemble, tmp_path):
    path = tmp_path / "five.safetensors"
    ensemble.save(path)
    env = gym.make("mmenv/VQA-v0", reward=str(path))
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(1)
    sample = env.get_wrapper_attr("task").sample("train", info.get("sample_index", 0))
    assert terminated
    assert np.isfinite(reward)
    assert sample is not None
    assert isinstance(env.unwrapped.reward_function, EnsembleReward)


def test_a_preference_model_is_not_an_ensemble(base, tmp_path):
    PreferenceModel(base).save(tmp_path / "one.safetensors")
    assert isinstance(load_reward(tmp_path / "one.safetensors"), PreferenceModel)
    with pytest.raises(WeightsError, match="not an ensemble"):
        load_ensemble(tmp_path / "one.safetensors")
    with pytest.raises(WeightsError, match="no weights"):
        load_reward(tmp_path / "nothing.safetensors")


def test_a_file_has_the_decoders_of_models_trained_whole_and_no_more_than_heads_of_others(ensemble, heads, tmp_path):
    for reward in (ensemble, heads):
        reward.save(tmp_path / "saved.safetensors")
        with safe_open(tmp_path / "saved.safetensors", "pt") as file:
            names = {name for name in file.keys() if name != "reference"}  # noqa: SIM118
        assert {name.split(".")[1] for name in names} == ({"head", "backbone"} if reward is ensemble else {"head"})
        assert not [name for name in names if "encoders" in name]


def test_models_of_two_networks_are_refused(base, tmp_path):
    other = small_backbone(tmp_path)
    with pytest.raises(ValueError, match="differ in encoders"):
        EnsembleReward([PreferenceModel(base), PreferenceModel(other)])
    with pytest.raises(ValueError, match="at least one"):
        EnsembleReward([])
    with pytest.raises(ValueError, match="'median' is unknown"):
        EnsembleReward([PreferenceModel(base)], "median")


def test_the_seed_makes_the_heads_and_global_randomness_is_left_alone(base):
    before = torch.random.get_rng_state()
    fit_ensemble(base, PAIRS[:4], SAMPLES[:4], RewardConfig(epochs=1), members=2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("combine", "right"), [("mean", 1.0), ("minimum", 0.0), ("variance", 0.0)])
def test_the_report_is_that_of_the_reward_that_is_paid(ensemble, combine, right, monkeypatch):
    """Two members of three prefer the first response clearly, and the third the other."""
    paid = ensemble.with_combine(combine, 10.0)
    monkeypatch.setattr(paid, "each", lambda samples, responses: np.float32([[9, 0], [9, 0], [-2, 0]]))
    comparison = Comparison("s/0", "what ?", ("yes", "no"), 0, annotator="ann")
    report = evaluate(paid, [comparison], SAMPLES[:1])
    assert report.accuracy.value == right
    assert report.probability_accuracy.value == 1.0
