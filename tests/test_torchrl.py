"""TorchRL's wrappers take the environments as they are, scalar and vector."""

import importlib
import multiprocessing
import os

import gymnasium as gym
import pytest
import torch

import mmenv

IDS = ["mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogue-v0"]


@pytest.fixture(scope="module")
def envs():
    """torchrl.envs. Importing it makes "spawn" the way to start processes, which other tests must not inherit."""
    method = multiprocessing.get_start_method(allow_none=True)
    required = os.environ.get("MMENV_REQUIRE_ALL") == "1"
    yield (importlib.import_module if required else pytest.importorskip)("torchrl.envs")
    multiprocessing.set_start_method(method, force=True)


@pytest.mark.parametrize("env_id", IDS)
def test_gym_env_makes_the_scalar_env_and_its_specs_hold(envs, env_id):
    env = envs.GymEnv(env_id, reward="gold")
    envs.check_env_specs(env, seed=0)
    assert isinstance(env.unwrapped, mmenv.TokenEnv)
    assert set(env.observation_spec.keys()) == set(gym.make(env_id, reward="gold").observation_space)


@pytest.mark.parametrize("env_id", IDS)
def test_the_native_vector_env_is_reset_lane_by_lane(envs, env_id):
    from tensordict.nn import TensorDictModule

    lanes = gym.make_vec(env_id, num_envs=4, reward="gold", autoreset_mode="Disabled")
    env = envs.GymWrapper(lanes, categorical_action_encoding=True)
    envs.check_env_specs(env, seed=0)
    generator = torch.Generator().manual_seed(0)

    def policy(response):
        """Ends a response (token 1) or says a word (token 5)."""
        return torch.where(torch.rand(len(response), generator=generator) < 0.4, 1, 5)

    actor = TensorDictModule(policy, in_keys=["response"], out_keys=["action"])
    played = env.rollout(60, actor, break_when_any_done=False)  # (4, T)
    over, before, after = played["next", "terminated"][:, :-1, 0], played["next", "response"], played["response"]
    before, after = before[:, :-1], after[:, 1:]
    assert (over.any(0) & ~over.all(0)).sum() > 5
    assert (before[over] != 0).any(1).all()
    assert (after[over] == 0).all()
    torch.testing.assert_close(after[~over], before[~over])
    # The env's own state shows in the next step: a lane that was reset for another's sake would have lost its words.
    words = played["action"] == 5
    said, then = ((x != 0).sum(-1)[words] for x in (played["response"], played["next", "response"]))
    torch.testing.assert_close(then, said + 1)


def test_an_argument_that_torchrl_tries_is_refused_in_the_words_that_it_reads():
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'"):
        gym.make("mmenv/VQA-v0", frameskip=1)
