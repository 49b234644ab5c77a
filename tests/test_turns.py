"""Turn by turn: a text pays what its tokens pay, in this process, through GEM, and through an OpenEnv server."""

import base64
import importlib
import io
import os
import socket
import sys
import threading
import time
import types

import gymnasium as gym
import numpy as np
import pydantic
import pytest
import soundfile
from PIL import Image
from test_examples import ROOT, run

import mmenv
from mmenv.envs.infos import without_gold
from mmenv.integrations.turns import TurnEnv
from mmenv.registration import default_task

IDS = ["mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogue-v0"]
TEXTS = ["yes", "two", "a dog and a cat ."]


def needed(name):
    """A package that has an environment of its own, where CI runs these tests again; there it must be there."""
    required = os.environ.get("MMENV_REQUIRE_TURNS") == "1"
    return importlib.import_module(name) if required else pytest.importorskip(name)


@pytest.mark.parametrize("env_id", IDS)
def test_a_text_pays_what_its_tokens_pay(env_id):
    turns, tokens = TurnEnv(env_id), gym.make(env_id).unwrapped
    for index, text in enumerate(TEXTS):
        observation, _ = turns.reset(index=index)
        expected, _ = tokens.reset(options={"sample_index": index})
        terminated = False
        while not terminated:
            assert turns.env.tokenizer.encode(observation["prompt"]) == [t for t in expected["prompt"] if t]
            np.testing.assert_array_equal(observation["image"], expected["image"])
            for token in (*tokens.tokenizer.encode(text), 1):
                expected, pay, over, _, told = tokens.step(token)
                if over:
                    break
            observation, reward, terminated, truncated, info = turns.step(text)
            assert (reward, terminated, truncated, info) == (pay, over, False, told)
            assert info["response"] == text
            assert 0 <= info["gold"] <= 1


def test_a_dialogue_is_heard_turn_by_turn_and_remembers_what_was_said():
    env = TurnEnv("mmenv/SpokenDialogue-v0", reward="gold")
    first, _ = env.reset(index=0)
    then, _, terminated, *_ = env.step("yes")
    assert not terminated
    assert len(first["audio"]) > 1000
    assert not np.array_equal(first["audio"][:1000], then["audio"][:1000])
    assert "yes" in then["prompt"]


def test_a_text_longer_than_the_budget_is_cut_there():
    env = TurnEnv("mmenv/VQA-v0", reward="gold", max_response_tokens=3)
    env.reset(seed=0)
    *_, info = env.step("yes no yes no yes")
    assert (info["response"], info["stop"]) == ("yes no yes", "budget")
    env.reset(seed=0)
    assert env.step("")[-1]["response"] == ""


def test_what_is_no_text_and_a_turn_too_many_are_refused():
    env = TurnEnv("mmenv/VQA-v0", reward="gold")
    env.reset(seed=0)
    with pytest.raises(TypeError, match="a turn is a text"):
        env.step(5)
    env.step("yes")
    with pytest.raises(gym.error.ResetNeeded):
        env.step("yes")


def test_an_observation_is_the_callers_own():
    env = TurnEnv("mmenv/VQA-v0", reward="gold")
    observation, _ = env.reset(index=0)
    kept = observation["image"].copy()
    observation["image"][:] = 0
    np.testing.assert_array_equal(env.reset(index=0)[0]["image"], kept)


def test_what_leaves_for_another_party_has_no_gold_and_no_part_of_it():
    info = {"response": "yes", "stop": "eos", "gold": 1.0, "gold/brevity": 0.5, "rewards/gold": 1.0, "rewards/x": 2.0}
    assert without_gold(info) == {"response": "yes", "stop": "eos", "rewards/x": 2.0}


@pytest.fixture
def openenv_server(monkeypatch):
    """``mmenv.integrations.openenv`` over the few names that it takes from OpenEnv, where that is not installed."""
    if importlib.util.find_spec("openenv") is None:
        core = types.ModuleType("openenv.core.env_server")
        fields = {"reward": (float | None, None), "done": (bool, False), "metadata": (dict, {})}
        core.Action = core.State = pydantic.create_model("Plain", episode_id=(str | None, None), step_count=(int, 0))
        core.Observation = pydantic.create_model("Observation", **fields)
        core.Environment = type("Environment", (), {"__class_getitem__": classmethod(lambda cls, _: cls)})
        core.create_fastapi_app = None
        for name in ("openenv", "openenv.core", "openenv.core.env_server"):
            monkeypatch.setitem(sys.modules, name, core)
        monkeypatch.delitem(sys.modules, "mmenv.integrations.openenv", raising=False)
    ours = importlib.import_module("mmenv.integrations.openenv")
    yield ours
    sys.modules.pop("mmenv.integrations.openenv")


def test_a_client_of_openenv_is_sent_no_gold(openenv_server):
    gold = mmenv.GoldReward(default_task("mmenv/VQA-v0").gold)
    reward = mmenv.WeightedSum((gold, 1.0), (mmenv.LengthPenalty(), 1.0))
    server = openenv_server.TurnServer("mmenv/VQA-v0", reward=reward)
    first = server.reset(index=0, episode_id="mine")
    second = server.step(openenv_server.Say(text="yes"), request_id="7")
    assert second.done
    assert set(second.metadata) == {"response", "stop", "rewards/length"}
    assert "gold" not in (first.model_dump_json() + second.model_dump_json())


