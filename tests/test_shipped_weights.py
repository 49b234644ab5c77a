"""The shipped weights are what the docs say: a start of mediocre gold, a strong and a weak preference model a task."""

import gymnasium as gym
import pytest
from safetensors import safe_open

import mmenv
from agents.overoptimisation.reward_models import Start
from agents.training.loading import load_policy
from mmenv.models.checkpoints import PRETRAINED, lineage, shipped
from mmenv.rewards.preference.model import load_preference_model
from mmenv.rewards.preference.training import agreement
from scripts.preference_weights import IDS, sample_pairs

TASKS = list(IDS)
MODELS = [f"{kind}-{task}" for kind in ("strong", "weak") for task in TASKS]


def test_everything_is_shipped_as_small_float16_safetensors():
    assert set(shipped()) == {"encoders", "start", *MODELS}
    for path in PRETRAINED.glob("*.safetensors"):
        assert path.stat().st_size < 5e6
        with safe_open(path, framework="np") as file:
            assert all(file.get_tensor(k).dtype == "float16" for k in file.keys())  # noqa: SIM118
    assert not [p for p in PRETRAINED.iterdir() if p.suffix not in (".safetensors", ".md")]


@pytest.mark.parametrize("name", MODELS)
def test_a_preference_model_descends_from_the_start_and_never_from_an_oracle(name):
    """Its file holds what differs from the start, and the start what differs from encoders that saw no answers."""
    assert lineage(name) == [name, "start", "encoders"]


@pytest.mark.parametrize("task", TASKS)
def test_the_start_has_mediocre_gold(task):
    env = gym.make_vec(IDS[task], num_envs=64, reward="gold").unwrapped
    policy = load_policy("start", env, greedy=True)
    result = mmenv.evaluate(policy.act, IDS[task], "test", episodes=256, reward="gold")
    assert 0.45 < result.gold < 0.70
    assert result.ended > 0.99


def agreement_on_card(name):
    with safe_open(PRETRAINED / f"{name}.safetensors", framework="np") as file:
        return float(file.metadata()["agreement"])


@pytest.mark.parametrize(
    "task", [task if task == "vqa" else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]
)
def test_preference_models_agree_with_gold_as_their_cards_say(task):
    pairs = sample_pairs(task, "validation", 600, seed=99)
    found = {}
    for kind in ("strong", "weak"):
        found[kind], _ = agreement(load_preference_model(f"{kind}-{task}"), pairs)
        assert found[kind] == pytest.approx(
            agreement_on_card(f"{kind}-{task}"), abs=0.07
        )  # 600 pairs, and ties among them
    assert found["strong"] - found["weak"] > 0.1


def test_a_preference_model_is_normalised_on_the_start():
    drawn = Start(IDS["vqa"]).sample_responses(400, 2, seed=5)
    scores = load_preference_model("strong-vqa")([r.sample for r in drawn], [r.response for r in drawn])
    assert abs(scores.mean()) < 0.2
    assert 0.8 < scores.std() < 1.2
