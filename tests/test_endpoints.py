"""Rewards behind vLLM's endpoints and a judge behind OpenAI's, over real HTTP from another process."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from toys import pictured

from mmenv.data.sample import Response, Sample
from mmenv.rewards.base import RewardError

if os.environ.get("MMENV_REQUIRE_ALL") != "1":
    pytest.importorskip("httpx", reason='reward servers: pip install -c constraints.txt -e ".[serve]"')
from other_servers import MODEL, of_words
from reward_servers import Scripted, Server

from agents.__main__ import main
from mmenv.rewards.loading import reward_of_url
from mmenv.rewards.remote.client import RemoteReward
from mmenv.rewards.remote.endpoints import ChatJudge, VLLMPooling, VLLMScore, data_url, grade
from mmenv.rewards.remote.hosts import allow_addresses
from mmenv.rewards.remote.replies import without_thoughts

SAMPLES = [Sample(f"s/{i}", i, f"what is it {i} ?", pictured(i * 5).image) for i in range(5)]
RESPONSES = [Response(t) for t in ("a dog", "two", "a red cat", "", "é")]


@pytest.fixture(scope="module")
def server():
    with Server(str(Path(__file__).parent / "other_servers.py")) as running:
        yield running


def wanted(images):
    seen = [of_words(s.prompt) + (s.image.mean() / 255 if images else 0) for s in SAMPLES]
    return np.float32([a - 2 * of_words(r.text) for a, r in zip(seen, RESPONSES, strict=True)])


KEYS = {"MMENV_REWARD_TOKEN": RemoteReward, "VLLM_API_KEY": VLLMScore, "OPENAI_API_KEY": ChatJudge}


@pytest.fixture
def keys(monkeypatch):
    """All three keys are set, and no host is configured."""
    for name in KEYS:
        monkeypatch.setenv(name, f"of {name}")
    for name in ("MMENV_REWARD_HOSTS", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "")
    return monkeypatch


def sent(reward):
    """The key that a reward's requests carry."""
    connection = reward.connection if isinstance(reward, RemoteReward) else reward.endpoint.connection
    return connection.headers.get("authorization", "").removeprefix("Bearer ")


def test_every_kind_of_server_is_sent_its_own_token_and_no_others(keys):
    keys.setenv("MMENV_REWARD_HOSTS", "127.0.0.1:9")
    assert [sent(kind("http://127.0.0.1:9")) for kind in KEYS.values()] == [f"of {name}" for name in KEYS]