def test_a_misspelt_argument_of_an_openenv_client_is_refused_by_name(openenv_server):
    server = openenv_server.TurnServer("mmenv/VQA-v0", reward="gold")
    with pytest.raises(TypeError, match=r"'indx' \(value 3\); it takes seed, episode_id, index"):
        server.reset(indx=3)
    server.reset()
    with pytest.raises(TypeError, match="'timeout'"):
        server.step(openenv_server.Say(text="yes"), timeout=3)


def test_the_example_plays_whole_answers_without_looking():
    said = run("turn_level.py", "--episodes", "8", "--env-id", "mmenv/SpokenDialogue-v0")
    assert said.split()[1] == "turns"
    assert 0 <= float(said.split()[-1]) <= 1


def test_gem_makes_every_id_and_plays_it():
    gem = needed("gem")
    importlib.import_module("mmenv.integrations.gem")
    assert {i for i in gym.registry if i.startswith("mmenv/")} <= set(gem.envs.registration.ENV_REGISTRY)
    env, turns = gem.make("mmenv/SpokenDialogue-v0", reward="gold"), TurnEnv("mmenv/SpokenDialogue-v0", reward="gold")
    assert isinstance(env, gem.Env)
    (found, _), (expected, _) = env.reset(seed=3), turns.reset(seed=3)
    np.testing.assert_array_equal(found["audio"], expected["audio"])
    for text in ("yes", env.sample_random_action()):
        *found, there = env.step(text)
        *expected, info = turns.step(text)
        assert found[1:] == expected[1:]
        assert there == without_gold(info) != info
    there = env.spawn(same_state=True)
    assert there.turns.env.sample.id == env.turns.env.sample.id
    assert env.spawn(split="test").turns.env.episode_spec.split == "test"


def test_gems_vector_env_plays_texts():
    gem = needed("gem")
    importlib.import_module("mmenv.integrations.gem")
    lanes = gem.make_vec(["mmenv/VQA-v0", "mmenv/VQA-v0"], seed=5, reward="gold")
    observations, _ = lanes.reset()
    for seed, observation in zip((5, 6), observations):
        expected, _ = TurnEnv("mmenv/VQA-v0", reward="gold").reset(seed=seed)
        np.testing.assert_array_equal(observation["image"], expected["image"])
    _, rewards, terminated, *_ = lanes.step(["yes", "two"])
    assert all(terminated)
    assert all(0 <= reward <= 1 for reward in rewards)


@pytest.fixture(scope="module")
def server():
    """The address of a server of spoken dialogues, and one of questions."""
    needed("openenv")
    uvicorn, ours = importlib.import_module("uvicorn"), importlib.import_module("mmenv.integrations.openenv")
    running, urls = [], {}
    for env_id in ("mmenv/SpokenDialogue-v0", "mmenv/VQA-v0"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        app = ours.app(env_id, split="test", reward="gold")
        one = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        thread = threading.Thread(target=one.run)
        thread.start()
        running.append((one, thread))
        urls[env_id] = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while not all(one.started for one, _ in running):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield urls
    for one, thread in running:
        one.should_exit = True
        thread.join()


def test_an_openenv_client_plays_a_dialogue_as_it_is_played_here(server):
    openenv = needed("openenv")
    turns = TurnEnv("mmenv/SpokenDialogue-v0", split="test", reward="gold")
    expected, info = turns.reset(index=1)
    with openenv.GenericEnvClient(base_url=server["mmenv/SpokenDialogue-v0"]).sync() as client:
        result = client.reset(index=1)
        assert result.metadata == info
        terminated = False
        while not terminated:
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(result.observation["image"]))))
            np.testing.assert_array_equal(image, expected["image"])
            audio, rate = soundfile.read(io.BytesIO(base64.b64decode(result.observation["audio"])), dtype="float32")
            assert rate == 16_000
            np.testing.assert_allclose(audio, expected["audio"], atol=2**-15)
            assert result.observation["prompt"] == expected["prompt"]
            result = client.step({"text": "yes"})
            expected, reward, terminated, _, info = turns.step("yes")
            assert (result.reward, result.done, result.metadata) == (reward, terminated, without_gold(info))
        assert client.state()["step_count"] >= 2


def test_openenv_sessions_do_not_disturb_each_other(server):
    openenv, url = needed("openenv"), server["mmenv/VQA-v0"]
    with openenv.GenericEnvClient(base_url=url).sync() as one, openenv.GenericEnvClient(base_url=url).sync() as two:
        names = [client.reset(index=i).metadata["sample_id"] for i, client in enumerate((one, two))]
        assert [client.state()["episode_id"] for client in (one, two)] == names
        assert one.step({"text": "yes"}).done
        assert two.step({"text": "yes"}).done


def test_the_example_plays_through_a_server_what_it_plays_here(server):
    there = run("turn_level.py", "--episodes", "4", "--url", server["mmenv/VQA-v0"])
    assert "4 turns" in there
    assert (ROOT / "examples" / "turn_level.py").is_file()
