"""The conformance tests pass what keeps the contract, and say what is wrong with what does not."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from toys import Colours, Talk

import mmenv
from mmenv.envs.checker import CHECKS, ConformanceError, check_env


@pytest.mark.parametrize("env_id", ["toy/Colours-v0", "toy/Talk-v0", "toy/Unknown-v0"])
def test_an_id_of_ones_own_passes_every_check(env_id):
    passed = check_env(env_id)
    assert len(passed) == len(CHECKS) + 1
    assert all(p.claim for p in passed)


def test_an_environment_without_a_spec_is_checked_alone():
    assert len(check_env(mmenv.TokenEnv(Talk, reward="gold"))) == len(CHECKS)


def broken(**methods):
    return type("Broken", (mmenv.TokenEnv,), methods)(Colours, reward="gold")


def drifting_reset(self, *, seed=None, options=None):
    observation, info = mmenv.TokenEnv.reset(self, seed=seed, options=options)
    self.drift = getattr(self, "drift", 0) + 1
    return {**observation, "image": observation["image"] ^ np.uint8(self.drift % 7)}, info


def eager_step(self, action):
    observation, _, terminated, truncated, info = mmenv.TokenEnv.step(self, action)
    return observation, 1.0, terminated, truncated, info


def lenient_step(self, action):
    fits = isinstance(action, int | np.integer) and 0 <= action < self.action_space.n
    return mmenv.TokenEnv.step(self, action if fits else 3)


def padding_step(self, action):
    is_padding = isinstance(action, int) and action == self.tokenizer.pad_id
    return mmenv.TokenEnv.step(self, self.tokenizer.end_id if is_padding else action)


def truncating_step(self, action):
    observation, reward, terminated, _, info = mmenv.TokenEnv.step(self, action)
    return observation, reward, terminated, info.get("stop") == "budget", info


def quiet_reset(self, *, seed=None, options=None):
    return mmenv.TokenEnv.reset(self, seed=seed, options=options)[0], {}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"step": eager_step}, "end token: a first token gave"),
        ({"step": lenient_step}, "invalid action: action -1 was accepted"),
        ({"step": padding_step}, "invalid action: action 0 was accepted"),
        ({"step": truncating_step}, "budget: truncated=True"),
        ({"reset": quiet_reset}, "reset: info has no 'sample_index'"),
        ({"action_masks": lambda self: np.ones(14, bool)}, "masks: padding may be taken"),
        ({"action_masks": lambda self: np.ones(3)}, "masks: float64"),
    ],
)
def test_what_breaks_the_contract_is_named(methods, message):
    with pytest.raises(ConformanceError, match=message):
        check_env(broken(**methods))


class Forgetful(mmenv.TokenEnv):
    """A pickle of it draws other samples."""

    def __getstate__(self):
        return {**self.__dict__, "_np_random": np.random.default_rng(99)}


def test_a_pickle_that_forgets_its_generator_is_refused():
    with pytest.raises(ConformanceError, match="pickle: the copy goes on differently"):
        check_env(Forgetful(Colours, reward="gold"))


def test_what_cannot_be_pickled_is_refused_with_the_remedy():
    with pytest.raises(ConformanceError, match=r"pickle.*no lambdas"):
        check_env(mmenv.TokenEnv(Colours, reward=lambda samples, responses: [0.0] * len(samples)))


def test_an_environment_that_is_not_deterministic_is_refused():
    with pytest.raises((ConformanceError, AssertionError)):
        check_env(broken(reset=drifting_reset))


def test_a_stranger_is_told_what_it_lacks():
    with pytest.raises(ConformanceError, match="tokenizer"):
        check_env(gym.make("CartPole-v1"))
