"""The shipped weights are what the docs say: starts of mediocre gold, a strong and a weak preference model for each."""

import pytest
import torch
from safetensors import safe_open

import mmenv
from agents.policies.token_policy import TokenPolicy
from mmenv.models.checkpoints import PRETRAINED, load_pretrained, shipped
from mmenv.rewards.preference.model import load_preference_model
from mmenv.rewards.preference.training import agreement
from scripts.preference_weights import IDS, sample_pairs

TASKS = list(IDS)


def test_everything_is_shipped_as_small_float16_safetensors():
    assert set(shipped()) >= {"base", *(f"{kind}-{task}" for kind in ("start", "strong", "weak") for task in TASKS)}
    for path in PRETRAINED.glob("*.safetensors"):
        assert path.stat().st_size < 4e6
        with safe_open(path, framework="np") as file:
            assert all(file.get_tensor(k).dtype == "float16" for k in file.keys())  # noqa: SIM118
    assert not [p for p in PRETRAINED.iterdir() if p.suffix not in (".safetensors", ".md")]


@pytest.mark.parametrize("task", TASKS)
def test_the_start_has_mediocre_gold(task):
    network = load_pretrained(f"start-{task}")
    budget = 28 if task == "captioning" else 16
    policy = TokenPolicy(network, budget, generator=torch.Generator().manual_seed(0))
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
        assert found[kind] == pytest.approx(agreement_on_card(f"{kind}-{task}"), abs=0.07)  # 600 pairs, half are ties
    assert found["strong"] - found["weak"] > 0.1


def test_a_preference_model_is_normalised_on_the_start():
    pairs = sample_pairs("vqa", "train", 400, seed=5)
    scores = load_preference_model("strong-vqa")(*pairs.flat())
    assert abs(scores.mean()) < 0.2
    assert 0.8 < scores.std() < 1.2
