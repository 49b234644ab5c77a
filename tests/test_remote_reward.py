"""A reward server: no score is wrong, lost or swapped, whatever happens to it; and what it refuses."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch
from processes import Command
from rich.console import Console
from toys import Counted, exact, pictured

import mmenv  # noqa: F401
from mmenv.cli import main
from mmenv.data.sample import Response, Sample
from mmenv.registration import task_of
from mmenv.rewards.base import RewardError
from mmenv.rewards.loading import resolve_reward

if os.environ.get("MMENV_REQUIRE_ALL") != "1":
    pytest.importorskip("httpx", reason='reward servers: pip install -c constraints.txt -e ".[serve]"')
    pytest.importorskip("fastapi", reason='reward servers: pip install -c constraints.txt -e ".[serve]"')
import uvicorn
from fastapi.testclient import TestClient
from reward_servers import TOKEN, Scripted, ask_many, free_port, questions, serving

from agents import files
from agents.__main__ import main as agents
from agents.training import checkpoints
from mmenv.rewards.remote.breaker import Breaker
from mmenv.rewards.remote.client import RemoteReward, RequestPolicy
from mmenv.rewards.remote.messages import MessageError, decode_reply, decode_request, encode_reply, encode_request
from mmenv.rewards.remote.server import Serving, create_app, serve

KNOWN = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def token(monkeypatch):
    """Servers and clients of these tests have one token, and the servers of this machine may be sent it."""
    monkeypatch.setenv("MMENV_REWARD_TOKEN", TOKEN)
    monkeypatch.setenv("MMENV_REWARD_HOSTS", "127.0.0.1")


@pytest.fixture(scope="module")
def server():
    with serving("toys:exact") as running:
        yield running


def test_a_request_gives_back_what_was_put_in():
    odd = Sample(
        "s/\ud800", 7, "é\n\x00", np.arange(48, dtype=np.uint8).reshape(4, 4, 3)[::2, ::-1], np.float32([0.1, -1]),
        ("a", "b"), turn=2, said="\U0001f600",
    )  # fmt: skip
    given = [odd, Sample("t", 0, "", np.zeros((0, 3, 3), np.uint8)), pictured(5), pictured(5)]
    said = [Response("a\tb", (5, 1), "budget"), Response(""), Response("x"), Response("y")]
    request, samples, responses = decode_request(encode_request("id", given, said))
    assert (request, responses) == ("id", said)
    np.testing.assert_array_equal(exact(samples, responses), exact(given, said))
    assert samples[0].image.tobytes() == odd.image.tobytes()
    assert samples[1].image.shape == (0, 3, 3)
    assert samples[1].audio is None
    with pytest.raises(ValueError, match="read-only"):
        samples[2].image[:] = 0


def test_a_picture_that_many_share_travels_once():
    one, many = (len(encode_request("id", [pictured(5)] * n, [Response("x")] * n)) for n in (1, 50))
    assert many - one < 49 * pictured(5).image.nbytes


def test_scores_survive_json_to_the_last_bit_and_an_answer_to_another_question_is_refused():
    samples, responses = questions(0, 3)
    body = encode_request("mine", samples, responses)
    scores = np.float32([0.1, 1e-45, -3.4028235e38])
    reply = encode_reply("mine", body, samples, scores)
    assert decode_reply(reply, "mine", body, samples).tobytes() == scores.tobytes()
    other = encode_request("mine", samples, responses[::-1])
    for asked, question in (("other", body), ("mine", other)):
        with pytest.raises(MessageError, match="another request"):
            decode_reply(reply, asked, question, samples)
    for cut in (reply[:-9], b"", b"[]", b"<html>", b"[" * 100_000):
        with pytest.raises(MessageError, match="not the answer of a reward server"):
            decode_reply(cut, "mine", body, samples)


def test_names_that_are_no_text_are_refused_before_they_break_what_scores():
    def refuses(samples, responses):
        raise ValueError("never these")

    client = TestClient(create_app(refuses), base_url="http://127.0.0.1", headers=KNOWN)
    samples, responses = questions(0, 2)
    for odd in (float("nan"), 7, None):
        question = encode_request("q", [dataclasses.replace(samples[0], id=odd), samples[1]], responses)
        answer = client.post("/score", content=question)
        assert answer.status_code == 400
        assert "names and texts are strings" in answer.text
    answer = client.post("/score", content=encode_request("q", samples, responses))
    assert answer.status_code == 422  # the thread that scores is still there
    assert "never these" in answer.text


@pytest.mark.parametrize("body", [b"", b"nonsense" * 9, b"\xff" * 400])
def test_what_is_no_request_is_refused_and_the_server_goes_on(body):
    client = TestClient(create_app(exact), base_url="http://127.0.0.1", headers=KNOWN)
    assert client.post("/score", content=body).status_code == 400
    samples, responses = questions(0, 2)
    question = encode_request("q", samples, responses)
    for i in range(8, len(question), 97):  # cut anywhere
        assert client.post("/score", content=question[:i]).status_code == 400
    answer = client.post("/score", content=question)
    np.testing.assert_array_equal(decode_reply(answer.content, "q", question, samples), exact(samples, responses))


def test_a_stranger_a_page_and_a_body_too_large_are_not_let_in():
    client = TestClient(create_app(exact, Serving(body_limit=2000)), base_url="http://127.0.0.1", headers=KNOWN)
    for wrong in ("", "Bearer ", "Bearer wrong", "Bearer \u00e9"):
        assert client.get("/health", headers={"authorization": wrong.encode("latin-1")}).status_code == 401
    assert client.get("/health").json()["reward"] == "exact"
    assert client.get("/health", headers={"origin": "http://127.0.0.1"}).status_code == 403
    assert client.get("/health", headers={"host": "elsewhere.example"}).status_code == 421
    assert client.post("/score", content=b"x" * 2001).status_code == 413


@pytest.mark.parametrize("host", ["[", "]", "[::1", "a]b[", "127.0.0.1:x", ""])
def test_a_host_that_is_no_name_is_refused_without_a_traceback(host):
    client = TestClient(create_app(exact), base_url="http://127.0.0.1", headers=KNOWN)
    assert client.get("/health", headers={"host": host}).status_code == 421


def test_a_name_that_is_no_text_can_stand_in_an_error():
    def refuses(samples, responses):
        raise RewardError(f"no picture in {samples[0].id}")

    client = TestClient(create_app(refuses), base_url="http://127.0.0.1", headers=KNOWN)
    samples, responses = questions(0, 1)
    body = encode_request("q", [dataclasses.replace(samples[0], id="\ud800")], responses)
    answer = client.post("/score", content=body)
    assert (answer.status_code, answer.text) == (422, "no picture in ?")


def test_requests_together_have_a_largest_size_and_what_is_answered_makes_room():
    held, begun = threading.Event(), threading.Event()

    def waits(samples, responses):
        begun.set()
        held.wait(60)
        return exact(samples, responses)

    body = encode_request("q", *questions(0, 2))
    limit = int(1.5 * len(body))
    app = create_app(waits, Serving(body_limit=limit, bodies_limit=limit))
    client = TestClient(app, base_url="http://127.0.0.1", headers=KNOWN)
    with client, ThreadPoolExecutor(1) as thread:
        first = thread.submit(client.post, "/score", content=body)
        begun.wait(60)
        answer = client.post("/score", content=body)
        held.set()
        assert (answer.status_code, answer.text) == (
            503,
            f"{len(body)} bytes of requests are open: repeat the request later",
        )
        assert first.result().status_code == 200
        assert client.post("/score", content=body).status_code == 200
    assert Serving().body_limit <= Serving().bodies_limit <= 256 * 1024 * 1024
    with pytest.raises(ValueError, match="bodies_limit=5 is below body_limit=6"):
        Serving(body_limit=6, bodies_limit=5)


def test_a_server_has_a_token_also_on_this_machine_and_prints_the_one_that_it_made(monkeypatch):
    monkeypatch.delenv("MMENV_REWARD_TOKEN")
    console = Console(file=io.StringIO(), width=200)
    configs = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, **_: configs.append(server.config))
    serving = Serving(port=0)
    serve(console, exact, serving)
    address = re.search(r"reward=(http://127.0.0.1:\d+)", console.file.getvalue())[1]
    assert f"export MMENV_REWARD_TOKEN={serving.token} MMENV_REWARD_HOSTS={address}\n" in console.file.getvalue()
    assert len({Serving().token, Serving().token, serving.token}) == 3
    client = TestClient(create_app(exact, serving), base_url="http://127.0.0.1")
    assert client.get("/health").status_code == 401
    assert client.get("/health", headers={"authorization": f"Bearer {serving.token}"}).status_code == 200
    serve(console, exact, Serving(port=0, token=TOKEN))
    assert TOKEN not in console.file.getvalue()
    assert configs[0].http.request_seconds == serving.request_seconds == 60  # a slow request is dropped


def test_beyond_loopback_a_token_is_needed_that_cannot_be_guessed(monkeypatch, capsys):
    monkeypatch.delenv("MMENV_REWARD_TOKEN", raising=False)
    assert main(["serve-reward", "--reward", "toys:exact", "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "--token" in capsys.readouterr().err
    for short in ("short", ""):
        with pytest.raises(ValueError, match="could be guessed"):
            Serving(token=short)
        monkeypatch.setenv("MMENV_REWARD_TOKEN", short)
        with pytest.raises(ValueError, match="could be guessed"):
            Serving()
    monkeypatch.setenv("MMENV_REWARD_TOKEN", TOKEN)
    assert Serving(host="0.0.0.0").token == TOKEN


@pytest.mark.parametrize(
    ("reward", "said"),
    [("gold", "is never sent"), ("toys:nothing", "module:function"), ("toys:RED", "cannot be called"),
     ("nowhere.safetensors", "no file"), ("praise", "is unknown")],
)  # fmt: skip
def test_what_cannot_be_served_is_named(reward, said, capsys):
    assert main(["serve-reward", "--reward", reward, "--port", "0"]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_thousand_requests_of_eight_clients_survive_five_kills():
    with serving("toys:mortal", DIES_AT=240) as server, ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask_many, server.url, 250 * i, 250, 2) for i in range(8)]
        for kill in range(5):
            server.process.ended()
            assert server.process.code == -signal.SIGKILL
            if kill == 4:
                del server.environment["DIES_AT"]
            server.start()
        told = [c.result() for c in clients]
    assert sum(t["requests"] for t in told) == 2000
    assert [t["wrong"] for t in told] == [0] * 8
    assert sum(t["right"] for t in told) > 2000


def test_an_answer_does_not_wait_for_an_acknowledgement(monkeypatch):
    """With Nagle's algorithm, all answers of a connection but the first would take 40 ms."""
    accepted = []

    def accept(server, sockets):
        with socket.create_connection(sockets[0].getsockname()):
            accepted.append(sockets[0].accept()[0])

    monkeypatch.setattr(uvicorn.Server, "run", accept)
    serve(Console(quiet=True), exact, Serving(port=0))
    with accepted[0] as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_many_threads_share_one_reward_and_a_call_of_many_is_cut(server):
    reward = RemoteReward(server.url, batch_size=7, concurrency=3)
    with ThreadPoolExecutor(8) as threads:
        asked = [questions(100 * i, 30) for i in range(16)]
        for question, scores in zip(asked, threads.map(lambda q: reward(*q), asked), strict=True):
            np.testing.assert_array_equal(scores, exact(*question))
    assert reward([], []).shape == (0,)


