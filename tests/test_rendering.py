"""What a person sees of an episode: frames and text that follow the response."""

from __future__ import annotations

import dataclasses
import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from toys import BLUE, END, GREEN, RED, characters, colour

from mmenv.envs.rendering import WIDTH, render_ansi, render_frame
from mmenv.envs.view import EpisodeView
from mmenv.registration import TABLE
from mmenv.rewards.base import LengthPenalty, WeightedSum


def made(env_id="toy/Colours-v0", mode="rgb_array", **arguments):
    env = gym.make(env_id, render_mode=mode, **arguments)
    env.reset(seed=0, options={"sample_index": 1})
    return env


def test_frames_are_fresh_uint8_pictures_that_differ_as_the_response_grows():
    env = made()
    frames = [env.render()]
    for token in (RED, GREEN, BLUE, END):
        env.step(token)
        frames.append(env.render())
    for before, after in itertools.pairwise(frames):
        assert before.shape == after.shape
        assert before.shape[1:] == (WIDTH, 3)
        assert before.dtype == np.uint8
        assert (before != after).any()


def test_a_frame_holds_the_picture_of_the_sample():
    frame = made().render()
    assert (frame == colour(1).image[0, 0]).all(-1).mean() > 0.2


def test_the_reward_and_gold_are_drawn_once_the_response_has_ended():
    sample = colour(0)
    going = EpisodeView(sample, sample.prompt, "red", tokens_used=1, budget=4)
    over = dataclasses.replace(going, stop="eos", reward=1.0, gold=1.0)
    worse = dataclasses.replace(over, gold=0.2)
    frames = [render_frame(view) for view in (going, over, worse)]
    assert (frames[0] != frames[1]).any()
    assert (frames[1] != frames[2]).any()


@pytest.mark.parametrize("reward", [-1e9, 1e9, 0.0])
def test_bars_stay_inside_the_frame(reward):
    sample = colour(0)
    view = EpisodeView(sample, sample.prompt, "", "budget", reward, None, tokens_used=4, budget=4)
    assert (render_frame(view)[:, -5:] == render_frame(view)[0, 0]).all()


def test_a_sound_makes_the_frame_taller_and_shows():
    env = made("toy/Talk-v0")
    assert env.render().shape[0] > made().render().shape[0]
    assert (env.render()[-60:] != env.render()[-1, 0]).any()


def test_text_shows_prompt_response_scores_and_components():
    reward = WeightedSum((characters, 1.0), (LengthPenalty(), 1.0))
    env = made(mode="ansi", reward=reward)
    assert "what colour is it ?" in env.render()
    assert "8 x 8 pixels" in env.render()
    env.step(GREEN)
    assert "response  green _   (1 of 4 tokens)" in env.render()
    env.step(END)
    text = env.render()
    assert "ended     by eos" in text
    assert "gold 1.00" in text
    assert "characters +5.00" in text
    assert "length -0.02" in text


def test_text_of_a_dialogue_shows_earlier_replies_and_the_sound():
    env = made("toy/Talk-v0", "ansi")
    env.step(GREEN)
    env.step(END)
    text = env.render()
    assert "earlier   green   reward +1.00  gold 1.00" in text
    assert "audio     " in text
    assert "you said green" in text
    assert "said      what colour is it ?" in text


def test_silence_is_shown_as_such():
    env = made("toy/Talk-v0", "ansi")
    env.step(END)
    assert "earlier   (silence)" in env.render()


def test_unknown_gold_is_left_out():
    assert "gold" not in render_ansi(EpisodeView(colour(0), "", "red", "eos", 1.0, None, tokens_used=2, budget=4))


def test_every_lane_of_a_vector_env_has_its_frame():
    venv = gym.make_vec("toy/Colours-v0", num_envs=3, render_mode="rgb_array")
    venv.reset(seed=0, options={"sample_index": np.arange(3)})
    frames = venv.render()
    assert len(frames) == 3
    assert (frames[0] != frames[1]).any()
    venv.step(np.array([RED, RED, GREEN]))
    assert all((a != b).any() for a, b in zip(frames, venv.render(), strict=True))


def test_what_is_said_is_drawn_over_its_sound():
    talk = made("toy/Talk-v0").unwrapped.view()
    unknown = dataclasses.replace(talk, sample=dataclasses.replace(talk.sample, said=""))
    assert (render_frame(talk) != render_frame(unknown)).any()


@pytest.mark.parametrize("env_id", TABLE)
@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_every_id_renders_in_every_mode(env_id, mode):
    env = made(env_id, mode, reward="gold")
    first = env.render()
    env.step(5)
    second = env.render()
    assert type(first) is type(second) is (str if mode == "ansi" else np.ndarray)
    assert np.any(first != second)


def test_rendering_before_a_reset_is_refused():
    env = gym.make("toy/Colours-v0", render_mode="ansi", disable_env_checker=True).unwrapped
    with pytest.raises(ResetNeeded, match="reset"):
        env.render()


def test_rendering_leaves_the_episode_alone():
    watched, alone = made(), made()
    for token in (RED, GREEN, END):
        watched.render()
        one, two = watched.step(token), alone.step(token)
        np.testing.assert_array_equal(one[0]["response"], two[0]["response"])
        assert one[1:4] == two[1:4]


def test_human_mode_shows_a_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make("toy/Colours-v0", render_mode="human")
    env.reset(seed=0)
    env.step(RED)
    assert env.render() is None
    env.close()
