"""Branching in a dialogue: a reset with earlier replies gives the episode that has said them."""

import gymnasium as gym
import numpy as np
import pytest
from test_branching import TALK, same, vector, words_of
from toys import END, GREEN, PAD, RED, Talk

import mmenv
from mmenv.registration import TABLE

DIALOGUES = [TALK, "mmenv/SpokenDialogue-v0", "mmenv/Guess-v0"]


@pytest.mark.parametrize("env_id", DIALOGUES)
def test_an_episode_behind_earlier_replies_is_the_replayed_one_to_its_end(env_id):
    arguments = {"reward": "gold"} if env_id in TABLE else {}
    played, branched = gym.make(env_id, **arguments), gym.make(env_id, **arguments)
    lanes = vector(env_id, 2, **arguments)
    budget = played.observation_space["response"].shape[0]
    replies = [[*words_of(played, 1), END], words_of(played, budget, seed=1)]
    prefix = words_of(played, 2, seed=2)
    for earlier in ([], replies[:1], replies) if env_id == "mmenv/Guess-v0" else ([], replies[:1]):
        played.reset(options={"sample_index": 3})
        for token in [t for reply in earlier for t in reply] + prefix:
            observation, *_ = played.step(token)
        options = {"sample_index": 3, "replies": earlier, "response": prefix}
        start, info = branched.reset(options=options)
        both, _ = lanes.reset(options={key: [value, value] for key, value in options.items()})
        assert same(start, observation)
        assert same(start, {key: value[1] for key, value in both.items()})
        assert info["sample_id"] == played.unwrapped.sample.id
        terminated = False
        while not terminated:
            (one, *rest), (two, *others) = played.step(END), branched.step(END)
            all_lanes = lanes.step([END, END])
            assert same(one, two)
            assert rest == others
            assert (all_lanes[1][1], all_lanes[2][1]) == (rest[0], rest[1])
            terminated = rest[1]


def test_earlier_replies_are_neither_scored_nor_paid():
    calls = []

    def reward(samples, responses):
        calls.append([r.tokens for r in responses])
        return np.ones(len(responses))

    mmenv.TokenEnv(Talk, reward=reward).reset(options={"sample_index": 2, "replies": [[RED, END]]})
    assert calls == []


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([[RED, GREEN]], r"replies.*\[3, 4\] is not over.*end token.*'response'"),
        ([[RED, END, RED, END]], r"holds the end token"),
        ([[]], "does not end with a token"),
        ([[RED, RED, RED, PAD]], "does not end with a token"),
        ([[RED] * 5], "budget is 4"),
        ([RED, END], "not a sequence of tokens"),
        ("red", "is not a sequence of replies|must be 2 sequences"),
        ([[RED, END], [RED, END]], r"replies has 2 replies.*sample_index=2 ends with its reply 2.*at most 1"),
    ],
)
def test_wrong_replies_are_refused_with_their_value_and_a_remedy(replies, message):
    with pytest.raises(mmenv.ArgumentError, match=message):
        gym.make(TALK).reset(options={"sample_index": 2, "replies": replies})
    several = replies if isinstance(replies, str) else [[], replies]
    with pytest.raises(mmenv.ArgumentError, match=message):
        vector(TALK, 2).reset(options={"sample_index": [2, 2], "replies": several})