@pytest.mark.parametrize("env_id", ["mmenv/VQA-v0", "mmenv/SpokenDialogue-v0"])
def test_a_preference_model_scores_to_the_bit_as_it_does_here_also_after_a_kill(env_id):
    task = task_of(env_id)(dataset=None, image_size=None, tokenizer=None)
    local, rng = resolve_reward("preference", task), np.random.default_rng(0)
    words = "a dog yes no two cat red left the of".split()
    contexts = [task.sample("test", i) for i in range(24)]
    samples = [contexts[i % 24] for i in range(520 if task.name == "vqa" else 48)]  # above 512 the model cuts
    responses = [Response(" ".join(rng.choice(words, rng.integers(0, 12)))) for _ in samples]
    # Threads may change how a sum is split: both have one.
    with serving("preference", "--env-id", env_id, OMP_NUM_THREADS="1") as server:
        remote = RemoteReward(server.url, patience=300.0, cooldown=0.2)
        whole = remote(samples, responses)
        server.kill()
        starting = threading.Thread(target=server.start)
        starting.start()
        few = [remote(samples[i : i + 9], responses[i : i + 9]) for i in range(0, 40, 9)]
        starting.join()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    np.testing.assert_array_equal(whole, local(samples, responses))
    for i, part in zip(range(0, 40, 9), few, strict=True):
        np.testing.assert_array_equal(part, local(samples[i : i + 9], responses[i : i + 9]))
    torch.set_num_threads(threads)
    assert whole.std() > 0.1


