"""The scalar environment keeps the contract."""

from __future__ import annotations

import copy
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from toys import BLUE, END, GREEN, NAMES, PAD, RED, Colours, Counted, Talk

import mmenv
from mmenv.rewards.base import RewardError

ID, TALK = "toy/Colours-v0", "toy/Talk-v0"


def right(info: dict) -> int:
    """The token that names the colour of the sample in ``info``."""
    return RED + info["sample_index"] % 3


def play(env, tokens):
    return [env.step(t) for t in tokens][-1]


def test_gymnasium_checker_passes_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID).unwrapped, skip_render_check=True)
        check_env(gym.make(TALK).unwrapped, skip_render_check=True)


def test_token_spaces_are_boxes_over_the_vocabulary():
    env = gym.make(TALK)
    n = env.get_wrapper_attr("tokenizer").vocab_size
    assert env.action_space == spaces.Discrete(n)
    assert env.observation_space["image"] == spaces.Box(0, 255, (8, 8, 3), np.uint8)
    assert env.observation_space["audio"] == spaces.Box(-1, 1, (64,), np.float32)
    assert env.observation_space["prompt"] == spaces.Box(0, n - 1, (24,), np.int64)
    assert env.observation_space["response"] == spaces.Box(0, n - 1, (4,), np.int64)


def test_only_the_modalities_of_the_task_are_observed():
    assert set(gym.make(ID).observation_space) == {"image", "prompt", "response"}


def test_reset_tells_the_sample_and_shows_it():
    observation, info = gym.make(ID).reset(options={"sample_index": 4})
    assert info == {"sample_index": 4, "sample_id": "colours/4"}
    assert observation["image"][0, 0].tolist() == [0, 251, 0]
    assert observation["prompt"].tolist() == [6, 7, 8, 9, 10, PAD]
    assert observation["response"].tolist() == [PAD] * 4


def test_audio_is_zero_padded_and_left_as_recorded():
    observation, _ = gym.make(TALK).reset(options={"sample_index": 0})
    assert observation["audio"][:20] == pytest.approx(0.1)
    assert not observation["audio"][20:].any()


def test_a_token_earns_nothing_until_the_response_ends():
    env = gym.make(ID)
    _, info = env.reset(seed=0)
    observation, reward, terminated, truncated, step_info = env.step(right(info))
    assert (reward, terminated, truncated, step_info) == (0.0, False, False, {})
    assert observation["response"].tolist() == [right(info), PAD, PAD, PAD]


def test_an_end_token_pays_the_score_and_terminates():
    env = gym.make(ID)
    _, info = env.reset(seed=0)
    _, reward, terminated, truncated, end = play(env, [right(info), END])
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert end == {"response": NAMES[info["sample_index"] % 3], "stop": "eos", "gold": 1.0}


def test_the_budget_terminates_and_says_so():
    env = gym.make(ID)
    env.reset(options={"sample_index": 0})
    _, reward, terminated, truncated, info = play(env, [RED, GREEN, RED, BLUE])
    assert (reward, terminated, truncated) == (0.5, True, False)
    assert info["stop"] == "budget"
    assert info["response"] == "red green red blue"


def test_a_reward_is_told_how_the_response_ended():
    seen = []

    def reward(samples, responses):
        seen.extend(responses)
        return [0.0]

    env = gym.make(ID, reward=reward, max_response_tokens=2)
    for last in (RED, END):
        env.reset(options={"sample_index": 0})
        play(env, [RED, last])
    assert [(r.tokens, r.stop) for r in seen] == [((RED, RED), "budget"), ((RED, END), "eos")]


def test_an_empty_response_is_judged_like_any_other():
    env = gym.make(ID)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(END)
    assert (reward, terminated, info["response"]) == (0.0, True, "")


def test_reward_and_flags_are_python_scalars():
    env = gym.make(ID)
    env.reset(seed=0)
    for token in (RED, END):
        _, reward, terminated, truncated, info = env.step(token)
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert type(info["gold"]) is float


@pytest.mark.parametrize("token", [3, np.int64(3), np.int32(3), np.array(3)])
def test_integers_of_every_kind_are_actions(token):
    env = gym.make(ID)
    env.reset(seed=0)
    assert env.step(token)[0]["response"][0] == 3


@pytest.mark.parametrize("token", [-1, 14, 3.0, float("nan"), np.float32(3), np.array([3]), [3], None, "red"])
def test_anything_outside_the_vocabulary_raises_and_names_the_value(token):
    env = gym.make(ID)
    env.reset(seed=0)
    with pytest.raises(InvalidAction) as error:
        env.step(token)
    assert repr(token) in str(error.value)
    assert env.step(RED)[0]["response"].tolist() == [RED, PAD, PAD, PAD], "the refused action left no trace"


