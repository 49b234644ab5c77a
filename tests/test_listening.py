"""Speech for real: a neural voice says it, recognisers write down what they hear, and rewards judge that."""

from __future__ import annotations

import functools
import pickle
import sys

import gymnasium as gym
import numpy as np
import pytest
import soundfile
from packaged_models import voice, whisper
from toys import characters

import mmenv
from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.rewards.judges import listening
from mmenv.rewards.judges.listening import (
    Intelligibility,
    Listener,
    ListeningReward,
    Whisper,
    plain,
    word_error_rate,
)
from mmenv.tasks.spoken_dialogue import SpokenDialogue
from mmenv.worlds import neural_voice

pytestmark = pytest.mark.models

SAMPLE = Sample("s", 0, "")


@pytest.fixture(scope="module")
def say():
    """A neural voice."""
    return neural_voice.NeuralVoice(voice())


@pytest.fixture(scope="module")
def recogniser():
    """A recogniser with real weights."""
    return Whisper(whisper())


@pytest.fixture(scope="module")
def listener(recogniser, say):
    """A listener that the tests share, so that a sentence is recognised once."""
    return Listener(recogniser, say)


def test_a_text_always_sounds_the_same_at_16_khz_within_one(say):
    wave = say("what is left of the dog ?")
    assert wave.dtype == np.float32
    assert 0.8 < len(wave) / 16_000 < 3
    assert np.abs(wave).max() <= 1.0
    assert wave.std() > 0.02
    neural_voice._synthesise.cache_clear()
    np.testing.assert_array_equal(say("what is left of the dog ?"), wave)
    assert say(" ? ").shape == say("").shape == (0,)
    with pytest.raises(ValueError, match="read-only"):
        wave[0] = 1


def test_a_long_utterance_is_said_faster_and_keeps_to_its_samples(say):
    said = [say.deliver("is there a red apple above the blue car ?", np.random.default_rng(i), 20_000)
            for i in (0, 0, 1)]  # fmt: skip
    assert all(len(w) <= 20_000 and w.dtype == np.float32 and np.abs(w).max() <= 1 for w in said)
    np.testing.assert_array_equal(said[0], said[1])
    assert not np.array_equal(said[0], said[2])
    quiet, loud = (say.deliver("yes", np.random.default_rng(0), 40_000, shift) for shift in (0.0, 1.0))
    assert loud[:300].std() > 3 * quiet[:300].std()


def test_the_neural_voice_asks_the_same_questions_about_the_same_pictures(say):
    recorded, neural = SpokenDialogue(), SpokenDialogue(voice=voice())
    for index in range(3):
        one, two = (task.sample("train", index) for task in (recorded, neural))
        assert (one.said, one.references, one.id) == (two.said, two.references, two.id)
        np.testing.assert_array_equal(one.image, two.image)
        assert not np.array_equal(one.audio, two.audio)
        assert len(two.audio) <= SpokenDialogue.max_audio_samples
        np.testing.assert_array_equal(two.audio, neural.sample("train", index).audio)
    assert neural.metadata() == {**recorded.metadata(), "voice": voice()}
    with pytest.raises(ValueError, match="voice='robot'"):
        SpokenDialogue(voice="robot")


def test_an_environment_speaks_with_the_neural_voice_also_in_follow_ups():
    mmenv.register("toy/NeuralDialogue-v0", functools.partial(SpokenDialogue, voice=voice()), reward="gold")
    env = gym.make("toy/NeuralDialogue-v0")
    observation, _ = env.reset(options={"sample_index": 0})
    assert env.observation_space.contains(observation)
    first = observation["audio"].copy()
    observation, *_ = env.step(1)
    assert env.observation_space.contains(observation)
    assert not np.array_equal(observation["audio"], first)
    plain_env = gym.make("mmenv/SpokenDialogue-v0", reward="gold")
    assert not np.array_equal(plain_env.reset(options={"sample_index": 0})[0]["audio"], first)


def test_whisper_understands_the_users_of_the_world(recogniser):
    """The recorded voices are pieced together from single words, and are harder to understand."""
    rates = {}
    for name, source, most in (("neural", voice(), 0.2), ("recorded", "recorded", 0.6)):
        task = SpokenDialogue(voice=source)
        samples = [task.sample("train", i) for i in range(6)]
        rates[name] = np.mean([word_error_rate(s.said, recogniser(s.audio)) for s in samples])
        assert rates[name] <= most
    assert rates["neural"] < rates["recorded"]


def test_words_are_compared_and_not_their_spelling():
    assert plain(" Two cats, and 12 dogs! ") == "two cats and twelve dogs"
    assert plain("I've 300.") == "i've 300"
    assert word_error_rate("two cats", "2 cats.") == 0.0
    assert word_error_rate("a red cat", "a bed") == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no words"):
        word_error_rate(" ? ", "a")