def sound(body: bytes) -> bytes:
    request, samples, responses = decode_request(body)
    return encode_reply(request, body, samples, exact(samples, responses))


def test_a_swapped_answer_is_never_taken_for_the_right_one():
    earlier = []

    def swapped(number, body):
        earlier.append(sound(body))
        return 200, earlier[0] if number in (2, 3) else earlier[-1]

    with Scripted(swapped) as server:
        reward = RemoteReward(server.url, backoff=0.01)
        for first in (0, 10):
            np.testing.assert_array_equal(reward(*questions(first, 3)), exact(*questions(first, 3)))
        assert server.count == 4  # the second question was asked three times
    always = Scripted(lambda number, body: (200, earlier[0]))
    with always as server, pytest.raises(RewardError, match="belongs to another request"):
        RemoteReward(server.url, backoff=0.01, patience=0.1)(*questions(20, 3))


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not():
    with Scripted(lambda number, body: (200, sound(body)) if number > 3 else (503, b"busy")) as server:
        reward = RemoteReward(server.url, backoff=0.01)
        np.testing.assert_array_equal(reward(*questions(0, 2)), exact(*questions(0, 2)))
        assert server.count == 4
    with Scripted(lambda number, body: (422, b"sample 's/3' has no picture")) as server:
        with pytest.raises(RewardError, match=r"422.*s/3"):
            RemoteReward(server.url)(*questions(0, 2))
        assert server.count == 1


