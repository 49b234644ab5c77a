"""What is wrong is refused in words that name the argument, the value and the remedy."""

from __future__ import annotations

import types

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import Error
from toys import Colours, Talk

import mmenv
from mmenv.cli import main
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
        ({"image": None}, r"image of sample 'mine/0' is missing.*: give Sample\(image=\.\.\.\)"),
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
    with pytest.raises(mmenv.ArgumentError, match="image_size=16, but the task exists already"):
        mmenv.TokenEnv(Colours(), image_size=16)


def duck():
    """What looks like a sample and is none."""
    return types.SimpleNamespace(id="d/0", index=0, prompt="is it red ?", image=np.zeros((8, 8, 3), np.uint8))


class Lazy:
    """A sequence that is no list: it is read one sample at a time."""

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a text", "'a text' is not an mmenv.Sample"),
        (None, "None is not an mmenv.Sample"),
        ({"prompt": "is it red ?"}, "is not an mmenv.Sample"),
        (duck(), "is not an mmenv.Sample"),
        (sample(prompt=3), r"sample 'mine/0' has prompt=3.*give a str"),
        (sample(prompt=None), r"sample 'mine/0' has prompt=None.*give a str"),
        (sample(id=7), r"sample 7 has id=7.*give a str"),
        (sample(said=b"red"), r"has said=b'red'.*give a str"),
        (sample(references="red"), r"has references='red'.*give a tuple of str"),
        (sample(references=("red", 3)), r"has references=\('red', 3\).*give a tuple of str"),
        (sample(references=None), r"has references=None.*give a tuple of str"),
        (sample(image=[[0, 0, 0]]), r"image of sample 'mine/0' is list"),
        (sample(image="red.png"), r"image of sample 'mine/0' is str"),
    ],
)
def test_an_entry_of_a_dataset_that_is_no_sample_or_has_a_field_of_another_type_is_named(entry, message):
    for make in (gym.make, lambda *args, **kwargs: gym.make_vec(*args, num_envs=2, **kwargs)):
        for dataset in ([entry], (entry,), Lazy(entry)):
            with pytest.raises(mmenv.ArgumentError, match=message):
                make(ID, dataset=dataset).reset(seed=0)


def test_an_index_that_is_no_integer_is_named():
    with pytest.raises(mmenv.ArgumentError, match=r"has index='0'.*give an int"):
        gym.make(ID, dataset=[sample(index="0")])


NO_SEQUENCE = [{"prompt": ["is it red ?"]}, b"photos", bytearray(b"photos"), {1, 2}, iter([1]), sample]


@pytest.mark.parametrize("dataset", NO_SEQUENCE)
def test_what_is_no_sequence_of_samples_is_refused_as_a_dataset(dataset):
    with pytest.raises(mmenv.ArgumentError, match="dataset="):
        gym.make(ID, dataset=dataset)


@pytest.mark.parametrize("name", ["..x:Y", ":Y", "a b:Y", "nowhere_at_all:Y", "json:nothing"])
def test_a_served_reward_that_cannot_be_imported_is_refused_in_a_sentence(name, capsys):
    assert main(["serve-reward", "--reward", name]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert repr(name) in said