def test_sense_is_understood_better_than_gibberish_and_silence_not_at_all(recogniser, say):
    reward = Intelligibility(recogniser, say)
    texts = ("a red apple and two cats", "xq zzkr vtch bgt wrk", "", "?")
    sense, gibberish, *silence = reward([SAMPLE] * 4, [Response(t) for t in texts])
    assert sense == 1.0
    assert gibberish < 0.5
    assert silence == [0.0, 0.0]
    again = pickle.loads(pickle.dumps(reward))
    assert again([SAMPLE], [Response(texts[0])])[0] == 1.0


def test_a_voice_in_noise_is_not_understood(recogniser, say):
    def faint(text):
        wave = say(text)
        return (0.01 * wave + np.random.default_rng(0).normal(0, 0.3, len(wave))).astype(np.float32)

    assert Intelligibility(recogniser, faint)([SAMPLE], [Response("a red apple and two cats")])[0] < 0.3


def test_a_reward_that_listens_judges_what_is_heard_and_not_how_it_is_written(listener):
    def right(samples, responses):
        return np.array([float(r.text == "there are two bears" and r.tokens == ()) for r in responses], np.float32)

    reward = ListeningReward(right, listener.recogniser, listener.voice)
    reward.listener = listener
    said = [Response("there are two bears", (5, 6)), Response("their are too bears"), Response("there are two cats")]
    assert right([SAMPLE] * 3, said).tolist() == [0.0, 0.0, 0.0]  # as written, with its tokens
    assert reward([SAMPLE] * 3, said).tolist() == [1.0, 1.0, 0.0]


def test_the_user_is_listened_to_where_a_judge_would_read_the_script(recogniser, say):
    asked = []

    def judge(samples, responses):
        asked.extend(s.said for s in samples)
        return np.zeros(len(samples), np.float32)

    sample = SpokenDialogue(voice=voice()).sample("train", 1)
    mumbled = Sample("m", 0, "", audio=sample.audio, said="something else")
    reward = ListeningReward(judge, recogniser, say, user=True)
    reward([mumbled, SAMPLE], [Response("")] * 2)
    assert word_error_rate(sample.said, asked[0]) <= 0.4
    assert asked[1] == ""
    ListeningReward(judge, recogniser, say)([mumbled], [Response("")])
    assert asked[2] == "something else"


def test_what_was_heard_before_is_not_heard_again():
    calls = []
    listener = Listener(lambda wave: calls.append(len(wave)) or "Yes.", voice=lambda text: np.ones(9, np.float32))
    assert [listener("yes"), listener("yes"), listener("no")] == ["yes"] * 3
    assert len(calls) == 2


def test_an_environment_is_paid_for_what_is_heard(recogniser, say):
    venv = gym.make_vec("toy/Colours-v0", num_envs=2, reward=ListeningReward(characters, recogniser, say))
    venv.reset(options={"sample_index": np.array([0, 1])})
    venv.step(np.array([3, 4]))
    _, rewards, *_ = venv.step(np.array([1, 1]))
    assert rewards.tolist() == [3.0, 5.0]  # "red", "green"


def test_people_are_given_the_responses_as_sounds(tmp_path, say):
    from mmenv.feedback.comparison_media import spoken_paths
    from mmenv.feedback.exchange.speaking import spoken_responses

    given = [Comparison("a", "p", ("two cats", "", "a dog")), Comparison("b", "p", ("two cats", "no"))]
    spoken = spoken_responses(given, tmp_path, say)
    (cats, silence, dog), (again, _) = map(spoken_paths, spoken)
    assert silence is None
    assert cats == again
    assert [c.responses for c in spoken] == [c.responses for c in given]
    wave, rate = soundfile.read(tmp_path / dog, dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(wave, say("a dog"), atol=1e-4)


@pytest.mark.parametrize(
    ("module", "use"),
    [("piper", lambda: neural_voice.NeuralVoice(voice())("never said before")),
     ("faster_whisper", lambda: Whisper(whisper(), threads=3)(np.zeros(9, np.float32))),
     ("jiwer", lambda: word_error_rate("a", "b"))],
)  # fmt: skip
def test_a_missing_engine_is_named_with_its_command(module, use, monkeypatch):
    neural_voice._engine.cache_clear()
    listening._whisper.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install -c constraints.txt -e "\.\[speech\]"'):
        use()


def test_a_path_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no voice at"):
        neural_voice.NeuralVoice(str(tmp_path / "none.onnx"))("a dog")
    with pytest.raises(FileNotFoundError, match="no model at"):
        Whisper(str(tmp_path / "none"))(np.zeros(9, np.float32))