def test_no_more_requests_are_under_way_than_allowed():
    three = threading.Barrier(3)

    def slow(number, body):
        if number <= 3:
            three.wait(60)  # three are under way at once
        time.sleep(0.02)
        return 200, sound(body)

    with Scripted(slow) as server:
        reward = RemoteReward(server.url, batch_size=1, concurrency=3)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda i: reward(*questions(10 * i, 10)), range(4)))
        assert (server.count, server.most) == (40, 3)


def test_a_server_that_is_gone_or_silent_ends_the_call_after_its_patience(monkeypatch):
    with Scripted(lambda number, body: (200, sound(body))) as server:
        gone = RemoteReward(server.url, patience=1.0, backoff=0.01, cooldown=0.1)
        begun = time.monotonic()  # patience counts from the last sound answer
        gone(*questions(0, 1))
    gone.connection.lanes.get().client.close()  # the server's thread still holds the connection
    gone.connection.lanes.put(None)
    with pytest.raises(RewardError, match=rf"{gone.connection.url} gave no valid answer .* 1 s .*resume the run"):
        gone(*questions(0, 2))
    assert time.monotonic() - begun > 0.5
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", pytest.fail)  # from now on it fails without a pause
        with pytest.raises(RewardError, match="gave no valid answer"):
            gone(*questions(0, 2))
    slow = Scripted(lambda number, body: (number < 3 and time.sleep(0.4)) or (200, sound(body)))
    with slow as server:  # whoever has not answered in time yet may only be loading its model
        reward = RemoteReward(server.url, timeout=0.2, backoff=0.01)
        np.testing.assert_array_equal(reward(*questions(0, 2)), exact(*questions(0, 2)))
    silent = Scripted(lambda number, body: time.sleep(1) or (200, b""))
    with silent as server, pytest.raises(RewardError, match=r"no complete answer within 0.1 s"):
        RemoteReward(server.url, timeout=0.1, patience=0.2)(*questions(0, 2))


def test_what_has_never_been_a_reward_server_is_an_error_at_once():
    begun = time.monotonic()
    with pytest.raises(
        RewardError, match=r"nothing answers at .*: start the server first, correct host or port, or give st"
    ):
        RemoteReward(f"http://127.0.0.1:{free_port()}")(*questions(0, 2))
    for page in (b"<html>it works</html>", b"[]", b"{}", b"[" * 100_000, b'{"ids": 1' + b"0" * 9999 + b"}"):
        with (
            Scripted(lambda number, body, page=page: (200, page)) as server,
            pytest.raises(RewardError, match=r"/score is not a server of this kind .*: correct host, port or path"),
        ):
            RemoteReward(server.url)(*questions(0, 2))
        assert server.count == 1
    assert time.monotonic() - begun < 60  # and not the 300 seconds of patience
    assert RequestPolicy().patience == 300


