"""The labelling server as its clients meet it: blind order, several people, kills, and who is let in."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from label_pages import LabelServer, QuickServer, begin, write_pairs, write_tone
from rich.console import Console

from mmenv.cli import main
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import read_comparisons
from mmenv.feedback.pages.command import source_digest, stored_number
from mmenv.feedback.pages.config import LabelConfig, LabelOptions
from mmenv.feedback.pages.presentation import labellable, media_file, shown_order
from mmenv.feedback.pages.results import compute, standing
from mmenv.feedback.store import FeedbackStore
from mmenv.serving.guard import Access

TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of 40 items, for tests that take names of their own; anybody may judge each item."""
    folder = tmp_path_factory.mktemp("served")
    audio = write_tone_in(folder)
    with LabelServer(write_pairs(folder, 40, 3, audio=audio), "--overlap", "1000", "--repeats", "0") as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that is open to other machines, and so wants a token."""
    folder = tmp_path_factory.mktemp("guarded")
    given = {"MMENV_LABEL_TOKEN": TOKEN}
    with LabelServer(write_pairs(folder, 3), "--host", "0.0.0.0", environment=given) as server:
        yield server


def write_tone_in(folder):
    folder.mkdir(exist_ok=True)
    return write_tone(folder / "said.wav")


def ask(client, name, queue=()):
    begin(client, name)
    reply = client.post("/api/next", json={"queue": list(queue)})
    assert reply.status_code == 200, reply.text
    return reply.json()["item"]


def say(client, name, item, key, **said):
    begin(client, name)
    return client.post("/api/judgements", json={"item": item, "key": key, **said})


def test_an_item_is_blind_and_its_order_is_of_the_annotator(served):
    with served.client() as client:
        orders = set()
        for name in ("order-a", "order-b", "order-c", "order-d", "order-e", "order-f"):
            item = ask(client, name)
            assert "policies" not in json.dumps(item)
            assert set(item) == {"id", "prompt", "image", "audio", "responses"}
            orders.add(tuple(r["text"] for r in item["responses"]))
            assert ask(client, name) == item
    assert len({tuple(sorted(order)) for order in orders}) == 1
    assert len(orders) > 1


def test_places_on_the_screen_become_the_items_order(served):
    with served.client() as client:
        item = ask(client, "places")
        shown = [r["text"] for r in item["responses"]]
        assert say(client, "places", item["id"], "places-choice", choice=2, seconds=1.5).json()["new"]
        second = ask(client, "places")
        say(client, "places", second["id"], "places-ranking", ranking=[2, 0, 1])
        third = ask(client, "places")
        say(client, "places", third["id"], "places-scores", scores=[5, 1, 3])
    with FeedbackStore(served.database) as store:
        one, two, three = store.judgements("places")
    assert one.responses[one.choice] == shown[2]
    assert [one.responses[i] for i in one.provenance["order"]] == shown
    assert one.provenance["seconds"] == 1.5
    texts = [r["text"] for r in second["responses"]]
    assert [two.responses[i] for i in two.ranking] == [texts[2], texts[0], texts[1]]
    assert dict(zip(three.responses, three.scores)) == {
        r["text"]: score for r, score in zip(third["responses"], (5, 1, 3))
    }


def test_the_same_key_twice_is_one_judgement_and_undo_brings_the_item_back(served):
    with served.client() as client:
        item = ask(client, "twice")
        assert say(client, "twice", item["id"], "twice-key-1", choice=0).json()["new"]
        again = say(client, "twice", item["id"], "twice-key-1", choice=0).json()
        assert not again["new"]
        assert again["counts"]["judged"] == 1
        undone = client.post("/api/undo", json={}).json()
        assert undone["item"] == item
        assert undone["counts"]["judged"] == 0
        assert ask(client, "twice") == item


def test_items_of_the_queue_stay_reserved_and_another_one_comes(served):
    with served.client() as client:
        queue = []
        for _ in range(3):
            queue.append(ask(client, "queue", queue)["id"])
        assert len(set(queue)) == 3
        assert [ask(client, "queue", queue[:k])["id"] for k in range(3)] == queue
        say(client, "queue", queue[0], "queue-key-1", choice="tie")
        assert ask(client, "queue")["id"] == queue[1]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"choice": 3}, 422), ({"choice": -1}, 422), ({"choice": "best"}, 422), ({"choice": True}, 422),
        ({"ranking": [0, 0, 1]}, 422), ({"ranking": [0, 1, 7]}, 422), ({"scores": [1, 2]}, 422),
        ({"scores": [0, 2, 3]}, 422), ({"scores": [1, 2, 6]}, 422), ({}, 422), ({"choice": 0, "skipped": True}, 422),
        ({"choice": 0, "seconds": -1}, 422), ({"choice": 0, "more": 1}, 422), ({"item": 999_999, "choice": 0}, 404),
        ({"item": 2**31 - 1, "choice": 0}, 404), ({"item": 2**70, "choice": 0}, 422),
        ({"key": "short", "choice": 0}, 422),
    ],
)  # fmt: skip
def test_a_judgement_that_cannot_be_is_refused_with_a_reason(served, said, status):
    with served.client() as client:
        begin(client, "wrong")
        body = {"item": 1, "key": "wrong-key-0", **said}
        reply = client.post("/api/judgements", json=body)
    assert reply.status_code == status
    assert reply.json()["detail"]
    with FeedbackStore(served.database) as store:
        assert not store.judgements("wrong")


def test_eight_clients_at_once_never_see_an_item_twice_nor_share_one_beyond_the_overlap(tmp_path):
    with QuickServer(write_pairs(tmp_path, 60), "--overlap", "2", "--repeats", "0") as server:

        def label(number):
            seen = []
            with server.client() as client:
                while (item := ask(client, f"person {number}")) is not None:
                    seen.append(item["id"])
                    key = f"many-{number}-{len(seen)}"
                    assert say(client, f"person {number}", item["id"], key, choice=number % 2).json()["new"]
            return seen

        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(label, range(8)))
    assert all(len(set(items)) == len(items) for items in seen)
    assert set(Counter(i for items in seen for i in items).values()) == {2}


class Persistent:
    """Labels until nothing is left, and sends what was not acknowledged again with the same key."""

    def __init__(self, server, number, acknowledged):
        self.server, self.name, self.acknowledged = server, f"person {number}", acknowledged

    def until_answered(self, send):
        while True:
            try:
                reply = send()
            except httpx.TransportError:
                time.sleep(0.02)
                continue
            assert reply.status_code == 200, reply.text
            return reply.json()

    def __call__(self):
        with self.server.client() as client:
            begin(client, self.name)
            while True:
                item = self.until_answered(lambda: client.post("/api/next", json={}))["item"]
                if item is None:
                    return
                choice, key = item["id"] % 2, f"{self.name}-{item['id']}"
                said = {"item": item["id"], "key": key, "choice": choice}
                self.until_answered(lambda b=said: client.post("/api/judgements", json=b))
                self.acknowledged[self.name, item["id"]] = choice


@pytest.fixture
def quick_folder(tmp_path):
    """In memory where there is such a place: SIGKILL takes the process and not the machine, so a disk adds nothing."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_six_kills_during_three_hundred_labels_lose_and_double_none(quick_folder):
    n, kills = 300, 6
    acknowledged = {}
    with QuickServer(write_pairs(quick_folder, n), "--repeats", "0") as server:
        threads = [threading.Thread(target=Persistent(server, k, acknowledged)) for k in range(8)]
        for thread in threads:
            thread.start()
        for kill in range(kills):
            while len(acknowledged) < (kill + 0.5) * n / kills:
                assert any(t.is_alive() for t in threads)
                time.sleep(0.002)
            server.kill()
            server.start()
        for thread in threads:
            thread.join()
    assert len(acknowledged) == n
    with FeedbackStore(server.database) as store:
        of = {item.comparison.sample_id: item for item in store.items()}
        judgements = store.judgements()
        found = {}
        for judgement in judgements:
            item = of[judgement.sample_id]
            place = shown_order(judgement.annotator, item).index(judgement.choice)
            found[judgement.annotator, item.id] = place
        assert len(judgements) == n
    assert found == acknowledged