@pytest.mark.parametrize(
    ("hosts", "url", "gets"),
    [
        ("", "http://elsewhere.example", ""),
        ("", "http://127.0.0.1:9", ""),
        ("gpu", "http://gpu:1", "MMENV_REWARD_TOKEN"),
        ("gpu:2, https://other", "vllm+http://GPU:2/score", "VLLM_API_KEY"),
        ("gpu:2", "vllm+http://gpu:3/score", ""),
        ("https://gpu", "vllm+https://gpu:443/score", "VLLM_API_KEY"),
        ("https://gpu", "vllm+http://gpu:443/score", ""),
        ("vllm+http://gpu:8000", "vllm+http://gpu:8000/pooling", "VLLM_API_KEY"),
        ("vllm+http://gpu:8000", "openai+http://gpu:8000/v1", ""),
        ("mmenv+http://gpu:8000", "http://gpu:8000?patience=1", "MMENV_REWARD_TOKEN"),
        ("[::1]:8", "http://[::1]:8", "MMENV_REWARD_TOKEN"),
        ("gpu", "http://gpu@elsewhere.example", ""),
        ("gpu", "http://gpu.elsewhere.example", ""),
        ("", "openai+https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("", "openai+http://api.openai.com/v1", ""),  # in the clear
        ("", "vllm+https://api.openai.com/score", ""),
        ("OPENAI_BASE_URL=http://proxy:5/v1", "openai+http://proxy:5/v1", "OPENAI_API_KEY"),
        ("OPENAI_BASE_URL=http://proxy:5/v1", "openai+https://api.openai.com/v1", ""),
    ],
)
def test_a_key_goes_to_configured_hosts_alone(keys, hosts, url, gets):
    variable, _, value = hosts.rpartition("=")
    keys.setenv(variable or "MMENV_REWARD_HOSTS", value)
    assert sent(reward_of_url(url)) == (gets and f"of {gets}")


def test_a_token_that_the_code_gives_goes_to_the_server_that_the_code_names(keys):
    assert sent(RemoteReward("http://elsewhere.example", token="mine")) == "mine"


def test_the_addresses_of_the_command_line_are_configured_for_their_kind_of_server(keys):
    allow_addresses(["ppo", "--reward", "http://gpu:8766?patience=3", "--judge=openai+https://judge/v1?model=m"])
    assert sent(reward_of_url("http://gpu:8766")) == "of MMENV_REWARD_TOKEN"
    assert sent(reward_of_url("openai+https://judge/v1")) == "of OPENAI_API_KEY"
    assert sent(reward_of_url("openai+http://gpu:8766/v1")) == ""
    allow_addresses(["--resume", "runs/friend"])
    assert os.environ["MMENV_REWARD_HOSTS"] == "mmenv+http://gpu:8766,openai+https://judge"


def test_a_list_of_hosts_with_something_else_in_it_is_refused(keys):
    keys.setenv("MMENV_REWARD_HOSTS", "gpu, http://")
    with pytest.raises(ValueError, match=r"MMENV_REWARD_HOSTS names 'http://', which is not a host: give HOST"):
        sent(RemoteReward("http://gpu"))


@pytest.mark.parametrize("images", [False, True])
def test_the_score_endpoint_reads_each_pair_and_its_scores_are_put_in_order(server, images):
    reward = VLLMScore(server.url, images=images, batch_size=2)
    np.testing.assert_allclose(reward(SAMPLES, RESPONSES), wanted(images), atol=1e-6)
    raw = VLLMScore(server.url, images=images, activation=False)
    np.testing.assert_allclose(raw(SAMPLES, RESPONSES), wanted(images) - 1, atol=1e-6)


@pytest.mark.parametrize("images", [False, True])
def test_the_pooling_endpoint_is_read_at_the_last_token(server, images):
    reward = VLLMPooling(server.url, images=images)
    np.testing.assert_allclose(reward(SAMPLES, RESPONSES), wanted(images), atol=1e-6)
    whole = reward(SAMPLES[:1], [Response("whole")])
    np.testing.assert_allclose(whole, of_words(SAMPLES[0].prompt) + images * SAMPLES[0].image.mean() / 255, atol=1e-6)


def test_an_embedding_is_no_score(server):
    with pytest.raises(RewardError, match=r"3 numbers.*one label"):
        VLLMPooling(server.url)(SAMPLES[:1], [Response("embed me")])


def test_a_model_that_is_not_there_is_an_error_at_once_and_not_asked_for_again(server):
    with pytest.raises(RewardError, match=r"400.*'other' does not exist"):
        VLLMScore(server.url, model="other")(SAMPLES, RESPONSES)
    assert VLLMScore(server.url).endpoint.model == MODEL


def test_a_judge_is_shown_the_picture_and_its_grades_are_moved_to_0_to_1(server):
    judge = ChatJudge(f"{server.url}/v1")
    said = ["one", "a b", "a b c d e f", ""]
    np.testing.assert_allclose(judge(SAMPLES[:4], [Response(t) for t in said]), [0.25, 0.5, 1.0, 0.0])
    assert judge.failures == 0
    parts = judge.messages(SAMPLES[0], Response('so "said"'))[1]["content"]
    assert [p["type"] for p in parts] == ["image_url", "text", "text"]
    assert parts[0]["image_url"]["url"] == data_url(SAMPLES[0].image)
    assert parts[-1]["text"] == 'Answer: "so \\"said\\""'
    blind = ChatJudge("http://x", images=False).messages(SAMPLES[0], RESPONSES[0])[1]["content"]
    assert [p["type"] for p in blind] == ["text", "text"]


def test_a_reply_that_cannot_be_read_is_counted_and_asked_for_again_and_never_a_zero(server):
    judge = ChatJudge(f"{server.url}/v1")
    scores = judge(SAMPLES[:2], [Response("mumble mumble"), Response("one")])
    np.testing.assert_allclose(scores, [0.5, 0.25])
    assert judge.failures == 1
    with pytest.raises(RewardError, match=r"did not grade .* sample 's/0': it is empty\. Change the rubric"):
        judge(SAMPLES[:1], [Response("never")])
    assert judge.failures == 4
    assert pickle.loads(pickle.dumps(judge)).failures == 4


def completion(content, finish="stop", **message):
    """A chat completion as a server sends it."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return json.dumps({"choices": [choice]}).encode()


def asked(status, body, n=1, **settings):
    """The scores of a judge whose server gives the same answer each time, the judge, and the requests that it sent."""
    requests = []

    def script(number, request):
        requests.append(json.loads(request))
        return status, body

    with Scripted(script) as server:
        judge = ChatJudge(f"{server.url}/v1", model="m", patience=1, **settings)
        return judge([SAMPLES[0]] * n, [RESPONSES[0]] * n), judge, requests


CUT = "The response claims 2 cats, but the picture"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (completion(CUT, "length"), "finish_reason is 'length': the reply was cut, give more max_tokens"),
        (completion("4", "length"), "cut"),
        (completion("<think>\nThe answer says there are 2 cats, so I", "length"), "cut"),
        (completion("<think>\nThe answer says there are 2 cats, so I", None), "its reasoning has no end"),
        (completion("4", "content_filter"), "finish_reason is 'content_filter'"),
        (completion("4", "tool_calls"), "finish_reason is 'tool_calls'"),
        (completion("4", "abort"), "finish_reason is 'abort'"),
        (completion("I give 1", refusal="I cannot give 1"), "the model refused: 'I cannot give 1'"),
        (completion("4", tool_calls=[{"function": {"name": "f", "arguments": "5"}}]), "it calls a tool"),
        (completion(None), "it is empty"),
        (completion(""), "it is empty"),
        (completion(" \n"), "it is empty"),
        (completion(4), "it is empty"),
        (completion({"grade": 4}), "it is empty"),
        (completion([{"type": "refusal", "refusal": "4"}]), "the model refused: '4'"),
        (completion([{"type": "text", "text": "4"}, {"type": "refusal", "refusal": ""}]), "the model refused"),
        (b'{"choices": [{"message": {"content": "4"}, "error": {"code": 502}}]}', "the service failed: {'code': 502}"),
        (completion("<think>it is a 4</think>"), "no number from 1 to 5 in ''"),
        (completion("<think>a 4</think><think>or a 2"), "its reasoning has no end"),
        (completion("2 or 4"), "no number from 1 to 5 in '2 or 4'"),
        (b'{"choices": []}', "it holds no message"),
        (b'{"choices": [{"message": null}]}', "it holds no message"),
    ],
)
def test_a_reply_that_is_no_judgement_is_asked_for_again_and_then_an_error(body, problem):
    with pytest.raises(RewardError, match=re.escape(problem)) as caught:
        asked(200, body)
    assert "sample 's/0'" in str(caught.value)
    scores, judge, requests = asked(200, body, on_refusal=0.3)
    assert scores == np.float32(0.3)
    assert (judge.failures, judge.refusals, judge.graded, len(requests)) == (3, 1, 0, 3)


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ("<think>3? or 4?</think>1", 0.0), ("<think>\n2\n</think>\n\n5", 1.0), ("no opening 3 </think> 2", 0.25),
        ("[THINK]1[/THINK]**4**", 0.75), ("<Reasoning>1</Reasoning>Score: 4/5", 0.75),
        ([{"type": "text", "text": "4"}], 0.75),
        ([{"type": "thinking", "thinking": "1"}, {"type": "text", "text": "4"}], 0.75),
    ],
)  # fmt: skip
def test_the_grade_stands_behind_the_reasoning(content, score):
    assert asked(200, completion(content))[0] == np.float32(score)
    assert asked(200, completion(content, None))[0] == np.float32(score)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<seed:think>", "</seed:think>"), ("<think time='2'>", "</think>"), ("<inner_thoughts>", "</inner_thoughts>"),
        ("<thinking_process>", "</thinking_process>"), ("<|channel>thought\n", "<channel|>"),
        ("<|thinking|>", "<|/thinking|>"), ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)  # fmt: skip
def test_reasoning_in_the_tags_of_any_family_is_no_grade(opening, closing):
    assert without_thoughts(f"{opening}There are 2 cats, so I") is None
    assert without_thoughts(f"{opening}There are 2 cats.{closing}4") == "4"


FILTERED = json.dumps({"error": {"code": "content_filter", "message": "The prompt was filtered"}}).encode()


def test_a_request_that_a_service_filters_is_an_error_or_a_counted_fallback(caplog):
    with pytest.raises(RewardError, match=r"did not grade .* status 400: .*content_filter.* on_refusal=SCORE"):
        asked(400, FILTERED)
    scores, judge, requests = asked(400, FILTERED, n=3, on_refusal=0.0)
    np.testing.assert_array_equal(scores, np.zeros(3, np.float32))
    assert (judge.refusals, judge.failures, len(requests)) == (3, 0, 3)
    assert caplog.text.count("did not grade sample 's/0', on_refusal=0: ") == 3
    with pytest.raises(RewardError, match="status 401"):
        asked(401, b"no key", on_refusal=0.5)


def test_a_run_that_a_refused_response_has_ended_goes_on_with_a_fallback_in_its_address(start, tmp_path, capsys):
    asked = []

    def script(number, body):
        asked.append(number)
        return (400, FILTERED) if len(asked) % 15 == 5 else (200, completion("4"))

    few = ["--total-tokens", "300", "--num-envs", "8", "--eval-episodes", "0", "--no-pictures", "--threads", "1"]
    with Scripted(script) as server:
        address = f"openai+{server.url}/v1?model=m"
        assert main(["ppo", "--start", start, "--reward", address, *few, "--out", str(tmp_path)]) != 0
        assert "did not grade the response to sample" in capsys.readouterr().err
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["reward"] == address
        (tmp_path / "config.json").write_text(json.dumps({**config, "reward": f"{address}&on_refusal=0.5"}))
        assert main(["--resume", str(tmp_path)]) == 0
    assert len(asked) > 20  # also of the resumed run some were refused


def test_a_judge_that_refuses_most_responses_is_an_error_also_with_a_fallback():
    with pytest.raises(RewardError, match=r"graded 0 responses and failed to grade 9, but on_refusal is for"):
        asked(400, FILTERED, n=9, on_refusal=0.5, concurrency=1)


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({}, {"max_tokens": 16, "temperature": 0.0}),
        ({"max_tokens": None, "temperature": None}, {}),
        ({"max_completion_tokens": 900, "temperature": None}, {"max_completion_tokens": 900}),
        ({"temperature": 1.0}, {"max_tokens": 16, "temperature": 1.0}),
    ],
)
def test_settings_that_a_model_refuses_can_be_left_out(settings, sent):
    _, _, requests = asked(200, completion("4"), **settings)
    assert {k: v for k, v in requests[0].items() if k not in ("model", "messages")} == sent


def test_the_settings_of_a_judge_can_stand_in_its_address():
    judge = reward_of_url(
        "openai+http://h/v1?model=m&max_tokens=none&max_completion_tokens=64&temperature=none&on_refusal=0.5&attempts=2"
    )
    assert (judge.limits, judge.temperature) == ({"max_completion_tokens": 64}, None)
    assert (judge.on_refusal, judge.attempts) == (0.5, 2)


@pytest.mark.parametrize(
    "wrong", [{"on_refusal": 2}, {"on_refusal": float("nan")}, {"temperature": -1}, {"max_tokens": 0}, {"attempts": 0}]
)
def test_settings_of_a_judge_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ChatJudge("http://h", **wrong)


NOT_NUMBERS = [(b'"0.5"', "'0.5'"), (b"true", "True"), (b"null", "None"), (b"NaN", "nan"), (b"1" + b"0" * 400, "1000")]


@pytest.mark.parametrize(("value", "said"), NOT_NUMBERS)
@pytest.mark.parametrize("kind", [VLLMScore, VLLMPooling])
def test_a_score_that_is_no_finite_number_is_one_clear_error(kind, value, said):
    form = b'{"index": 0, "score": %s}' if kind is VLLMScore else b'{"data": [[1], [%s]]}'
    server = Scripted(lambda number, body: (200, b'{"data": [' + form % value + b"]}"))
    with server, pytest.raises(RewardError, match=f"with the score {said}.*: scores are finite numbers"):
        kind(server.url, model="m", patience=0)(SAMPLES[:1], RESPONSES[:1])


@pytest.mark.parametrize(
    "body",
    [b'{"data": {"index": 0}}', b'{"data": 5}', b'{"data": [{"index": "0", "score": 1, "data": {}}]}', b"[" * 99_999],
)
@pytest.mark.parametrize("kind", [VLLMScore, VLLMPooling])
def test_an_answer_of_another_form_is_one_clear_error(kind, body):
    with (
        Scripted(lambda number, _: (200, body)) as server,
        pytest.raises(RewardError, match="not a server of this kind"),
    ):
        kind(server.url, model="m", patience=0)(SAMPLES[:1], RESPONSES[:1])


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), (" 3.5 ", 3.5), ("Score: 4/5", 4), ("**2** out of 5", 2), ("I give it a 5.", 5), ("4, yes, 4", 4),
     ("", None), ("none", None), ("0", None), ("7", None), ("-3", None), ("2 or 4", None), ("between 1-5", None),
     ("As GPT-4 I cannot judge this.", None), ("the 2nd is right", None), ("3\u00bd", None), ("4%", None),
     ("I cannot grade this out of 5.", None), ("?/5", None), ("\u22123", None), ("4 stars out of 5", 4), ("4 of 5", 4),
     ("I give it a score of 5", 5), ("4\u20135", None), ("between 3\u00bd and 4", None),
     ("4.5.6", None), ("5/5", 5), ("nan", None), ("5/50", None), ("3/5.", 3)],
)  # fmt: skip
def test_a_grade_is_the_one_number_of_the_range(text, number):
    assert grade(text, 1, 5) == number


def test_a_grade_may_be_negative_or_a_share_where_the_range_has_such():
    assert [grade(text, -1, 1) for text in ("-1", "\u22121", "\u20131 / 1", "1")] == [-1, -1, -1, 1]
    assert [grade(text, 0, 100) for text in ("85%", "85 / 100", "85")] == [85, 85, 85]


def test_addresses_name_the_kind_of_server_and_set_how_it_is_asked(server):
    host = server.url.removeprefix("http://")
    reward = reward_of_url(f"vllm+http://{host}/score?timeout=3&model={MODEL}")
    assert isinstance(reward, VLLMScore)
    assert reward.endpoint.connection.policy.timeout == 3.0
    np.testing.assert_allclose(reward(SAMPLES, RESPONSES), wanted(False), atol=1e-6)
    assert isinstance(reward_of_url(f"vllm+http://{host}/pooling/"), VLLMPooling)
    assert isinstance(reward_of_url(f"http://{host}?batch_size=7"), RemoteReward)
    venv = gym.make_vec("toy/Colours-v0", num_envs=2, reward=f"openai+http://{host}/v1")
    venv.reset(seed=0)
    np.testing.assert_allclose(venv.step(np.array([1, 1]))[1], [0.0, 0.0])
    assert isinstance(venv.unwrapped.reward_function, ChatJudge)
    for wrong in (
        f"vllm+http://{host}/embeddings",
        f"vllm+http://{host}/score?token=x",
        f"http://{host}?patience=long",
    ):
        with pytest.raises(ValueError, match="reward="):
            reward_of_url(wrong)