def test_a_server_that_is_being_started_is_waited_for_where_that_is_asked_for():
    port, started = free_port(), []
    starting = threading.Timer(0.3, lambda: started.append(Scripted(lambda number, body: (200, sound(body)), port)))
    starting.start()
    reward = RemoteReward(f"http://127.0.0.1:{port}", startup=300, backoff=0.05, cooldown=0.05)
    np.testing.assert_array_equal(reward(*questions(0, 2)), exact(*questions(0, 2)))
    starting.join()
    started[0].__exit__()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def drips(before, drop):
    """A writer of ``before``, and then of ``drop`` every now and then, for as long as somebody listens."""

    def write(connection):
        connection.sendall(before)
        for _ in range(600):
            connection.sendall(drop)
            time.sleep(0.02)

    return write


@pytest.mark.parametrize(
    "before",
    [b"", HEAD + b"x: ", HEAD + b"content-length: 999\r\n\r\n", HEAD + b"\r\n"],
    ids=["status", "headers", "body", "body without a length"],
)
def test_an_answer_that_drips_is_given_up_at_the_deadline(before):
    drop = before and b"1"
    with Scripted(lambda number, body: (0, drips(before or b"HTTP/1.1 200 O", drop or b"K"))) as server:
        reward = RemoteReward(server.url, timeout=0.3, patience=0.1)
        with pytest.raises(RewardError, match=r"no complete answer within 0.3 s"):
            reward(*questions(0, 1))


def test_an_answer_that_is_packed_or_has_no_end_is_refused_with_little_of_it_read():
    bomb = gzip.compress(b"0" * 1000)
    packed = HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb) + bomb
    chunk = b"100000\r\n" + b"0" * 0x100000 + b"\r\n"
    read = []

    def endless(connection):
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(200):
            read.append(connection.sendall(chunk))

    for script, said in (
        (lambda c: c.sendall(packed), r"compressed \('gzip'\)"),
        (endless, "larger than 16777216 bytes"),
    ):
        server = Scripted(lambda number, body, script=script: (0, script))
        with server, pytest.raises(RewardError, match=said):
            RemoteReward(server.url, patience=0)(*questions(0, 1))
    assert len(read) < 50  # of a megabyte each


def test_a_certificate_is_refused_at_once_and_accepted_where_its_authority_is_named(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("openssl was not found: apt-get install openssl")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {certificate}"
    )
    names = ("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Scripted(lambda number, body: (200, sound(body))) as server:
        server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
        url, begun = server.url.replace("http", "https"), time.monotonic()
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(RewardError, match=r"the certificate of https.* is not accepted .*SSL_CERT_FILE"):
            RemoteReward(url, startup=300)(*questions(0, 1))
        assert time.monotonic() - begun < 60  # and not 300 seconds
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        np.testing.assert_array_equal(RemoteReward(url)(*questions(0, 2)), exact(*questions(0, 2)))


def test_packed_answers_are_not_asked_for():
    assert RemoteReward("http://somewhere").connection.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": 5}, "another request"), ({"ids": None}, "another request"), ({"ids": ["x"]}, "another request"),
        ({"request": None}, "another request"), ({"digest": [1]}, "another request"),
        ({"scores": "12"}, "str scores for 2"), ({"scores": None}, "NoneType scores for 2"),
        ({"scores": [1.0]}, "1 scores for 2"), ({"scores": [[1], [2]]}, r"the score \[1\]"),
        ({"scores": ["1", 2]}, "the score '1'"), ({"scores": [True, 2]}, "the score True"),
        ({"scores": [None, 2]}, "the score None"), ({"scores": [float("nan"), 2]}, "the score nan"),
        ({"scores": [10**400, 2]}, "the score 1000"), ({"scores": [1e39, 2]}, "the score 1e[+]39"),
    ],
)  # fmt: skip
def test_an_answer_of_the_wrong_form_is_one_clear_error(change, said):
    def script(number, body):
        return 200, json.dumps({**json.loads(sound(body)), **change}).encode()

    with Scripted(script) as server, pytest.raises(RewardError, match=said) as caught:
        RemoteReward(server.url, patience=0)(*questions(0, 2))
    assert "raised" not in str(caught.value)


def test_the_circuit_opens_lets_one_probe_through_and_closes_again():
    now = [0.0]
    breaker = Breaker(failures=3, cooldown=10.0, clock=lambda: now[0])
    for _ in range(3):
        assert breaker.delay() == 0.0
        breaker.failed()
    now[0] = 4.0
    assert breaker.delay() == 6.0
    now[0] = 10.0
    assert breaker.delay() == 0.0
    assert breaker.delay() > 0.0  # one probe is under way, nobody else sends
    breaker.failed()
    assert breaker.delay() == 10.0
    now[0] = 20.0
    assert breaker.delay() == 0.0
    breaker.succeeded()
    assert [breaker.delay() for _ in range(3)] == [0.0] * 3


