"""Who gets in to the labelling pages, under which name, and what an odd request is answered; without a process."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from label_pages import wait_until

from mmenv.feedback.comparison import Comparison, ComparisonError
from mmenv.feedback.pages import results, secret_files
from mmenv.feedback.pages import sessions as sign_in
from mmenv.feedback.pages.config import LabelConfig
from mmenv.feedback.pages.results import ResultsCache
from mmenv.feedback.pages.secret_files import session_key_of, token_of
from mmenv.feedback.pages.server import create_label_app
from mmenv.feedback.pages.sessions import FailedLogins, Session, Sessions
from mmenv.feedback.store import FeedbackStore
from mmenv.feedback.store.annotators import checked_name
from mmenv.serving.guard import Access, check_token, cookies_of

TOKEN = "a-token-of-the-tests-0123456789"
URL = "http://127.0.0.1:8765"


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "feedback.db") as opened:
        provenance = {"policies": ["the old one", "the new one"]}
        opened.add(Comparison(f"s{i}", "what ?", ("x", "y"), provenance=provenance) for i in range(4))
        yield opened


@pytest.fixture
def sessions():
    return Sessions(Access(token=TOKEN), 8765, "a-key-of-the-tests-0123456789")


def browser(store, sessions, session=None, config=None):
    """A client with a session, as its cookie."""
    headers = {"origin": URL}
    if session is not None:
        headers["cookie"] = f"{sessions.cookie}={sessions.write(session)}"
    app = create_label_app(store, config or LabelConfig(repeats=0), sessions.access, sessions)
    return TestClient(app, base_url=URL, follow_redirects=False, headers=headers)


@pytest.fixture
def ada(store, sessions):
    return browser(store, sessions, Session("ada"))


# ---- cookies

ODD = (
    'theme={"dark":true}',
    "list[1]=2",
    "source=(not set)",
    "flag",
    "=",
    ";;",
    "a=b=c",
    'q="un',
    "é=ü",
    "x=\x7f",
    "@=@",
)


@pytest.mark.parametrize("odd", ODD)
def test_cookies_of_other_programs_on_the_host_are_skipped(store, sessions, odd):
    client = browser(store, sessions)
    own = f"{sessions.cookie}={sessions.write(Session('ada'))}"
    for header in (f"{odd}; {own}", f"{own}; {odd}", f"{odd};{own};{odd}"):
        reply = client.get("/label", headers={"cookie": header.encode("latin-1")})
        assert reply.status_code == 200
        assert 'data-annotator="ada"' in reply.text


def test_of_cookies_of_one_name_that_counts_which_was_signed_here(sessions):
    assert cookies_of("a=1; b=2; a=3", "a") == ["1", "3"]
    assert cookies_of("", "a") == []
    own = f"{sessions.cookie}={sessions.write(Session('ada'))}"
    for other in (f"{sessions.cookie}=x.y", f"{sessions.cookie}=", f'{sessions.cookie}="', sessions.cookie):
        assert sessions.read(f"{other}; {own}") == sessions.read(f"{own}; {other}") == Session("ada")


def test_two_servers_of_one_host_do_not_sign_each_other_out(store):
    one, two = (Sessions(Access(token=TOKEN), port) for port in (8765, 8766))
    jar = f"{one.cookie}={one.write(Session('ada'))}; {two.cookie}={two.write(Session('grace'))}"
    assert (one.read(jar), two.read(jar)) == (Session("ada"), Session("grace"))


def test_a_session_that_was_not_signed_here_is_none(sessions):
    good = sessions.write(Session("ada"))
    content, _, signature = good.partition(".")
    other_key = Sessions(sessions.access, 8765, "another-key-of-the-tests-0123456789")
    other_token = Sessions(Access(token=TOKEN[::-1]), 8765, "a-key-of-the-tests-0123456789")
    forged = other_key.write(Session("ada", owner=True))
    foreign = other_token.write(Session("ada"))
    swapped = f"{forged.partition('.')[0]}.{signature}"
    bad = ["", ".", content, f"{content}.", f".{signature}", f"{content}x.{signature}", good[:-1], good + "x", "ada"]
    for value in (*bad, swapped, forged, foreign, "\xff.\xff"):
        assert sessions.read(f"{sessions.cookie}={value}") is None, value
    assert sessions.read(f"{sessions.cookie}={good}") == Session("ada")
    assert sessions.read(f'{sessions.cookie}="{good}"') == Session("ada")


def test_whose_answer_it_is_says_the_session_and_not_the_body(store, sessions, ada):
    grace = browser(store, sessions, Session("grace"))
    mine = ada.post("/api/next", json={}).json()["item"]
    said = {"item": mine["id"], "key": "a key of ada", "choice": 0}
    assert ada.post("/api/judgements", json={**said, "annotator": "grace"}).status_code == 409
    assert ada.post("/api/judgements", json={**said, "annotator": "ada"}).json()["new"]
    assert grace.post("/api/undo", json={"annotator": "ada"}).status_code == 409
    assert grace.post("/api/undo", json={}).json()["item"] is None
    assert [j.annotator for j in store.judgements()] == ["ada"]
    assert "grace" not in [name for name, _, _ in store.annotator_totals()]


def test_an_application_made_without_access_is_not_open(store):
    client = TestClient(create_label_app(store), base_url=URL, headers={"origin": URL})
    tokenless = TestClient(create_label_app(store, access=Access()), base_url=URL, headers={"origin": URL})
    for one in (client, tokenless):
        assert one.get("/").status_code == 401
        assert one.post("/login", data={"token": ""}).status_code == 403


# ---- tokens


@pytest.mark.parametrize(
    "token", ["", " ", "short", "x" * 19, "x" * 40, "ab" * 20, " " * 40, "é" * 40, TOKEN + "\n", f"{TOKEN} {TOKEN}"]
)
def test_a_token_that_could_be_guessed_or_sent_wrongly_is_refused(token):
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(ValueError, match=r"could be guessed|cannot carry"):
            Access(host=host, token=token)


def test_the_token_stays_over_a_restart_and_only_its_owner_can_read_it(tmp_path, monkeypatch):
    monkeypatch.delenv("MMENV_LABEL_TOKEN", raising=False)
    database = str(tmp_path / "feedback.db")
    token, told = token_of(database)
    assert len(token) >= 40
    assert told is None
    assert token_of(database) == (token, None)
    assert session_key_of(database) == session_key_of(database) != token
    for name in ("token", "key"):
        assert (tmp_path / f"feedback.db.{name}").stat().st_mode & 0o077 == 0
    assert len([*tmp_path.iterdir()]) == 2
    monkeypatch.setenv("MMENV_LABEL_TOKEN", "short")
    with pytest.raises(ValueError, match="MMENV_LABEL_TOKEN has 5 characters"):
        token_of(database)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"x", b"too short", b"a" * 60, b"\xff" * 60, b"two words " * 6 + b"\x00"]
)
@pytest.mark.parametrize("kind", ["token", "key"])
def test_a_file_whose_secret_will_not_do_is_refused_with_the_remedy(tmp_path, monkeypatch, content, kind):
    monkeypatch.delenv("MMENV_LABEL_TOKEN", raising=False)
    path = tmp_path / f"feedback.db.{kind}"
    path.touch(mode=0o600)
    path.write_bytes(content)
    make = {"token": token_of, "key": session_key_of}[kind]
    with pytest.raises(ValueError, match=rf"feedback\.db\.{kind} has .*delete the file"):
        make(str(tmp_path / "feedback.db"))
    assert path.read_bytes() == content


def test_a_secret_that_others_could_read_is_replaced_and_they_are_told(tmp_path, monkeypatch):
    monkeypatch.delenv("MMENV_LABEL_TOKEN", raising=False)
    path = tmp_path / "feedback.db.token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    token, told = token_of(str(tmp_path / "feedback.db"))
    assert token != TOKEN
    assert "could be read by others" in told
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_in_the_place_of_a_secret_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.delenv("MMENV_LABEL_TOKEN", raising=False)
    private = tmp_path / "id_rsa"
    private.touch(mode=0o600)
    private.write_text("a-private-key-of-somebody-0123456789")
    for target in (private, tmp_path / "nothing"):
        (tmp_path / "feedback.db.token").symlink_to(target)
        with pytest.raises(ValueError, match="is no plain file: delete it"):
            token_of(str(tmp_path / "feedback.db"))
        (tmp_path / "feedback.db.token").unlink()


def test_a_full_disk_leaves_no_half_of_a_secret(tmp_path, monkeypatch):
    monkeypatch.delenv("MMENV_LABEL_TOKEN", raising=False)

    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(secret_files.os, "fsync", full)
        with pytest.raises(ValueError, match="No space left"):
            token_of(str(tmp_path / "feedback.db"))
    assert not [*tmp_path.iterdir()]
    assert len(token_of(str(tmp_path / "feedback.db"))[0]) >= 40


def test_two_who_start_at_once_agree_on_the_secret(tmp_path, monkeypatch):
    monkeypatch.delenv("MMENV_LABEL_TOKEN", raising=False)
    found = []
    threads = [threading.Thread(target=lambda: found.append(token_of(str(tmp_path / "f.db"))[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


def test_wrong_tokens_are_logged_and_after_ten_an_address_waits(store, sessions, caplog):
    client = browser(store, sessions)
    with caplog.at_level(logging.WARNING):
        codes = [client.post("/login", data={"token": f"wrong {i}"}).status_code for i in range(12)]
    assert codes == [403] * 10 + [429] * 2
    assert len([r for r in caplog.records if "wrong token from testclient" in r.message]) == 10
    assert not [r for r in caplog.records if "wrong 1" in r.message]
    assert client.post("/login", data={"token": TOKEN}).status_code == 429
    assert browser(store, sessions, Session("ada")).get("/").status_code == 200  # a session goes on


def test_wrong_tokens_are_forgotten_after_a_while_and_many_addresses_wait_together(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sign_in, "time", SimpleNamespace(monotonic=lambda: now[0]))
    attempts = FailedLogins(per_address=2, total=4, seconds=60.0)
    attempts.add("a")
    attempts.add("a")
    assert attempts.blocks("a")
    assert not attempts.blocks("b")
    attempts.add("b")
    attempts.add("c")
    assert attempts.blocks("d")
    now[0] = 61.0
    assert not attempts.blocks("a")
    assert not attempts.failed


# ---- requests that are odd


@pytest.mark.parametrize(
    "host", ["[", "]", "[::1", "a]b[", "[]", "127.0.0.1:x", "127.0.0.1:99999999", "a b", "", "[::ffff:1", "::1]"]
)
def test_a_host_that_is_none_is_refused(store, sessions, host):
    for path in ("/login", "/", "/static/label.css"):
        assert browser(store, sessions).get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "body",
    [
        b'{"queue": [NaN]}', b'{"queue": [100000000000000000000]}', b'{"queue": [9223372036854775808]}',
        b'{"queue": [2147483648]}', b'{"annotator": "\\ud800"}', b'{"annotator": NaN}', b"{" * 5000,
        b"[" * 50_000, b"\xff", b"", b'{"seconds": 1e400}',
        b"null", b"NaN", b"1" * 5000, b'{"queue": [' + b"9" * 5000 + b"]}", b'{"more\\ud800": 1}', b'{"queue": [-1]}',
    ],
)  # fmt: skip
def test_a_body_that_says_nothing_of_use_is_a_client_error(ada, body):
    for path in ("/api/next", "/api/undo", "/api/judgements"):
        reply = ada.post(path, content=body, headers={"content-type": "application/json"})
        assert 400 <= reply.status_code < 500, (path, reply.text)
        assert reply.json()["detail"]


@pytest.mark.parametrize(
    "seconds", ["1e400", "NaN", "-1", "Infinity", "1" + "0" * 400, '"\\ud800"', "true", "[]", "1e300"]
)
def test_seconds_that_are_no_time_are_a_client_error(ada, seconds):
    body = f'{{"item": 1, "key": "a key of ada", "choice": 0, "seconds": {seconds}}}'
    reply = ada.post("/api/judgements", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 422


@pytest.mark.parametrize("name", ["", " ", "\u200d", "\u200c \u200d", "a\0b", "a\u202eb", "x" * 81, "\ud800", "\ufffe"])
def test_a_name_that_is_none_is_refused_and_said(store, sessions, name):
    client = browser(store, sessions, Session())
    content = f"name={''.join(f'%{b:02x}' for b in name.encode('utf-8', 'surrogatepass'))}"
    reply = client.post("/name", content=content, headers={"content-type": "application/x-www-form-urlencoded"})
    if name != "\ud800":  # a decoder makes a character of its own of it
        assert reply.status_code == 422
        assert "Please give a name" in reply.text
    assert reply.status_code < 500


@pytest.mark.parametrize("name", ["👩‍👩‍👧", "می‌خواهم", "José", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "日本", "Ada Lovelace", "क्‍ष"])
def test_names_of_any_script_and_emoji_are_names(store, sessions, name):
    client = browser(store, sessions, Session())
    reply = client.post("/name", data={"name": f"  {name} "})
    assert reply.status_code == 303
    client.headers["cookie"] = reply.headers["set-cookie"].partition(";")[0]
    assert client.post("/api/next", json={}).json()["item"]
    assert store.annotators() == [checked_name(name)]


def test_a_letter_with_its_accent_and_an_accent_by_itself_are_one_person(store):
    composed, apart = "Jos\u00e9", "Jose\u0301"
    item = store.next(composed)
    assert store.next(apart) == item
    assert store.record(item.id, apart, "k1", choice=0)
    assert not store.record(item.id, composed, "k2", choice=1)
    assert store.annotators() == [composed]
    assert store.counts(apart).judged == store.counts(composed + "\u200d").judged == 1
    assert [j.annotator for j in store.judgements(apart)] == [composed]
    assert store.undo(apart).id == item.id


def test_a_name_is_refused_by_the_store_too(store):
    for name in ("", "\u200d", "a\nb"):
        with pytest.raises(ComparisonError, match="printable"):
            store.next(name)


def test_two_origins_are_none(store, sessions, ada):
    for pair in ((URL, "https://evil.example"), ("https://evil.example", URL), (URL, URL)):
        headers = [("origin", origin) for origin in pair] + [("cookie", ada.headers["cookie"])]
        client = browser(store, sessions)
        del client.headers["origin"]
        assert client.post("/api/next", json={}, headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["/results", "/results.jsonl", "/api/standing", "/media/1/image", "/", "/label"])
def test_what_the_page_of_somebody_else_asks_for_is_refused(ada, path):
    for site in ("cross-site", "same-site", "strange"):
        for more in (
            {},
            {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
            {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        ):
            assert ada.get(path, headers={"sec-fetch-site": site, **more}).status_code == 403
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert ada.get(path, headers=followed).status_code != 403 or path == "/results.jsonl"
    for site in ("none", "same-origin"):
        assert ada.get(path, headers={"sec-fetch-site": site}).status_code != 403 or path == "/results.jsonl"


# ---- results


def test_who_wins_is_hidden_from_those_who_still_judge(store, sessions, ada):
    owner = browser(store, sessions, Session(owner=True))
    nobody = browser(store, sessions, Session())
    for k in range(4):
        for client in (ada, nobody):
            page = client.get("/results").text
            assert "the old one" not in page
            assert "Win rates" in page or not k
            assert client.get("/results.jsonl").status_code == 403
        item = ada.post("/api/next", json={}).json()["item"]
        ada.post("/api/judgements", json={"item": item["id"], "key": f"a key of ada {k}", "choice": 0})
        assert "the old one" in owner.get("/results").text
        assert owner.get("/results.jsonl").text.count("\n") == k + 1
    for client in (ada, nobody):
        assert "the old one" in client.get("/results").text
        assert client.get("/results.jsonl").text.count("\n") == 4


def test_who_has_nothing_left_sees_results_though_others_judge_on(store, sessions, ada):
    shared = LabelConfig(overlap=2, repeats=0)
    for item in store.items():
        store.record(item.id, "ada", f"k{item.id}", choice=0)
    assert "the old one" in browser(store, sessions, Session("ada"), shared).get("/results").text
    assert "the old one" not in browser(store, sessions, Session("grace"), shared).get("/results").text


def test_the_owners_token_is_no_annotators(store, sessions):
    client = browser(store, sessions)
    reply = client.post("/login", data={"token": sessions.owner_token})
    assert (reply.status_code, reply.headers["location"]) == (303, "/results")
    assert sessions.read(reply.headers["set-cookie"]).owner
    reply = browser(store, sessions).post("/login", data={"token": TOKEN})
    assert sessions.read(reply.headers["set-cookie"]) == Session()


class Counting:
    """A store that counts how often all judgements are read, and gives them once it is allowed to."""

    def __init__(self, store):
        self.store, self.reads, self.allowed = store, 0, threading.Event()

    def changes(self):
        return self.store.changes()

    def judgement_records(self):
        self.reads += 1
        assert self.allowed.wait(60)
        return self.store.judgement_records()


def test_results_are_computed_once_however_many_ask(store):
    counting = Counting(store)
    cache = ResultsCache(counting)

    async def crowd():
        asking = [asyncio.create_task(cache.current(60.0)) for _ in range(40)]
        await asyncio.sleep(0.05)
        counting.allowed.set()
        return await asyncio.gather(*asking)

    found = asyncio.run(crowd())
    assert counting.reads == 1
    assert all(one is found[0] for one in found)
    asyncio.run(crowd())
    assert counting.reads == 1  # nothing has changed
    store.record(1, "ada", "k", choice=0)
    counting.allowed.clear()
    assert asyncio.run(cache.current(0.02)) is found[0]  # what is there, while fresh ones are computed
    counting.allowed.set()
    assert asyncio.run(cache.current(60.0)).changes > found[0].changes


def test_a_database_that_fails_leaves_the_results_that_are_there(store, caplog):
    cache = ResultsCache(store)
    first = asyncio.run(cache.current(60.0))

    def fail():
        raise results.StoreError("it is gone")

    cache._due = 0.0
    cache.store = type("Broken", (), {"changes": lambda _: 99, "judgement_records": lambda _: fail()})()
    assert asyncio.run(cache.current(0.2)) is first
    wait_until(lambda: "it is gone" in caplog.text)


def test_check_token_shows_one_that_would_do():
    with pytest.raises(ValueError) as caught:
        check_token("short")
    check_token(str(caught.value).rpartition(" ")[2])
