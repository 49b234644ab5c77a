"""One evaluation for everybody: sweeps, means, intervals, and the fate of a state."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
from toys import END, NAMES, RED, Colours, characters

import mmenv


def seer(observations, state, starts):
    """Names the colour it sees, then ends."""
    said = (observations["response"] != 0).any(1)
    return np.where(said, END, RED + observations["image"].sum((1, 2)).argmax(1))


def guesser(observations, state, starts):
    """Always says red."""
    return np.where((observations["response"] != 0).any(1), END, RED)


def test_a_perfect_policy_has_gold_one():
    result = mmenv.evaluate(seer, "toy/Colours-v0", reward="gold", episodes=30, num_envs=8)
    assert (result.gold, result.reward, result.length, result.ended, result.episodes) == (1.0, 1.0, 2.0, 1.0, 30)
    assert result.gold_interval == (1.0, 1.0)


def test_the_sweep_plays_each_sample_once_whatever_the_number_of_lanes():
    results = [mmenv.evaluate(guesser, "toy/Colours-v0", reward="gold", episodes=30, num_envs=n) for n in (7, 30, 64)]
    for result in results:
        assert sorted(r.sample.index for r in result.rows) == list(range(30))
        assert result.gold == pytest.approx(1 / 3)
        assert str(result) == str(results[0])


def test_episodes_beyond_the_split_are_not_invented():
    result = mmenv.evaluate(guesser, "toy/Colours-v0", reward="gold", episodes=1000, num_envs=64)
    assert result.episodes == len(result.rows) == 300


def test_every_reply_of_a_dialogue_is_a_row():
    result = mmenv.evaluate(seer, "toy/Talk-v0", reward="gold", episodes=10, num_envs=4)
    assert result.gold == 1.0
    assert len(result.rows) == 25  # two replies of the even ones, three of the odd ones
    assert {r.response for r in result.rows} == set(NAMES)
    assert {(r.sample.index, r.sample.turn) for r in result.rows} >= {(9, 2), (8, 1)}


def test_starts_mark_new_contexts_and_the_state_is_handed_back():
    seen = []

    def act(observations, state, starts):
        seen.append((starts.tolist(), state))
        assert (observations["response"][starts] == 0).all()
        return np.full(len(starts), END), "state"

    mmenv.evaluate(act, "toy/Talk-v0", reward="gold", episodes=2, num_envs=2)
    # Lane 0 has two replies, lane 1 has three; after its last reply lane 0 starts nothing.
    assert seen == [([True, True], None), ([True, True], "state"), ([False, True], "state")]


def test_a_policy_may_return_logp_and_value_too():
    def act(observations, state, starts):
        return seer(observations, state, starts), np.zeros(len(starts)), np.zeros(len(starts)), (state or 0) + 1

    assert mmenv.evaluate(act, "toy/Colours-v0", reward="gold", episodes=5, num_envs=5).gold == 1.0


def test_unknown_gold_is_left_out_of_the_mean():
    result = mmenv.evaluate(seer, "toy/Unknown-v0", reward=lambda s, r: [1.0] * len(s), episodes=6, num_envs=6)
    assert result.gold == 1.0
    assert sum(math.isnan(r.gold) for r in result.rows) == 3


def test_the_interval_holds_the_mean_and_is_the_same_each_time():
    one, two = (mmenv.evaluate(guesser, "toy/Colours-v0", reward="gold", episodes=90, num_envs=90) for _ in range(2))
    low, high = one.gold_interval
    assert 0.2 < low < one.gold < high < 0.5
    assert one.gold_interval == two.gold_interval


def test_a_response_cut_off_by_the_budget_has_not_ended():
    def babble(observations, state, starts):
        return np.full(len(starts), RED)

    result = mmenv.evaluate(babble, "toy/Colours-v0", reward="gold", episodes=6, num_envs=6)
    assert (result.ended, result.length) == (0.0, 4.0)
    assert result.diversity == pytest.approx(1 / 18)  # one pair of words, said 18 times


def test_arguments_reach_the_environment():
    result = mmenv.evaluate(guesser, "toy/Colours-v0", reward="gold", episodes=2, num_envs=2, max_response_tokens=1)
    assert result.length == 1.0


@pytest.mark.parametrize("arguments", [{"episodes": 0}, {"num_envs": 0}, {"split": "tset"}, {"rewrad": 1}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(mmenv.ArgumentError):
        mmenv.evaluate(guesser, "toy/Colours-v0", **{"reward": "gold", **arguments})


@pytest.mark.parametrize("env_id", ["mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogue-v0"])
def test_a_babbler_on_a_real_id_has_little_gold(env_id):
    rng = np.random.default_rng(0)

    def babble(observations, state, starts):
        return rng.integers(3, 300, len(starts))

    result = mmenv.evaluate(babble, env_id, reward="gold", episodes=20, num_envs=20)
    assert 0 <= result.gold < 0.1
    assert "20 episodes" in str(result)


def test_the_reward_of_an_evaluation_is_the_ids_own():
    assert mmenv.evaluate(seer, "toy/Colours-v0", episodes=4).reward == 1.0
    assert mmenv.evaluate(seer, "toy/Unknown-v0", episodes=3).reward == pytest.approx((3 + 5 + 4) / 3)  # letters
    assert mmenv.evaluate(seer, "toy/Colours-v0", episodes=1, reward=characters).reward == 3.0


def test_an_id_of_another_package_is_evaluated():
    assert mmenv.evaluate(seer, "strange_ids:strange/Tints-v0", episodes=4).gold == 1.0


def test_a_misspelt_id_is_refused_with_the_one_that_was_meant():
    with pytest.raises(mmenv.ArgumentError, match="did you mean toy/Colours-v0"):
        mmenv.evaluate(seer, "toy/Colors-v0")


@pytest.mark.parametrize(("name", "value"), [("max_episode_steps", 2), ("autoreset_mode", "SameStep"), ("copy", True)])
def test_arguments_that_would_change_the_sweep_are_refused_with_a_remedy(name, value):
    with pytest.raises(mmenv.ArgumentError, match=rf"{name}={value!r}.*leave it out"):
        mmenv.evaluate(seer, "toy/Colours-v0", **{name: value})


def test_an_id_that_truncates_by_itself_is_evaluated_to_the_end_of_every_response():
    mmenv.register("me/Hasty-v0", Colours, reward="gold", max_episode_steps=1, autoreset_mode="SameStep")
    result = mmenv.evaluate(seer, "me/Hasty-v0", episodes=5, num_envs=5)
    assert (len(result.rows), result.length) == (5, 2.0)


def test_a_policy_that_pads_is_told_so():
    def pads(observations, state, starts):
        return np.where((observations["response"] != 0).any(1), 0, RED)

    with pytest.raises(gym.error.InvalidAction, match="of lane 0 is padding"):
        mmenv.evaluate(pads, "toy/Colours-v0", episodes=6, num_envs=6)