def test_a_straggler_does_not_end_the_probe_of_another_thread():
    breaker = Breaker(failures=1, cooldown=0.0)
    breaker.failed()
    assert breaker.delay() == 0.0  # this thread probes

    def straggle():  # of a request that was sent before the circuit opened
        breaker.failed()
        breaker.released()

    thread = threading.Thread(target=straggle)
    thread.start()
    thread.join()
    assert breaker.probing
    assert breaker.delay() > 0.0
    breaker.released()
    assert not breaker.probing


def test_after_a_server_came_back_the_same_reward_goes_on():
    with serving("toys:exact") as server:
        reward = RemoteReward(server.url, patience=0.3, backoff=0.01, cooldown=0.1, failures=2)
        server.kill()
        with pytest.raises(RewardError):
            reward(*questions(0, 2))
        server.start()
        time.sleep(0.1)
        np.testing.assert_array_equal(reward(*questions(0, 2)), exact(*questions(0, 2)))


def test_a_call_in_several_requests_waits_for_the_probe_of_a_server_that_was_lost():
    def back_after_two(number, body):
        if number <= 2:
            return 503, b"away"
        time.sleep(0.2)  # while the probe is under way the other requests have to wait, and not to give up
        return 200, sound(body)

    with Scripted(back_after_two) as server:
        reward = RemoteReward(server.url, batch_size=1, patience=0.0, failures=1, cooldown=0.05, concurrency=4)
        for _ in range(2):
            with pytest.raises(RewardError, match="away"):
                reward(*questions(0, 1))
            time.sleep(0.1)
        reward.connection.policy = RequestPolicy(patience=300.0, failures=1, cooldown=0.05, concurrency=4)
        np.testing.assert_array_equal(reward(*questions(0, 4)), exact(*questions(0, 4)))


def test_requests_are_scored_one_a_call_and_together_only_where_that_was_asked_for():
    for merge, fewest, most in ((0, 12, 12), (6, 3, 11)):
        reward = Counted()
        held = threading.Event()

        def first_waits(samples, responses, reward=reward, held=held):
            held.wait(60)
            return reward(samples, responses)

        client = TestClient(create_app(first_waits, Serving(merge=merge)), base_url="http://127.0.0.1", headers=KNOWN)
        with client, ThreadPoolExecutor(12) as threads:
            asked = [encode_request(str(i), *questions(10 * i, 2)) for i in range(12)]
            answers = [threads.submit(client.post, "/score", content=body) for body in asked]
            while client.get("/health").json()["waiting"] < 12 - max(1, merge):
                time.sleep(0.01)
            held.set()
            for i, (body, answer) in enumerate(zip(asked, answers, strict=True)):
                samples, responses = questions(10 * i, 2)
                scores = decode_reply(answer.result().content, str(i), body, samples)
                np.testing.assert_array_equal(scores, Counted()(samples, responses))
        assert fewest <= len(reward.calls) <= most
        assert max(reward.calls) == (2 if merge == 0 else 6)


def test_of_requests_scored_together_only_the_one_that_cannot_be_scored_fails():
    begun, held = threading.Event(), threading.Event()

    def picky(samples, responses):
        begun.set()
        held.wait(60)
        if any(s.index == 11 for s in samples):
            raise ValueError("eleven")
        return exact(samples, responses)

    client = TestClient(create_app(picky, Serving(merge=100)), base_url="http://127.0.0.1", headers=KNOWN)
    with client, ThreadPoolExecutor(4) as threads:
        asked = [encode_request(str(i), *questions(10 * i, 2)) for i in range(4)]
        answers = [threads.submit(client.post, "/score", content=body) for body in asked]
        begun.wait(60)
        held.set()
        statuses = [a.result().status_code for a in answers]
    assert statuses == [200, 422, 200, 200]
    assert "eleven" in answers[1].result().text