def test_the_results_page_and_the_download_tell_what_was_said(tmp_path):
    with QuickServer(write_pairs(tmp_path, 6), "--overlap", "2") as server, server.client() as client:
        begin(client, "ada")
        assert "There are no judgements yet" in client.get("/results").text
        for name in ("ada", "grace"):
            for k in range(6):
                item = ask(client, name)
                texts = [r["text"] for r in item["responses"]]
                best = next(i for i, text in enumerate(texts) if text.startswith("answer a") == (k != 5))
                say(client, name, item["id"], f"{name}-result-{k}", choice=best, seconds=2)
        begun, page = time.monotonic(), ""
        while "83%" not in page:  # a page shows the results before, where the new ones take longer than it waits
            assert time.monotonic() - begun < 120
            page = client.get("/results").text
        assert "17%" in page
        assert "1.00" in page
        rows = [json.loads(line) for line in client.get("/results.jsonl").text.splitlines()]
        standing = client.get("/api/standing").json()
    assert len(rows) == 12
    assert {row["annotator"] for row in rows} == {"ada", "grace"}
    assert standing == {"pace": 2.0, "self_agreement": None, "repeats": 0, "alpha": 1.0, "same": 1.0}


def test_what_comes_again_stands_in_the_opposite_order_and_the_page_tells_of_places(tmp_path):
    """Somebody who always takes what stands first."""
    with QuickServer(write_pairs(tmp_path, 40), "--repeats", "0.9") as server, server.client() as client:
        shown = {}
        while (item := ask(client, "ada")) is not None:
            shown.setdefault(item["id"], []).append([r["text"] for r in item["responses"]])
            say(client, "ada", item["id"], f"place-{item['id']}-{len(shown[item['id']])}", choice=0)
        page = " ".join(client.get("/results").text.split())
        rows = [json.loads(line) for line in client.get("/results.jsonl").text.splitlines()]
    again = [orders for orders in shown.values() if len(orders) > 1]
    assert len(again) > 10
    assert all(first == second[::-1] for first, second in again)
    assert all(row["choice"] == row["provenance"]["order"][0] for row in rows)
    assert f"won <b>100%</b> of {len(rows)} choices" in page
    assert f"Of {len(again)} items that came again in the opposite order, <b>0%</b> were judged as before" in page