@pytest.mark.parametrize("token", [PAD, np.int64(PAD), np.array(PAD)])
def test_padding_raises_as_an_action_outside_the_space_does(token):
    env = gym.make(ID)
    env.reset(options={"sample_index": 0})
    env.step(RED)
    with pytest.raises(InvalidAction, match=r"is padding.*mask it"):
        env.step(token)
    assert env.step(END)[1:] == (1.0, True, False, {"response": "red", "stop": "eos", "gold": 1.0})


def test_actions_drawn_at_random_are_never_padding_and_every_other_token():
    env = gym.make(ID)
    env.action_space.seed(0)
    drawn = [int(env.action_space.sample()) for _ in range(500)]
    assert sorted(set(drawn)) == [t for t in range(14) if t != PAD]
    twin = pickle.loads(pickle.dumps(env.action_space))
    assert [twin.sample() for _ in range(5)] == [env.action_space.sample() for _ in range(5)]
    mask = np.zeros(14, np.int8)
    mask[BLUE] = 1
    assert env.action_space.sample(mask) == BLUE


def test_step_before_reset_and_after_the_end_needs_a_reset():
    env = gym.make(ID).unwrapped
    with pytest.raises(ResetNeeded):
        env.step(RED)
    env.reset(seed=0)
    env.step(END)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(RED)


def test_every_call_returns_fresh_arrays():
    env = gym.make(ID).unwrapped
    first, _ = env.reset(seed=0)
    before = copy.deepcopy(first)
    for array in first.values():
        array[...] = 1
    second = env.step(RED)[0]
    assert (second["image"] == before["image"]).all()
    assert (second["prompt"] == before["prompt"]).all()
    third = env.step(RED)[0]
    assert second["response"].tolist() == [RED, PAD, PAD, PAD], "an observation changed after it was given"
    assert third["response"].tolist() == [RED, RED, PAD, PAD]


def test_the_samples_of_a_dataset_are_never_written_to():
    picture = np.zeros((8, 8, 3), np.uint8)
    env = gym.make(ID, dataset=[mmenv.Sample("a", 0, "is it red ?", image=picture, references=("red",))])
    observation, _ = env.reset()
    observation["image"][:] = 9
    assert not picture.any()


def test_same_seed_same_episodes_and_global_state_untouched():
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    runs = []
    for _ in range(2):
        env = gym.make(ID)
        runs.append([env.reset(seed=5)[1]["sample_index"], *(env.reset()[1]["sample_index"] for _ in range(5))])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 1
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_the_seed_draws_the_index_from_np_random():
    env = gym.make(ID)
    index = env.reset(seed=11)[1]["sample_index"]
    assert index == int(gym.utils.seeding.np_random(11)[0].integers(300))


def test_sample_index_leaves_the_generator_alone():
    env, other = gym.make(ID), gym.make(ID)
    env.reset(seed=3)
    other.reset(seed=3)
    env.reset(options={"sample_index": 1})
    assert env.reset()[1] == other.reset()[1]


def test_masks_forbid_padding_alone():
    env = gym.make(ID, action_masking=True)
    _, info = env.reset(seed=0)
    masks = env.get_wrapper_attr("action_masks")()
    assert masks.dtype == bool
    assert np.flatnonzero(~masks).tolist() == [PAD]
    assert (info["action_mask"] == masks).all()
    assert (env.step(RED)[4]["action_mask"] == masks).all()
    assert env.action_space.sample(info["action_mask"]) != PAD


def test_without_action_masking_info_has_no_mask():
    assert "action_mask" not in gym.make(ID).reset(seed=0)[1]


def test_gold_is_left_out_where_nothing_is_known():
    env = gym.make("toy/Unknown-v0")
    env.reset(options={"sample_index": 1})
    assert "gold" not in env.step(END)[4]
    env.reset(options={"sample_index": 2})
    assert "gold" in env.step(END)[4]


def test_components_of_a_composed_reward_are_reported_and_computed_once():
    counted = Counted()
    reward = mmenv.WeightedSum((counted, 2.0), (mmenv.LengthPenalty(0.5), 1.0))
    env = gym.make(ID, reward=reward)
    env.reset(options={"sample_index": 4})
    _, paid, _, _, info = play(env, [RED, END])
    assert info["rewards/counted"] == 3.0
    assert info["rewards/length"] == -1.0
    assert paid == 5.0
    assert counted.calls == [1]


def test_a_reward_that_raises_names_the_sample_and_the_episode_cannot_go_on():
    env = gym.make(ID, reward=lambda samples, responses: 1 / 0)
    env.reset(options={"sample_index": 4})
    with pytest.raises(RewardError, match="colours/4"):
        env.step(END)
    with pytest.raises(ResetNeeded):
        env.step(RED)