def test_a_full_queue_says_come_again():
    held = threading.Event()
    app = create_app(lambda s, r: held.wait(60) and exact(s, r), Serving(waiting=1))
    client = TestClient(app, base_url="http://127.0.0.1", headers=KNOWN)
    with client, ThreadPoolExecutor(6) as threads:
        answers = [
            threads.submit(client.post, "/score", content=encode_request("q", *questions(i, 1))) for i in range(6)
        ]
        while sum(a.done() for a in answers) < 4:
            time.sleep(0.01)
        held.set()
        statuses = [a.result().status_code for a in answers]
    assert statuses.count(200) in (1, 2)  # one is scored, one waits, unless all came at once
    assert statuses.count(503) == 6 - statuses.count(200)


@pytest.mark.parametrize("name", ["timeout", "cooldown", "backoff", "patience", "startup"])
def test_what_is_no_time_is_refused_or_it_would_be_waited_for_ever(name):
    with pytest.raises(ValueError, match=f"{name}=nan is no"):
        RequestPolicy(**{name: float("nan")})


def test_a_token_is_sent_and_neither_shown_nor_guessed(monkeypatch):
    for name in ("MMENV_REWARD_TOKEN", "MMENV_REWARD_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    with serving("toys:exact") as server:
        with pytest.raises(RewardError, match=r"401.*; give token=, or set MMENV_REWARD_TOKEN"):
            RemoteReward(server.url)(*questions(0, 1))
        reward = pickle.loads(pickle.dumps(RemoteReward(server.url, token=TOKEN)))
        np.testing.assert_array_equal(reward(*questions(0, 1)), exact(*questions(0, 1)))
        monkeypatch.setenv("MMENV_REWARD_TOKEN", TOKEN)
        with pytest.raises(RewardError, match=r"401.*no list allows this host: add it to MMENV_REWARD_HOSTS"):
            RemoteReward(server.url)(*questions(0, 1))
        monkeypatch.setenv("MMENV_REWARD_HOSTS", server.url)
        assert RemoteReward(server.url)(*questions(0, 1)).shape == (1,)
    assert TOKEN not in repr(reward.connection.policy)


def test_an_address_is_a_reward_of_environments(server):
    venv = gym.make_vec("toy/Colours-v0", num_envs=3, reward=f"{server.url}?patience=7&concurrency=2")
    policy = venv.unwrapped.reward_function.connection.policy
    assert (policy.patience, policy.concurrency) == (7.0, 2)
    venv.reset(options={"sample_index": np.arange(3)})
    _, rewards, terminated, _, _ = venv.step(np.array([1, 1, 1]))
    assert terminated.all()
    samples = [venv.unwrapped.task.sample("train", i) for i in range(3)]
    np.testing.assert_array_equal(rewards.astype(np.float32), exact(samples, [Response("", (1,))] * 3))
    with pytest.raises(ValueError, match=r"'patients'.*patience"):
        gym.make("toy/Colours-v0", reward=f"{server.url}?patients=7")
    for wrong in ({"timeout": 0}, {"concurrency": 0}, {"patience": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RequestPolicy(**wrong)
    with pytest.raises(ValueError, match="not the address"):
        RemoteReward("ftp://somewhere")


def test_a_dead_server_stops_the_run_with_a_checkpoint_and_a_resumed_run_ends_as_if_nothing_had_happened(
    start, tmp_path
):
    def settings(folder, address):
        told = ["--start", start, "--reward", address, "--num-envs", "16", "--eval-episodes", "0", "--no-pictures"]
        told += ["--total-tokens", "2500", "--checkpoint-every", "1000", "--threads", "1"]
        return ["ppo", *told, "--out", str(folder)]

    threads, (whole, broken) = torch.get_num_threads(), (tmp_path / "whole", tmp_path / "broken")
    with serving("toys:exact") as server:
        run = Command("agents", *settings(broken, f"{server.url}?patience=1&backoff=0.05"))
        run.until(lambda: len(files.read_lines(broken / "metrics.jsonl")) >= 3)
        server.kill()
        told = run.ended()
        assert run.code == 1
        assert f"the server at {server.url} gave no valid answer" in told
        assert "resume the run" in told
        done = len(files.read_lines(broken / "metrics.jsonl"))
        assert checkpoints.load_checkpoint(broken)[1]["updates"] == done >= 3
        server.start()
        assert agents(["--resume", str(broken)]) == 0
        assert agents(settings(whole, server.url)) == 0
    torch.set_num_threads(threads)
    wanted, got = (checkpoints.load_checkpoint(f)[0]["policy"] for f in (whole, broken))
    assert all(wanted[k].equal(got[k]) for k in wanted)
