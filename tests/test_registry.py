"""Every registered id, walked without catching anything."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from toys import Colours, Counted

import mmenv
from mmenv.registration import ENTRY, TABLE, VECTOR_ENTRY, default_task, defaults_of, spec_of

IDS = sorted(i for i in gym.registry if i.startswith("mmenv/"))
PLAIN = [i for i in IDS if "Hard" not in i and "Shifted" not in i]
NAMES = ("VQA", "Captioning", "SpokenDialogue")


def test_the_nine_ids_are_registered_and_no_others():
    assert set(IDS) == {f"mmenv/{name}{variant}-v0" for name in NAMES for variant in ("", "Hard", "Shifted")}
    assert set(IDS) == set(TABLE)


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_checker_passes_without_a_warning(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, reward="gold").unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", IDS)
def test_own_checker_passes(env_id):
    names = [c.name for c in mmenv.check_env(gym.make(env_id, reward="gold"))]
    assert names[-1] == "vector_lane_is_the_scalar_env"


@pytest.mark.parametrize("env_id", IDS)
def test_a_spec_goes_to_json_and_back(env_id):
    env = gym.make(env_id, reward="gold", max_response_tokens=5, split="test")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    one, two = env.reset(seed=3), again.reset(seed=3)
    assert all((one[0][k] == two[0][k]).all() for k in one[0])
    assert one[1] == two[1]


@pytest.mark.parametrize("env_id", IDS)
def test_a_pickle_goes_on_as_the_original_does(env_id):
    env = gym.make(env_id, reward="gold").unwrapped
    env.reset(seed=0)
    env.step(5)
    twin = pickle.loads(pickle.dumps(env))
    for token in (6, 1, 5, 1):
        (one, *rest), (two, *others) = env.step(token), twin.step(token)
        assert all((one[k] == two[k]).all() for k in one)
        assert rest == others
        if rest[1]:
            break
    assert env.reset()[1] == twin.reset()[1]


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_perfect_answer_has_gold_one_and_silence_zero(env_id, split):
    env = gym.make(env_id, reward="gold", split=split)
    tokenizer = env.get_wrapper_attr("tokenizer")
    for index in range(3):
        for perfect in (True, False):
            env.reset(options={"sample_index": index})
            answer = env.unwrapped.view().sample.references[0] if perfect else ""
            *_, (_, reward, _, _, info) = [env.step(t) for t in [*tokenizer.encode(answer), 1]]
            assert info["gold"] == reward == float(perfect), (answer, info)


@pytest.mark.parametrize("env_id", IDS)
def test_gold_is_never_observed(env_id):
    env = gym.make(env_id, reward="gold")
    observation, info = env.reset(seed=0)
    assert set(observation) <= {"image", "audio", "prompt", "response"}
    assert set(info) == {"sample_index", "sample_id"}


@pytest.mark.parametrize("name", NAMES)
def test_shifted_ids_share_train_and_validation_and_shift_the_test_split(name):
    for split in ("train", "validation", "test"):
        plain, shifted = (
            gym.make(f"mmenv/{name}{v}-v0", reward="gold", split=split).reset(options={"sample_index": 5})[0]
            for v in ("", "Shifted")
        )
        same = all((plain[k] == shifted[k]).all() for k in plain)
        assert same == (split != "test")


@pytest.mark.parametrize("name", NAMES)
def test_a_shifted_id_shows_what_is_shifted_unless_told_otherwise(name):
    def image(env_id, **arguments):
        scalar = gym.make(env_id, reward="gold", **arguments).reset(options={"sample_index": 5})[0]["image"]
        lanes = gym.make_vec(env_id, reward="gold", **arguments).reset(options={"sample_index": [5]})[0]["image"]
        assert (lanes[0] == scalar).all()
        return scalar

    plain, shifted = f"mmenv/{name}-v0", f"mmenv/{name}Shifted-v0"
    assert gym.make(shifted, reward="gold").get_wrapper_attr("episode_spec").split == "test"
    assert (image(shifted) == image(shifted, split="test")).all()
    assert (image(shifted) != image(plain, split="test")).any()
    assert (image(shifted, split="train") == image(plain)).all()
    assert defaults_of(shifted) == {"split": "test"}
    assert defaults_of(plain) == {}


@pytest.mark.parametrize("env_id", IDS)
def test_vector_lanes_are_the_scalar_env(env_id):
    env = gym.make_vec(env_id, num_envs=3, reward="gold")
    observations, infos = env.reset(seed=20)
    for lane in range(3):
        observation, info = gym.make(env_id, reward="gold").reset(seed=20 + lane)
        assert all((observation[k] == observations[k][lane]).all() for k in observation)
        assert info["sample_id"] == infos["sample_id"][lane]


@pytest.mark.parametrize("env_id", PLAIN)
def test_image_size_and_budget_change_the_spaces(env_id):
    env = gym.make(env_id, reward="gold", image_size=96, max_response_tokens=3)
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (96, 96, 3)
    assert observation["response"].shape == (3,)


def test_async_vector_env_works_on_a_real_id():
    env = gym.make_vec("mmenv/VQA-v0", num_envs=2, vectorization_mode="async", reward="gold")
    try:
        observations, _ = env.reset(seed=4)
        native = gym.make_vec("mmenv/VQA-v0", num_envs=2, reward="gold").reset(seed=4)[0]
        assert all((observations[k] == native[k]).all() for k in native)
        env.step(np.array([5, 1]))
    finally:
        env.close()


def test_the_module_prefix_registers_in_a_fresh_process():
    code = "import gymnasium as gym; print(gym.make('mmenv:mmenv/VQA-v0', reward='gold').reset(seed=0)[1]['sample_id'])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == gym.make("mmenv/VQA-v0", reward="gold").reset(seed=0)[1]["sample_id"]


@pytest.mark.parametrize("env_id", PLAIN)
def test_render_modes_give_a_picture_and_a_text(env_id):
    env = gym.make(env_id, reward="gold", render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    env = gym.make(env_id, reward="gold", render_mode="ansi")
    env.reset(seed=0)
    assert isinstance(env.render(), str)
    assert len(gym.make_vec(env_id, num_envs=2, reward="gold", render_mode="ansi").spec.kwargs) >= 3


@pytest.mark.parametrize("env_id", IDS)
def test_the_default_reward_is_the_strong_preference_model_shared_by_all(env_id):
    envs = [gym.make(env_id) for _ in range(3)] + [gym.make_vec(env_id, num_envs=2).unwrapped]
    rewards = [e.get_wrapper_attr("reward_function") for e in envs[:3]] + [envs[3].reward_function]
    assert all(r is rewards[0] for r in rewards)
    assert mmenv.rewards.base.reward_name(rewards[0]) == f"strong-{envs[3].task.name}"
    assert pickle.loads(pickle.dumps(envs[0].unwrapped)).reward_function is rewards[0]


@pytest.mark.parametrize("env_id", PLAIN)
def test_vector_and_scalar_preference_rewards_agree(env_id):
    venv = gym.make_vec(env_id, num_envs=4, autoreset_mode="Disabled")
    venv.reset(seed=0)
    tokens = np.random.default_rng(0).integers(3, 300, (2, 4))
    for action in tokens:
        venv.step(action)
    paid = venv.step(np.ones(4, int))[1]
    for lane in range(4):
        env = gym.make(env_id)
        env.reset(seed=lane)
        reward = [env.step(t) for t in [*tokens[:, lane], 1]][-1][1]
        assert reward == pytest.approx(paid[lane], abs=1e-4)


def test_a_saved_preference_model_is_given_by_path_and_loaded_once_for_256_envs(tmp_path):
    from mmenv.models.checkpoints import save_network
    from mmenv.models.transformer import Network, NetworkConfig
    from mmenv.rewards.preference.model import PreferenceModel
    from mmenv.worlds.grid import world_tokenizer

    network = Network(NetworkConfig(world_tokenizer().vocab_size, width=16, layers=1, heads=2)).eval()
    save_network(network, tmp_path / "net.safetensors")
    path = tmp_path / "mine.safetensors"
    PreferenceModel(network, backbone_name=str(tmp_path / "net.safetensors")).save(path)
    envs = [gym.make("mmenv/VQA-v0", reward=str(path)) for _ in range(256)]
    first = envs[0].get_wrapper_attr("reward_function")
    assert all(e.get_wrapper_attr("reward_function") is first for e in envs)
    envs[0].reset(seed=0)
    assert np.isfinite(envs[0].step(1)[1])


def test_a_task_of_ones_own_is_registered_with_defaults_that_calls_may_change():
    counted = Counted()
    mmenv.register("me/Colours-v0", Colours, reward=counted, max_response_tokens=2, copy=False)
    env = gym.make("me/Colours-v0")
    assert env.get_wrapper_attr("reward_function") is counted
    assert env.observation_space["response"].shape == (2,)
    venv = gym.make_vec("me/Colours-v0", num_envs=2, max_response_tokens=3)
    assert venv.unwrapped.reward_function is counted
    assert venv.unwrapped.copy is False
    assert venv.observation_space["response"].shape == (2, 3)
    assert json.loads(env.spec.to_json())["kwargs"] == {"env_id": "me/Colours-v0"}


def test_human_rendering_is_left_to_gymnasiums_wrapper():
    from mmenv.registration import make_env

    assert "rgb_array" in make_env.metadata["render_modes"]
    assert "human" not in make_env.metadata["render_modes"]


@pytest.mark.parametrize("env_id", IDS)
def test_stable_baselines_checker_passes_without_a_warning(env_id):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        checker.check_env(gym.make(env_id, reward="gold").unwrapped, skip_render_check=True)


def test_masks_and_tokenizer_are_reached_through_stable_baselines():
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    env = vec_env.DummyVecEnv([lambda: gym.make("mmenv/VQA-v0", reward="gold") for _ in range(2)])
    masks = env.env_method("action_masks")
    assert [m.shape for m in masks] == [(env.action_space.n,)] * 2
    assert env.get_attr("tokenizer")[0].vocab_size == env.action_space.n


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mmenv/Vqa-v0", "mmenv/VQA-v0"),
        ("mmenv/VQA", "mmenv/VQA-v0"),
        ("VQA-v0", "mmenv/VQA-v0"),
        ("vqa", "mmenv/VQA-v0"),
        ("mmenv/VQA-v1", "mmenv/VQA-v0"),
        ("mmenv/captioninghard-v0", "mmenv/CaptioningHard-v0"),
        ("mmenv/SpokenDialog-v0", "mmenv/SpokenDialogue-v0"),
        ("mmenv:mmenv/Vqa-v0", "mmenv:mmenv/VQA-v0"),
        ("toy/Colors-v0", "toy/Colours-v0"),
    ],
)
def test_a_misspelt_id_is_refused_with_the_one_that_was_meant(typed, meant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(mmenv.ArgumentError, match=rf"{typed}'.*did you mean {meant}\? .*python -m mmenv list"):
            spec_of(typed)


def test_an_id_that_is_like_no_other_is_refused_with_the_command_that_lists_them():
    with pytest.raises(mmenv.ArgumentError, match=r"no environment 'CartPool-v9': `python -m mmenv list`"):
        spec_of("CartPool-v9")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("nowhere_at_all:mmenv/VQA-v0", "'nowhere_at_all' cannot be imported"),
        ("..mmenv:mmenv/VQA-v0", "'..mmenv' is not the name of a module"),
        (":mmenv/VQA-v0", "'' is not the name of a module"),
        ("a b:mmenv/VQA-v0", "'a b' is not the name of a module"),
        ("CartPole-v1", "not an environment of mmenv"),
        (None, "not a string"),
    ],
)
def test_an_id_that_cannot_be_looked_up_is_refused_in_a_sentence(typed, message):
    with pytest.raises(mmenv.ArgumentError, match=message):
        spec_of(typed)


def test_a_module_that_lacks_what_it_imports_is_named_with_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(mmenv.ArgumentError, match=r"'needs_more' cannot be imported \(No module named 'not_installed"):
        spec_of("needs_more:mine/X-v0")


def test_an_id_that_gymnasium_registers_on_our_entry_point_is_one_of_ours():
    gym.register("me/Paid-v0", ENTRY, vector_entry_point=VECTOR_ENTRY, kwargs={"env_id": IDS[0], "reward": "gold"})
    assert default_task("me/Paid-v0").name == default_task(IDS[0]).name
    assert gym.make(spec_of("me/Paid-v0")).get_wrapper_attr("episode_spec").task.name == default_task(IDS[0]).name


def test_the_default_task_of_an_id_has_the_arguments_that_it_was_registered_with():
    mmenv.register("me/Wide-v0", Colours, reward="gold", image_size=16)
    assert default_task("me/Wide-v0").image_size == 16
    assert default_task("toy/Colours-v0").image_size == 8


def test_an_id_is_registered_without_the_name_of_its_package():
    with pytest.raises(mmenv.ArgumentError, match="names a package: register 'mine/Colours-v0'"):
        mmenv.register("colours:mine/Colours-v0", Colours)


@pytest.mark.parametrize("env_id", ["squares", "mine/Squares", "Squares-v0", 3])
def test_an_id_without_namespace_or_version_is_not_registered(env_id):
    from mmenv.tasks.vqa import VQA

    with pytest.raises(mmenv.ArgumentError, match="give namespace/Name-v0"):
        mmenv.register(env_id, VQA)