def test_a_dialogue_pays_each_reply_and_terminates_after_the_last():
    env = gym.make(TALK)
    env.reset(options={"sample_index": 3})  # red, three replies
    observation, reward, terminated, _, info = play(env, [RED, END])
    assert (reward, terminated, info["gold"], info["response"]) == (1.0, False, 1.0, "red")
    assert observation["response"].tolist() == [PAD] * 4
    assert observation["prompt"][:4].tolist() == [11, 12, RED, PAD]
    assert observation["audio"][:21] == pytest.approx(0.2)
    _, reward, terminated, _, info = play(env, [GREEN, GREEN, GREEN, GREEN])
    assert (reward, terminated, info["stop"]) == (0.0, False, "budget")
    _, reward, terminated, _, _ = play(env, [RED, END])
    assert (reward, terminated) == (1.0, True)


def test_the_info_of_a_reply_is_gone_a_step_later():
    env = gym.make(TALK)
    env.reset(seed=0)
    env.step(END)
    assert env.step(RED)[4] == {}


def test_time_limit_truncates_unpaid():
    env = gym.make(ID, max_episode_steps=2)
    env.reset(seed=0)
    env.step(RED)
    _, reward, terminated, truncated, info = env.step(RED)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "response" not in info


def test_a_pickle_mid_episode_keeps_generator_episode_and_spec():
    env = gym.make(TALK).unwrapped
    env.reset(seed=2)
    env.step(RED)
    twin = pickle.loads(pickle.dumps(env))
    assert twin.spec == env.spec
    for token in (RED, END, END, END):
        (one, *rest), (two, *others) = env.step(token), twin.step(token)
        assert all((one[k] == two[k]).all() for k in one)
        assert rest == others
        if rest[1]:
            break
    assert env.reset()[1] == twin.reset()[1]


def test_a_copy_is_independent():
    env = gym.make(ID).unwrapped
    env.reset(seed=2)
    twin = copy.deepcopy(env)
    env.step(RED)
    assert twin.step(BLUE)[0]["response"].tolist() == [BLUE, PAD, PAD, PAD]


def test_a_view_tells_the_whole_dialogue():
    env = gym.make(TALK).unwrapped
    with pytest.raises(ResetNeeded):
        env.view()
    env.reset(options={"sample_index": 3})
    play(env, [RED, END, GREEN])
    view = env.view()
    assert (view.response, view.stop, view.tokens_used, view.budget) == ("green", None, 1, 4)
    assert [(r.response, r.gold) for r in view.history] == [("red", 1.0)]
    play(env, [END, RED, END])
    view = env.view()
    assert (view.response, view.stop, view.reward, view.gold) == ("red", "eos", 1.0, 1.0)
    assert [r.response for r in view.history] == ["red", "green"]


def test_a_dialogue_task_can_be_used_without_registration():
    env = mmenv.TokenEnv(Talk(), reward="gold")
    assert env.reset(seed=0)[0]["audio"].shape == (64,)


class Broken(Colours):
    """Sample 1 cannot be read, and neither can what follows a dialogue's first reply."""

    def sample(self, split, index):
        if index == 1:
            raise ValueError("sample 1 is broken")
        return super().sample(split, index)

    def follow_up(self, sample, response):
        return mmenv.Sample("broken/next", 0, "a prompt of far too many words for this task", sample.image)


def test_a_sample_that_cannot_be_made_leaves_no_episode_to_go_on_with():
    env = mmenv.TokenEnv(Broken, reward="gold")
    env.reset(options={"sample_index": 0})
    with pytest.raises(ValueError, match="sample 1 is broken"):
        env.reset(options={"sample_index": 1})
    with pytest.raises(ResetNeeded):
        env.step(RED)


def test_a_turn_that_does_not_fit_ends_the_episode_in_which_it_came():
    env = mmenv.TokenEnv(Broken, reward="gold")
    env.reset(options={"sample_index": 0})
    with pytest.raises(mmenv.ArgumentError, match="more than 6"):
        env.step(END)
    with pytest.raises(ResetNeeded):
        env.step(RED)
    env.reset(options={"sample_index": 0})


def test_a_text_is_said_to_its_end_also_through_wrappers_and_from_tokens():
    env = gym.make("toy/Colours-v0", reward="gold")
    env.reset(options={"sample_index": 1})
    _, reward, terminated, _, info = mmenv.say(env, "green")
    assert (reward, terminated, info["response"], info["stop"]) == (1.0, True, "green", "eos")
    env.reset(options={"sample_index": 1})
    first, second = env.get_wrapper_attr("tokenizer").encode("green red")
    env.step(first)
    assert mmenv.say(env, [second])[4]["response"] == "green red"
    env.reset(options={"sample_index": 1})
    assert mmenv.say(env, "red red red red red red")[4]["stop"] == "budget"
