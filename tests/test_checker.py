"""The conformance tests pass what keeps the contract, and say what is wrong with what does not."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import gymnasium as gym
import numpy as np
import pytest
from toys import Colours, Talk, colour

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
        ({"step": eager_step}, "an_end_token_ends_and_pays: a first token gave"),
        ({"step": lenient_step}, "strangers_and_padding_are_refused: action -1 was accepted"),
        ({"step": padding_step}, "strangers_and_padding_are_refused: action 0 was accepted"),
        ({"step": truncating_step}, "the_budget_ends_and_is_termination: truncated=True"),
        ({"reset": quiet_reset}, "reset_tells_the_sample: info has no 'sample_index'"),
        ({"action_masks": lambda self: np.ones(14, bool)}, "masks_allow_all_but_padding: padding may be taken"),
        ({"action_masks": lambda self: np.ones(3)}, "masks_allow_all_but_padding: float64"),
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
    with pytest.raises(ConformanceError, match="pickled_mid_episode_it_goes_on: the copy goes on differently"):
        check_env(Forgetful(Colours, reward="gold"))


def test_what_cannot_be_pickled_is_refused_with_the_remedy():
    with pytest.raises(ConformanceError, match=r"pickled_mid_episode_it_goes_on: .*no lambdas"):
        check_env(mmenv.TokenEnv(Colours, reward=lambda samples, responses: [0.0] * len(samples)))


def test_an_environment_that_is_not_deterministic_is_refused():
    with pytest.raises(ConformanceError, match="a_prefix_is_as_if_played: the observation"):
        check_env(broken(reset=drifting_reset))


def test_a_stranger_is_told_what_it_lacks():
    with pytest.raises(ConformanceError, match="tokenizer"):
        check_env(gym.make("CartPole-v1"))


class Counting(Colours):
    """Has words outside the embedded vocabulary."""

    def default_tokenizer(self):
        return mmenv.Task.default_tokenizer(self)

    def sample(self, split, index):
        return dataclasses.replace(super().sample(split, index), prompt="how many squares ?", references=("3",))


class Fickle(Colours):
    """Asks something else each time."""

    prompts = itertools.cycle(["what colour is it ?", "what is it ?", "it is ?"])

    def sample(self, split, index):
        return dataclasses.replace(super().sample(split, index), prompt=next(self.prompts))


class Untested(Colours):
    """Has no test split."""

    def size(self, split):
        return 0 if split == "test" else 300


class LongWinded(Colours):
    """Its answers do not fit into the budget of four tokens."""

    def sample(self, split, index):
        return dataclasses.replace(super().sample(split, index), references=("red red red red",))


class Unjust(Colours):
    """Finds nothing right."""

    def gold(self, sample, response):
        return 0.0


class Undecided(Colours):
    """Has no gold, though gold is the reward."""

    def gold(self, sample, response):
        return None


class Misshapen(Colours):
    """Its pictures have another size than it says."""

    def sample(self, split, index):
        return colour(index, 9)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Counting, "words_are_in_the_vocabulary: the vocabulary lacks '3', 'squares'; override default_tokenizer"),
        (Fickle, r"gymnasium_has_no_complaint: .*a function of \(split, index\) alone"),
        (Untested, r"no_split_is_empty: size\('test'\) is 0"),
        (
            LongWinded,
            "a_reference_fits_and_is_right: .* has 5 tokens, its end included, of 4; give max_",
        ),
        (Unjust, "a_reference_fits_and_is_right: gold of every reference of 'colours/0' is 0"),
        (Undecided, "gymnasium_has_no_complaint: RewardError: .*gold"),
        (Misshapen, "gymnasium_has_no_complaint: .*9"),
    ],
)
@pytest.mark.filterwarnings("ignore::mmenv.DatasetWarning")
def test_what_makes_a_task_unusable_is_named_with_its_check(task, message):
    with pytest.raises(ConformanceError, match=message):
        check_env(mmenv.TokenEnv(task, reward="gold"))


def test_unknown_words_of_a_task_are_named_when_its_environment_is_made():
    with pytest.warns(mmenv.DatasetWarning, match="'colours' has words outside .*: 3, squares; override default_tok"):
        mmenv.TokenEnv(Counting, reward="gold")
    with pytest.warns(mmenv.DatasetWarning, match="3, squares"):
        mmenv.TokenVectorEnv(Counting, 2, reward="gold")


def test_the_remedy_for_unknown_words_works():
    words = mmenv.learn_tokenizer(["how many squares ?", "3"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", mmenv.DatasetWarning)
        env = mmenv.TokenEnv(Counting, reward="gold", tokenizer=words)
    assert env.tokenizer.decode(env.tokenizer.encode("how many squares ?")) == "how many squares ?"
