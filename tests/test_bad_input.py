"""What is wrong is refused in words that name the argument, the value and the remedy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import Error
from toys import Colours, Talk

import mmenv
from mmenv.rewards.base import RewardError

ID = "toy/Colours-v0"
# argument, value, error, what the message says
BAD = [
    ("split", "tset", ValueError, "train"),
    ("split", 3, TypeError, "train"),
    ("split", ["train"], TypeError, "train"),
    ("reward", "preferences", ValueError, "preference-weak"),
    ("reward", "model.pt", ValueError, "safetensors"),
    ("reward", "preference", ValueError, "no preference model is shipped for the task 'colours'.*reward='gold'"),
    ("reward", "preference-weak", ValueError, "no preference model is shipped for the task 'colours'"),
    ("reward", "missing.safetensors", ValueError, "no file"),
    ("reward", 0.5, TypeError, "function"),
    ("reward", None, TypeError, "function"),
    ("tokenizer", "bert", TypeError, "Tokenizer"),
    ("max_response_tokens", 0, ValueError, "1 or more"),
    ("max_response_tokens", -3, ValueError, "1 or more"),
    ("max_response_tokens", 4.0, TypeError, "1 or more"),
    ("max_response_tokens", True, TypeError, "1 or more"),
    ("image_size", 7, ValueError, r"\(8, 16\)"),
    ("image_size", "8", TypeError, "1 or more"),
    ("action_masking", 1, TypeError, "True or False"),
    ("render_mode", "svg", ValueError, "ansi"),
    ("dataset", 12, TypeError, "sequence of samples"),
    ("dataset", [], ValueError, "at least one"),
]
VECTOR_BAD = [
    ("num_envs", 0, ValueError, "1 or more"),
    ("num_envs", 2.5, TypeError, "1 or more"),
    ("autoreset_mode", "sometimes", ValueError, "SameStep"),
    ("copy", "yes", TypeError, "True or False"),
    ("max_episode_steps", 0, ValueError, "1 or more"),
]


@pytest.mark.parametrize(("name", "value", "kind", "remedy"), BAD)
@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_a_bad_argument_is_named_with_its_value_and_a_remedy(make, name, value, kind, remedy):
    with pytest.raises(kind, match=remedy) as error:
        make(ID, **{name: value})
    assert isinstance(error.value, mmenv.ArgumentError) or name == "render_mode"
    assert name in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(("name", "value", "kind", "remedy"), VECTOR_BAD)
def test_a_bad_vector_argument_is_named_with_its_value_and_a_remedy(name, value, kind, remedy):
    with pytest.raises(kind, match=remedy) as error:
        gym.make_vec(ID, **{"num_envs": 2, name: value})
    assert name in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_a_misspelt_argument_is_a_type_error_that_lists_the_right_ones(make):
    with pytest.raises(TypeError, match=r"rewrad.*gold.*max_response_tokens"):
        make(ID, rewrad="gold")


@pytest.mark.parametrize("name", ["autoreset_mode", "copy"])
def test_vector_arguments_are_refused_by_the_scalar_env(name):
    with pytest.raises(TypeError, match=name):
        gym.make(ID, **{name: True})


def test_vector_kwargs_are_refused_by_gymnasium_itself():
    with pytest.raises(Error):
        gym.make_vec(ID, num_envs=2, vector_kwargs={"copy": False})


@pytest.mark.parametrize("value", [-1, 300, 1.5, "3", None.__class__, True])
def test_a_bad_sample_index_is_refused(value):
    with pytest.raises(ValueError, match="sample_index="):
        gym.make(ID).reset(options={"sample_index": value})


@pytest.mark.parametrize("value", [3, [1, 2], [1.0, 2.0, 3.0], [1, 2, 300], [[1], [2], [3]]])
def test_bad_sample_indices_are_refused(value):
    env = gym.make_vec(ID, num_envs=3)
    with pytest.raises(ValueError, match="sample_index="):
        env.reset(options={"sample_index": value})


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_an_unknown_option_is_refused(make):
    with pytest.raises(TypeError, match=r"'index'.*sample_index"):
        make(ID).reset(options={"index": 3})


def sample(**changes):
    image = np.zeros((8, 8, 3), np.uint8)
    return mmenv.Sample(**{"id": "mine/0", "index": 0, "prompt": "is it red ?", "image": image, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "image of sample 'mine/0' is missing"),
        ({"image": np.zeros((9, 8, 3), np.uint8)}, "image_size="),
        ({"image": np.zeros((8, 8), np.uint8)}, "image_size="),
        ({"image": np.zeros((8, 8, 3))}, "float64"),
        ({"prompt": "is it red ? is it blue ?"}, "8 tokens, more than 6"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(changes, message):
    for env in (gym.make(ID, dataset=[sample(**changes)]), gym.make_vec(ID, num_envs=2, dataset=[sample(**changes)])):
        with pytest.raises(mmenv.ArgumentError, match=message):
            env.reset(seed=0)


@pytest.mark.parametrize("audio", [None, np.zeros(65, np.float32), np.zeros(3, np.int16), np.zeros((3, 2), np.float32)])
def test_audio_that_does_not_fit_is_named(audio):
    env = mmenv.TokenEnv(spoken_with(audio), reward="gold")
    with pytest.raises(mmenv.ArgumentError, match=r"audio of sample 'mine/0'.*float32 of at most 64"):
        env.reset(seed=0)


def spoken_with(audio):
    class Spoken(Talk):
        def sample(self, split, index):
            return sample(audio=audio)

    return Spoken


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda s, r: [1.0, 2.0, 3.0, 4.0], "return one number a response"),
        (lambda s, r: [float("nan")] * len(s), "finite"),
        (lambda s, r: [{}[0]] * len(s), "KeyError"),
        (lambda s, r: ["good"] * len(s), "good"),
    ],
)
def test_a_reward_function_that_misbehaves_is_named(reward, message):
    for env, end in ((gym.make(ID, reward=reward), 1), (gym.make_vec(ID, num_envs=2, reward=reward), [1, 1])):
        env.reset(seed=0)
        with pytest.raises(RewardError, match=message):
            env.step(end)


def test_gold_as_reward_needs_gold():
    env = gym.make("toy/Unknown-v0", reward="gold")
    env.reset(options={"sample_index": 1})
    with pytest.raises(RewardError, match=r"colours/1.*gold"):
        env.step(1)


@pytest.mark.parametrize(("task", "defaults"), [(Colours(), {}), ("Colours", {}), (Colours, {"rewrad": "gold"})])
def test_register_refuses_what_makes_no_environment(task, defaults):
    with pytest.raises(TypeError):
        mmenv.register("me/Bad-v0", task, **defaults)
    assert "me/Bad-v0" not in gym.registry


def test_a_made_task_takes_no_dataset():
    with pytest.raises(mmenv.ArgumentError, match="image_size=16 comes too late"):
        mmenv.TokenEnv(Colours(), image_size=16)
