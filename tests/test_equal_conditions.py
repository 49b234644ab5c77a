"""A comparison compares one thing: algorithms have the same contexts at a seed, and the same decoding at the end."""

import copy
import importlib.util

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

from agents.algorithms.nlpo import NLPO, NLPOConfig
from agents.algorithms.registry import find
from agents.policies.nucleus import NucleusPolicy
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.rollout import context_generator, draw_contexts
from agents.training.trainer import Trainer
from mmenv.models.checkpoints import load_pretrained

TASK = "mmenv/VQA-v0"
# What an algorithm of each kind needs to learn from the first contexts of the stream alone.
ALGORITHMS = {
    "ppo": {}, "grpo": {}, "gspo": {}, "dr-grpo": {}, "cispo": {}, "sapo": {}, "nlpo": {}, "rloo": {}, "a2c": {},
    "reinforce": {}, "reinforce-pp": {}, "online-dpo": {}, "expert-iteration": {"responses_per_context": 4},
    "distillation": {"responses_per_context": 4}, "vineppo": {},
}  # fmt: skip
QUICK = ("grpo", "rloo", "online-dpo", "expert-iteration")


@pytest.fixture(scope="module")
def env():
    return gym.make_vec(TASK, num_envs=16, reward="gold", autoreset_mode="Disabled", copy=False).unwrapped


def trainer_of(name, start, folder, seed=3, **settings):
    small = {"num_envs": 16, "total_tokens": 10**6, "eval_episodes": 0, "threads": 1, "pictures": False}
    config = find(name).Config(env_id=TASK, start=start, seed=seed, **{"reward": "gold", **small, **settings})
    return Trainer(name, config, folder, console=Console(quiet=True))


def contexts_seen(trainer, updates=3):
    """Contexts that the updates learn from, in order."""
    seen = []
    for _ in range(updates):
        batch, _, _ = trainer._sample()
        seen += list(dict.fromkeys(sample.index for sample in batch.samples))
        trainer.algorithm.update(batch, 0.0)
    return seen


@pytest.fixture(scope="module")
def expected(start, tmp_path_factory):
    """The contexts that PPO sees."""
    return contexts_seen(trainer_of("ppo", start, tmp_path_factory.mktemp("reference")))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALGORITHMS]
)
def test_every_algorithm_sees_the_same_contexts_in_the_same_order_at_a_seed(name, expected, start, tmp_path):
    assert contexts_seen(trainer_of(name, start, tmp_path, **ALGORITHMS[name])) == expected
    assert len(expected) == 3 * 16 // 4


def test_another_seed_sees_other_contexts(expected, start, tmp_path):
    assert contexts_seen(trainer_of("ppo", start, tmp_path, seed=4)) != expected


@pytest.mark.parametrize("name", ["remax", "sft", "best-of-n"])
def test_an_algorithm_with_one_response_a_context_goes_through_the_same_stream_faster(
    name, start, reward_model, tmp_path
):
    trainer = trainer_of(name, start, tmp_path, reward=reward_model)
    batch = trainer.algorithm.collect(trainer.env)
    expected = draw_contexts(trainer.env, context_generator(3)).tolist()
    found = [sample.index for sample in batch.samples]  # best-of-n has them in the order in which responses end
    if name == "best-of-n":
        found, expected = sorted(found), sorted(expected)
    assert found == expected


def test_epochs_and_minibatches_do_not_change_which_contexts_come(start, tmp_path):
    one = contexts_seen(trainer_of("ppo", start, tmp_path / "one"))
    other = contexts_seen(trainer_of("ppo", start, tmp_path / "other", epochs=5, minibatches=8))
    assert one == other


def test_a_stream_of_contexts_does_not_depend_on_how_many_are_drawn_at_a_time(env):
    at_once = context_generator(7).integers(env.task.size("train"), size=32)
    contexts = context_generator(7)
    assert np.concatenate([draw_contexts(env, contexts) for _ in range(2)]).tolist() == at_once.tolist()
    contexts = context_generator(7)
    groups = np.concatenate([draw_contexts(env, contexts, 4) for _ in range(8)])
    assert groups[::4].tolist() == at_once.tolist()


def test_nlpo_is_evaluated_without_its_mask(env, start):
    network = load_pretrained(start)
    policy = NucleusPolicy(0.1, network, 4, 1.0, False, torch.Generator().manual_seed(0))
    reference = TokenPolicy(copy.deepcopy(network), 4)
    nlpo = NLPO(NLPOConfig(start=start, mask_top_p=0.1), policy, reference, np.random.default_rng(0))
    plain = TokenPolicy(network, 4, generator=torch.Generator().manual_seed(5))
    observations, _ = env.reset(options={"sample_index": np.arange(16)})
    everywhere = np.ones(16, bool)
    act = nlpo.evaluation_policy(torch.Generator().manual_seed(5), env)
    unmasked = plain.act(observations, None, everywhere)[0]
    masked = policy.act(observations, None, everywhere)[0]
    assert np.array_equal(act(observations, None, everywhere)[0], unmasked)
    assert not np.array_equal(masked, unmasked)


def test_every_algorithm_has_the_same_scores_before_training(start, reward_model, tmp_path):
    scores = {}
    for name in ("ppo", "nlpo", "grpo", "best-of-n", "sft"):
        trainer = trainer_of(name, start, tmp_path / name, reward=reward_model, eval_episodes=32)
        scores[name] = scores_of(trainer._evaluation("test"))
    if importlib.util.find_spec("sb3_contrib"):
        from agents.integrations.sb3 import SB3Config, SB3Run

        config = SB3Config(env_id=TASK, start=start, reward=reward_model, num_envs=8, eval_episodes=32)
        scores["sb3-ppo"] = scores_of(SB3Run("sb3-ppo", config, tmp_path / "sb3")._evaluation(TASK))
    assert len(set(scores.values())) == 1, scores


def scores_of(evaluation):
    names = ("gold", "reward", "length")
    return tuple(part[name] for part in (evaluation, evaluation["greedy"]) for name in names)