def test_own_agreement_comes_from_items_that_came_again(tmp_path):
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.add(read_comparisons(write_pairs(tmp_path, 60)).comparisons, tmp_path)
        for k in range(60):
            item = store.next("ada", 1, 0.5)
            store.record(item.id, "ada", f"again-{k}", choice=0, seconds=k)
        found = standing(compute(store.judgement_records(), store.changes()), "ada")
    assert found["self_agreement"] == 1.0
    assert found["repeats"] > 10
    assert found["pace"] == pytest.approx(34.5)  # the median of the latest fifty
    assert found["alpha"] is None


# ---- who is let in


def test_another_host_name_is_refused(served):
    with httpx.Client(base_url=served.url) as client:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.1.9", "", "127.0.0.1@evil"):
            assert client.get("/login", headers={"host": host}).status_code in (400, 421), host
        for host in ("127.0.0.1", f"localhost:{served.port}", "[::1]:9000"):
            assert client.get("/login", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize("path", ["/api/next", "/api/judgements", "/api/undo", "/name", "/login", "/nothing"])
@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:1", "http://localhost"])
def test_a_post_from_another_origin_is_refused(served, path, origin):
    with served.client() as client:
        del client.headers["origin"]
        headers = {} if origin is None else {"origin": origin}
        assert client.post(path, json={}, data=None, headers=headers).status_code == 403


def test_a_large_body_is_refused_whatever_its_header_says(served):
    def pieces():
        for _ in range(70):
            yield b" " * 1024

    with served.client() as client:
        begin(client, "large")
        assert client.post("/api/next", content=b"x" * 70_000).status_code == 413
        assert client.post("/api/next", content=pieces()).status_code == 413
        assert client.post("/api/next", content=b"x" * 60_000).status_code == 422


def test_pages_carry_the_headers_that_keep_others_out(served):
    with served.client() as client:
        item = ask(client, "headers")
        for path in ("/", "/label", "/results", "/static/label.js", item["image"], item["audio"], "/nothing"):
            headers = client.get(path, follow_redirects=True).headers
            assert headers["x-content-type-options"] == "nosniff"
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            assert "*" not in policy
        assert "server" not in client.get("/").headers
        assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_media_have_fixed_types_and_parts_of_them_can_be_asked_for(served):
    with served.client() as client:
        item = ask(client, "media")
        assert client.get(item["image"]).headers["content-type"] == "image/png"
        sound = client.get(item["audio"], headers={"range": "bytes=0-99"})
        assert sound.status_code == 206
        assert sound.headers["content-type"] == "audio/wav"
        for path in ("/media/1/spoken-0", "/media/1/secret", "/media/99999/image", "/static/..%2fserver.py"):
            assert client.get(path).status_code == 404, path
        assert client.get("/media/1/..%2f..%2fpairs.jsonl").status_code == 404


def test_media_come_from_the_items_folder_alone(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "secret.png"
    write_pairs(inside, 2)
    shutil.copy(inside / "0.png", outside)
    with FeedbackStore(inside / "feedback.db") as store:
        ids = store.add(read_comparisons(inside / "pairs.jsonl").comparisons, inside)
        (inside / "0.png").unlink()
        (inside / "0.png").symlink_to(outside)
        with pytest.raises(ValueError, match="leaves the folder"):
            media_file(store.item(ids[0]), "image")
        (inside / "1.png").rename(inside / "1.svg")
        with pytest.raises(ValueError, match="is no file"):
            media_file(store.item(ids[1]), "image")


@pytest.mark.parametrize("where", ["served", "guarded"])
def test_everything_wants_the_token_on_loopback_too(request, where):
    server = request.getfixturevalue(where)
    assert server.printed.endswith(f"/login#{server.token}")
    with server.stranger() as client:
        for path in ("/", "/results", "/results.jsonl", "/api/standing", "/media/1/image", "/nothing", "/login/x"):
            assert client.get(path).status_code == 401, path
        for path in ("/api/next", "/api/judgements", "/api/undo", "/name"):
            assert client.post(path, json={}).status_code == 401, path
        assert 'name="token"' in client.get("/label").text
        page = client.get("/", headers={"accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/login")
        wrong = client.post("/login", data={"token": server.token + "x"})
        assert wrong.status_code == 403
        assert "set-cookie" not in wrong.headers
        right = client.post("/login", data={"token": server.token})
        cookie = right.headers["set-cookie"]
        assert right.status_code == 303
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert server.token not in cookie
        assert client.get("/").status_code == 200
        assert client.post("/api/next", json={}).status_code == 401  # nobody knows yet who it is
        assert ask(client, "a")["prompt"]
        assert client.post("/logout").status_code == 303
        assert client.get("/").status_code == 401


def test_beyond_loopback_a_name_that_was_rebound_is_refused(guarded):
    with httpx.Client(base_url=guarded.url) as client:
        assert client.get("/login", headers={"host": "evil.example"}).status_code == 421
        assert client.get("/login", headers={"host": "192.168.1.9:80"}).status_code == 200


def test_https_sets_secure_cookies(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl was not found: apt-get install openssl")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=localhost"
    subprocess.run(command.split(), check=True, capture_output=True)
    options = ("--host", "0.0.0.0", "--certificate", certificate, "--private-key", key)
    pairs = write_pairs(tmp_path, 2)
    with LabelServer(pairs, *options, environment={"MMENV_LABEL_TOKEN": TOKEN}) as server:
        assert server.printed.startswith("https://")
        with server.stranger(verify=False) as client:
            cookie = client.post("/login", data={"token": TOKEN}).headers["set-cookie"]
            assert "Secure" in cookie
            assert "Secure" in client.post("/name", data={"name": "ada"}).headers["set-cookie"]


def test_no_address_beyond_loopback_goes_without_a_token():
    with pytest.raises(ValueError, match="give a token"):
        Access(host="192.168.1.9")


# ---- the command


def label(*words):
    console = Console(file=io.StringIO(), width=200)
    return main(["label", *map(str, words)], console), console.file.getvalue()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mode", "compare", "--repeats", "2"), "repeats 2.0 is not a share"),
        (("--overlap", "0"), "overlap=0 is too small"),
        (("--host", "203.0.113.9"), "cannot listen at 203.0.113.9"),
        (("--port", "80000"), "port 80000 does not exist"),
        (("--port", "-1"), "port -1 does not exist"),
        (("--store", "mysql://somewhere/else"), "is not a supported database"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(tmp_path, capsys, options, said):
    code, _ = label("--pairs", write_pairs(tmp_path, 2), *(() if "--port" in options else ("--port", "0")), *options)
    error = capsys.readouterr().err
    assert code == 1
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_named(tmp_path, capsys, served):
    code, _ = label("--pairs", write_pairs(tmp_path, 2), "--port", served.port)
    assert code == 1
    assert f"port {served.port}" in capsys.readouterr().err


def test_bad_lines_are_listed_and_good_ones_are_served(tmp_path):
    pairs = write_pairs(tmp_path, 3)
    with pairs.open("a") as file:
        file.write('{"sample_id": "half", "prompt"\n{"sample_id": "none", "prompt": "", "responses": []}\n')
    with QuickServer(pairs) as server, server.client() as client:
        said = "".join(server.said)
        assert "line 4 left out" in said
        assert "line 5 left out" in said
        assert "3 to label" in said
        assert ask(client, "ada")["prompt"] == "question 0 ?"


def test_half_a_character_in_a_file_stops_nobody(tmp_path):
    half = {"sample_id": "a", "prompt": "\ud83d", "responses": ["x\udc00", "y"]}
    half["provenance"] = {"policies": ["\ud83d", "b"]}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(half))
    with QuickServer(tmp_path / "pairs.jsonl") as server, server.client() as client:
        item = ask(client, "ada")
        assert item["prompt"] == "\ufffd"
        assert say(client, "ada", item["id"], "half-key-1", choice=0).json()["new"]
        assert client.get("/results").status_code == 200
        assert json.loads(client.get("/results.jsonl").text)["prompt"] == "\ud83d"


def test_a_run_is_labelled_by_its_samples_and_the_labels_stay_beside_it(tmp_path):
    write_pairs(tmp_path, 2).rename(tmp_path / "samples.jsonl")
    command = [sys.executable, "-m", "mmenv", "label", "--run", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[2].startswith("open http://127.0.0.1:")
        assert (tmp_path / "feedback.db").exists()
    finally:
        process.terminate()
        process.wait(10)


def test_a_run_that_is_not_there_is_an_error_and_makes_nothing(tmp_path, capsys):
    assert label("--run", tmp_path / "none", "--port", "0")[0] == 1
    assert "none/samples.jsonl is no file" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_file_with_nothing_to_choose_between_is_an_error(tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text('{"sample_id": "a", "prompt": "?", "responses": ["same", "same"]}\n')
    code, said = label("--pairs", tmp_path / "pairs.jsonl", "--port", "0")
    assert code == 1
    assert "1 of 1 left out" in said
    assert "nothing to label" in capsys.readouterr().err


def test_media_that_browsers_cannot_show_are_named_before_anybody_waits(tmp_path, capsys):
    write_pairs(tmp_path, 1)
    (tmp_path / "picture.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    write_pairs(tmp_path, 1, image="picture.svg")
    code, _ = label("--pairs", tmp_path / "pairs.jsonl", "--port", "0")
    assert code == 1
    assert ".svg" in capsys.readouterr().err


def test_responses_that_differ_in_sound_alone_are_labellable(tmp_path):
    same = Comparison("a", "?", ("yes", "yes"))
    spoken = Comparison("b", "?", ("yes", "yes"), provenance={"spoken": ["a.wav", "b.wav"]})
    assert labellable([same, spoken], "compare") == [spoken]
    assert labellable([same, spoken], "score") == [same, spoken]


def test_a_mode_that_is_unknown_is_named():
    with pytest.raises(ValueError, match="mode='guess' is unknown"):
        LabelConfig(mode="guess")


def test_a_path_with_markup_is_shown_as_it_is(tmp_path, capsys):
    folder = tmp_path / "a[/b]c"
    folder.mkdir(parents=True)
    lines = ('{"sample_id": "[/z]"}', '{"sample_id": "a", "prompt": "?", "responses": ["s", "s"]}')
    (folder / "[red].jsonl").write_text("\n".join(lines))
    code, said = label("--pairs", folder / "[red].jsonl", "--port", "0")
    assert code == 1
    assert f"{folder}/[red].jsonl, line 1 left out" in said
    assert f"{folder}/[red].jsonl holds nothing to label" in capsys.readouterr().err


def test_a_store_from_elsewhere_shows_no_media_of_a_folder_that_nobody_named(tmp_path, capsys):
    pairs = write_pairs(tmp_path / "run", 2)
    write_pairs(tmp_path / "private", 1)
    with FeedbackStore(tmp_path / "run" / "feedback.db") as store:
        store.add([Comparison("theirs", "?", ("x", "y"), image="0.png")], tmp_path / "private")
    assert label("--pairs", pairs, "--port", "0")[0] == 1
    assert f"give --media {tmp_path}/private to show them" in capsys.readouterr().err
    with QuickServer(pairs, "--media", str(tmp_path / "private")) as server, server.client() as client:
        assert client.get("/media/1/image").status_code == 200


def test_an_empty_token_file_is_refused_at_the_start(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MMENV_LABEL_TOKEN", raising=False)
    (tmp_path / "feedback.db.token").touch(mode=0o600)
    assert label("--pairs", write_pairs(tmp_path, 1), "--port", "0")[0] == 1
    error = capsys.readouterr().err
    assert "feedback.db.token has 0 characters" in error
    assert "delete the file" in error
    assert not (tmp_path / "feedback.db").exists()


def test_a_file_that_the_store_has_whole_is_not_read_again(tmp_path):
    served = LabelOptions(pairs=write_pairs(tmp_path, 3))
    assert stored_number(served) is None
    assert not (tmp_path / "feedback.db").exists()
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.record_source(source_digest(served), 3)
    assert stored_number(served) == 3
    assert stored_number(replace(served, mode="rank")) is None
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert stored_number(replace(served, pairs=moved / "pairs.jsonl")) == 3
    write_pairs(moved, 4)
    assert stored_number(replace(served, pairs=moved / "pairs.jsonl")) is None


def test_clients_that_send_nothing_hold_nobody_up(tmp_path):
    """More half-open connections than the server holds; the limit itself is tested with the protocol."""
    with LabelServer(write_pairs(tmp_path, 2)) as server, ExitStack() as idle:
        for _ in range(600):
            half = idle.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            half.sendall(b"POST /api/next HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{")
        with server.client() as client:
            assert ask(client, "ada")["prompt"]
        assert not [line for line in server.said if "Traceback" in line]
