"""The feedback store, on SQLite and on a PostgreSQL that the tests start: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from postgres import Server, program

from mmenv.data.media import DatasetError
from mmenv.feedback.comparison import TIE, Comparison, ComparisonError
from mmenv.feedback.store import Counts, FeedbackStore, StoreConfig, StoreError, schema
from mmenv.feedback.store.database import POSTGRES_LOCK, open_engine

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """A new database of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "feedback.db")
    return request.getfixturevalue("server").database()


@pytest.fixture
def store(url):
    with FeedbackStore(url, StoreConfig(seed=0)) as opened:
        yield opened


def pairs(n, **changes):
    provenance = {"policy": "ppo", "checkpoint": "round-1", "seed": 3}
    return [Comparison(f"s{i}", "what is it ?", ("a dog", "a cat"), provenance=provenance, **changes) for i in range(n)]


def label(store, annotator, overlap=1, repeats=0.0, **said):
    """Judge what is next; the item, or None at the end."""
    item = store.next(annotator, overlap, repeats)
    if item is not None:
        key = f"{annotator}-{item.id}-{time.monotonic_ns()}"
        assert store.record(item.id, annotator, key, **(said or {"choice": 0}))
    return item


def test_the_tests_take_debians_newest_postgresql_and_then_the_path(tmp_path, monkeypatch):
    for folder in ("9", "15", "99-old", "15.backup"):
        (tmp_path / folder / "bin").mkdir(parents=True)
        (tmp_path / folder / "bin" / "initdb").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "9" / "bin"))
    assert program("initdb", tmp_path) == tmp_path / "15" / "bin" / "initdb"
    assert program("initdb", tmp_path / "nothing") == tmp_path / "9" / "bin" / "initdb"
    assert program("pg_ctl", tmp_path) is None


# Adding


def test_the_same_content_is_the_same_item_in_whatever_order_it_comes(store):
    first = store.add(pairs(5))
    assert store.add(reversed(pairs(5))) == first[::-1]
    assert store.add([*pairs(5), *pairs(6)]) == [*first, *first, first[-1] + 1]
    assert [item.comparison for item in store.items()] == pairs(6)
    assert store.item(first[2]).comparison == pairs(5)[2]


def test_an_item_is_undecided_whatever_was_said_of_it_before(store):
    ids = store.add([replace(pairs(1)[0], choice=1, annotator="ann", created="2026-01-01T00:00:00Z")])
    assert store.item(ids[0]).comparison == pairs(1)[0]
    assert store.judgements() == []


def test_scores_of_a_runs_reward_are_kept_as_provenance_and_not_as_a_judgement(store):
    scored = replace(pairs(1)[0], scores=(0.25, 1.5))
    item = store.item(store.add([scored])[0])
    assert item.comparison.provenance["reward_scores"] == [0.25, 1.5]
    assert store.add([replace(scored, scores=(0.26, 1.5))]) == [item.id]
    label(store, "ann", choice=1)
    assert store.judgements()[0].scores is None


def test_media_make_an_item_by_their_content_and_not_by_their_path(store, tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(content)
    one = pairs(1, image="x.png")
    ids = [store.add(one, tmp_path / name)[0] for name in "abc"]
    assert ids[0] == ids[1] != ids[2]
    assert store.item(ids[0]).folder == tmp_path / "a"


def test_media_are_found_when_a_run_moves_with_its_store(tmp_path):
    run = tmp_path / "run"
    for folder in (run, run / "round-0"):
        folder.mkdir()
        (folder / "x.png").write_bytes(str(folder).encode())
    with FeedbackStore(run / "feedback.db") as store:
        ids = [store.add(pairs(1, image="x.png"), folder)[0] for folder in (run, run / "round-0")]
    run.rename(tmp_path / "moved")
    with FeedbackStore(tmp_path / "moved" / "feedback.db") as store:
        folders = [store.item(i).folder for i in ids]
    assert folders == [tmp_path / "moved", tmp_path / "moved" / "round-0"]
    assert all((folder / "x.png").is_file() for folder in folders)


def test_media_that_lie_elsewhere_are_found_where_they_were_or_were_last_seen(store, tmp_path):
    """As in a store made before folders were relative to it. Added again, an item whose folder is gone is found."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"one")
    one = pairs(1, image="x.png")
    (number,) = store.add(one, tmp_path / "a")
    with store._writing() as connection:
        connection.execute(sqlalchemy.update(schema.items).values(folder=str(tmp_path / "a")))
    assert store.item(number).folder == tmp_path / "a"
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b" / "x.png").rename(tmp_path / "b" / "y.png")
    assert store.add(pairs(1, image="y.png"), tmp_path / "b") == [number]
    found = store.item(number)
    assert (found.folder / found.comparison.image).read_bytes() == b"one"


def test_media_outside_the_folder_are_refused_and_nothing_is_added(store, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(DatasetError, match="leaves the folder"):
            store.add([*pairs(1), *pairs(1, image=path)], tmp_path / "in")
    assert store.items() == []


def test_text_of_any_kind_comes_back_unchanged(store):
    odd = ("\0 nul", "\ud800 half a pair", "<script>", "'; DROP TABLE feedback_items; --", "日本語 🐕")
    item = store.item(store.add([Comparison("s\0", "\u2028", odd)])[0])
    assert item.comparison == Comparison("s\0", "\u2028", odd)


# Handing out


def test_an_annotator_gets_the_same_item_until_it_is_judged(store):
    store.add(pairs(3))
    assert store.next("ann") == store.next("ann")
    first = label(store, "ann")
    assert store.next("ann").id != first.id


def test_an_item_comes_back_after_the_store_was_closed(url):
    with FeedbackStore(url) as store:
        store.add(pairs(3))
        label(store, "ann")
        waiting = store.next("ann")
    with FeedbackStore(url) as store:
        assert store.next("ann") == waiting


def test_nothing_is_left_when_all_is_judged_or_skipped(store):
    store.add(pairs(3))
    label(store, "ann")
    label(store, "ann", skipped=True)
    assert store.counts("ann") == Counts(total=3, judged=1, skipped=1, left=1)
    label(store, "ann")
    assert store.next("ann") is None
    assert store.counts("ann") == Counts(total=3, judged=2, skipped=1, left=0)


def test_what_one_skips_another_judges(store):
    store.add(pairs(1))
    label(store, "ann", skipped=True)
    assert store.counts("bob").left == 1
    assert label(store, "bob") is not None


def test_a_lease_that_has_expired_blocks_nobody_and_its_late_answer_still_counts(url, monkeypatch):
    begun = time.time()
    monkeypatch.setattr(time, "time", lambda: begun)
    with FeedbackStore(url, StoreConfig(lease_seconds=60)) as store:
        store.add(pairs(1))
        item = store.next("ann")
        assert store.next("bob") is None
        monkeypatch.setattr(time, "time", lambda: begun + 61)
        assert label(store, "bob") == item
        assert store.next("ann") is None  # bob has judged it meanwhile
        assert store.record(item.id, "ann", "late", choice=1)
        assert [j.annotator for j in store.judgements()] == ["bob", "ann"]


def test_repeats_come_only_to_who_judged_the_item_and_only_after_the_gap(url):
    with FeedbackStore(url, StoreConfig(repeat_gap=4, seed=0)) as store:
        store.add(pairs(40))
        seen = []
        while (item := label(store, "ann", repeats=0.3)) is not None:
            if item.id in seen:
                assert len(seen) - seen.index(item.id) > 4
            seen.append(item.id)
        marks = [j.provenance["repeat"] for j in store.judgements()]
        assert sorted(set(seen)) == [item.id for item in store.items()]
        assert marks == [item_id in seen[:i] for i, item_id in enumerate(seen)]
        assert 5 < sum(marks) < 30
        assert max(seen.count(i) for i in seen) == 2
        assert store.counts("ann").judged == 40


@pytest.mark.parametrize("overlap", [1, 2])
def test_eight_annotators_at_once_share_the_items_by_the_overlap(store, overlap):
    store.add(pairs(32))

    def work(name):
        seen = []
        while (item := label(store, name, overlap)) is not None:
            seen.append(item.id)
        return seen

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(work, [f"annotator {i}" for i in range(8)]))
    judged = [item_id for one in seen for item_id in one]
    assert all(len(one) == len(set(one)) for one in seen)
    assert sorted(judged) == sorted([item.id for item in store.items()] * overlap)
    assert len(store.judgements()) == 32 * overlap


def test_leases_of_eight_at_once_are_all_different(store):
    store.add(pairs(20))
    barrier = threading.Barrier(8)

    def ask(name):
        barrier.wait()
        return store.next(name).id

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(ask, [f"annotator {i}" for i in range(8)]))
    assert len(set(given)) == 8


# Recording


def test_a_judgement_comes_back_with_all_that_is_known_of_it(store):
    three = Comparison(
        "s", "p", ("a", "b", "c"), stops=("eos", "budget", "eos"), provenance={"policies": ["x", "y", "z"]}
    )
    store.add([three])
    item = store.next("ann")
    said = {"choice": 2, "ranking": [2, 0, 1], "scores": [3, 1, 5]}
    assert store.record(item.id, "ann", "k", **said, order=(1, 2, 0), seconds=2.5)
    (judgement,) = store.judgements()
    assert (judgement.choice, judgement.ranking, judgement.scores) == (2, (2, 0, 1), (3.0, 1.0, 5.0))
    assert judgement.annotator == "ann"
    assert judgement.created.startswith("20")
    assert judgement.stops == three.stops
    shown = {"seconds": 2.5, "order": [1, 2, 0], "repeat": False}
    assert judgement.provenance == {"policies": ["x", "y", "z"], **shown}


@pytest.mark.parametrize("choice", [0, 1, TIE])
def test_a_choice_keeps_its_kind(store, choice):
    store.add(pairs(1))
    label(store, "ann", choice=choice)
    assert store.judgements()[0].choice == choice
    assert type(store.judgements()[0].choice) is type(choice)


def test_judgements_of_one_annotator_stand_in_the_order_recorded(store):
    store.add(pairs(6))
    names = ["ann", "bob", "bob", "ann", "bob", "ann"]
    for i, name in enumerate(names):
        store.record(store.items()[5 - i].id, name, f"k{i}", choice=i % 2)
    assert [j.annotator for j in store.judgements()] == names
    assert [j.choice for j in store.judgements("ann")] == [0, 1, 1]
    assert [j.sample_id for j in store.judgements()] == [f"s{5 - i}" for i in range(6)]
    assert store.annotators() == ["ann", "bob"]
    assert store.judgements("nobody") == []


def test_a_key_counts_once_whoever_sends_it_again(store):
    store.add(pairs(2))
    assert store.record(1, "ann", "k", choice=0)
    assert not store.record(1, "ann", "k", choice=0)
    assert not store.record(2, "bob", "k", choice=1)
    assert [j.choice for j in store.judgements()] == [0]


def test_a_second_opinion_under_another_key_leaves_the_first_standing(store):
    store.add(pairs(1))
    assert store.record(1, "ann", "tab 1", choice=0)
    assert not store.record(1, "ann", "tab 2", choice=1)
    assert [j.choice for j in store.judgements()] == [0]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"choice": 2}, "outside the 2 responses"),
        ({"choice": -1}, "outside the 2 responses"),
        ({"choice": "left"}, "neither an index"),
        ({"ranking": [0, 0]}, "each of 2 responses once"),
        ({"scores": [1.0]}, "one finite number each"),
        ({"scores": [1.0, float("nan")]}, "one finite number each"),
        ({}, "either a choice"),
        ({"choice": 1, "skipped": True}, "either a choice"),
        ({"choice": 1, "order": (0, 0)}, "order"),
        ({"choice": 1, "seconds": -1.0}, "seconds"),
        ({"choice": 1, "seconds": float("inf")}, "seconds"),
    ],
)
def test_an_impossible_judgement_is_refused_and_its_key_stays_free(store, said, message):
    store.add(pairs(1))
    with pytest.raises(ComparisonError, match=message):
        store.record(1, "ann", "k", **said)
    assert store.record(1, "ann", "k", choice=1)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\0b"])
def test_a_name_or_a_key_that_is_none_is_refused(store, name):
    store.add(pairs(1))
    with pytest.raises(ComparisonError, match="printable"):
        store.next(name)
    with pytest.raises(ComparisonError, match="printable"):
        store.record(1, "ann", name, choice=1)


@pytest.mark.parametrize("item_id", [0, -1, 99, 2**40])
def test_an_unknown_item_is_named_with_the_database(store, item_id):
    store.add(pairs(1))
    for ask in (lambda: store.item(item_id), lambda: store.record(item_id, "ann", "k", choice=0)):
        with pytest.raises(StoreError, match=f"item {item_id} is not in .*(feedback.db|127.0.0.1).*add its comparison"):
            ask()


# Undoing


def test_undo_brings_the_item_back_and_then_the_one_before(store):
    store.add(pairs(3))
    one, two = label(store, "ann"), label(store, "ann", skipped=True)
    waiting = store.next("ann")
    assert store.undo("ann") == two == store.next("ann")
    assert store.undo("ann") == one == store.next("ann")
    assert store.undo("ann") is None
    assert store.judgements() == []
    assert [label(store, "ann", choice=1) for _ in range(3)] == [one, two, waiting]
    assert store.counts("ann") == Counts(3, 3, 0, 0)


def test_undo_takes_back_only_ones_own(store):
    store.add(pairs(2))
    mine = label(store, "ann")
    label(store, "bob")
    assert store.undo("ann") == mine
    assert store.next("cat") is None  # ann holds the item again
    assert [j.annotator for j in store.judgements()] == ["bob"]


def test_a_key_that_was_undone_does_not_come_to_life_when_it_is_sent_again(store):
    store.add(pairs(1))
    store.record(1, "ann", "k", choice=0)
    store.undo("ann")
    assert not store.record(1, "ann", "k", choice=0)
    assert store.judgements() == []
    assert store.record(1, "ann", "k2", choice=1)


def test_an_undone_repeat_is_a_repeat_when_judged_again(url):
    with FeedbackStore(url, StoreConfig(repeat_gap=0)) as store:
        store.add(pairs(2))
        first = label(store, "ann")
        assert label(store, "ann", repeats=1.0, choice=1) == first
        assert store.undo("ann") == first
        assert label(store, "ann", choice=0) == first
        assert [j.provenance["repeat"] for j in store.judgements()] == [False, True]


# Merging


def test_what_was_judged_elsewhere_merges_once(store, tmp_path):
    label_elsewhere = FeedbackStore(tmp_path / "other.db", StoreConfig(repeat_gap=0))
    label_elsewhere.add(pairs(3))
    for repeats in (0.0, 1.0, 0.0):
        label(label_elsewhere, "ann", repeats=repeats, choice=1, order=(1, 0), seconds=3.0)
    there = label_elsewhere.judgements()
    assert [j.provenance["repeat"] for j in there] == [False, True, False]
    assert store.merge(there) == 3
    assert store.merge(there) == 0
    assert store.judgements() == there
    assert label_elsewhere.merge(store.judgements()) == 0
    label_elsewhere.close()


# Several threads and processes


def test_one_key_from_many_threads_is_new_to_one_of_them(store):
    store.add(pairs(10))
    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(lambda i: store.record(i % 10 + 1, "ann", f"k{i % 10}", choice=0), range(80)))
    assert sum(new) == 10
    assert len(store.judgements()) == 10


TOGETHER = """
import sys
from mmenv.feedback.store import FeedbackStore
url, name = sys.argv[1:]
with FeedbackStore(url) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(store.record(i, name, f"k{i}", choice=0) for i in range(1, 41)))
    while (item := store.next(name)) is not None:
        assert store.record(item.id, name, f"{name}-{item.id}", choice=1)
"""


def child(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment,
    )  # fmt: skip


def test_several_processes_at_once_record_a_key_once_and_share_the_items(store, url):
    store.add(pairs(100))
    processes = [child(TOGETHER, url, f"annotator {i}") for i in range(4)]
    assert [p.stdout.readline() for p in processes] == ["ready\n"] * 4
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    new = [int(process.communicate(timeout=100)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(new) == 40
    assert sorted(j.sample_id for j in store.judgements()) == sorted(f"s{i}" for i in range(100))


def test_a_database_that_is_made_by_several_at_once_is_made_once(url):
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: FeedbackStore(url), range(6)))
    assert {tuple(store.add(pairs(2))) for store in stores} == {(1, 2)}
    for store in stores:
        store.close()


RECORDER = """
import sys
from mmenv.feedback.store import FeedbackStore
store = FeedbackStore(sys.argv[1])
for line in sys.stdin:
    number, key = line.split()
    store.record(int(number), "ann", key, choice=int(number) % 2)
    print(key, flush=True)
"""


def test_a_kill_in_the_middle_of_recording_loses_no_acknowledged_label_and_doubles_none(url):
    """As a browser does, what was not acknowledged is sent again with its key after each of six kills."""
    n, rounds = 240, 6
    with FeedbackStore(url) as store:
        ids = store.add(pairs(n))
    waiting, acknowledged, kills = [(i, f"k{i}") for i in ids], set(), 0
    while waiting:
        process = child(RECORDER, url)
        process.stdin.write("".join(f"{i} {key}\n" for i, key in waiting))
        process.stdin.flush()
        if kills == rounds:
            process.stdin.close()
        else:
            for _ in range(n // (rounds + 2)):  # then it is busy with the next, whatever that is
                acknowledged.add(process.stdout.readline().strip())
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        acknowledged |= {line.strip() for line in process.stdout if line.endswith("\n")}
        assert process.wait(60) in (0, -signal.SIGKILL)
        with FeedbackStore(url) as store:
            recorded = [j.sample_id for j in store.judgements()]
        assert len(recorded) == len(set(recorded))
        # One may have been written whose acknowledgement did not come through any more.
        assert len(acknowledged) <= len(recorded) <= len(acknowledged) + 1
        waiting = [(i, key) for i, key in waiting if key not in acknowledged]
    assert kills == rounds
    with FeedbackStore(url) as store:
        assert [(j.sample_id, j.choice) for j in store.judgements()] == [(f"s{k}", i % 2) for k, i in enumerate(ids)]


def test_every_commit_is_on_the_disk_when_it_returns(url):
    engine = open_engine(url, 1.0)
    with engine.connect() as connection:
        if "://" in url:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        else:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


# Databases that fail


@contextlib.contextmanager
def locked(url):
    """Somebody else holds the database."""
    if "://" not in url:
        other = sqlite3.connect(url, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.close()
        return
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (POSTGRES_LOCK,))
        yield


def test_a_locked_database_is_an_error_after_a_bounded_wait_and_loses_nothing(url):
    with FeedbackStore(url, StoreConfig(wait_seconds=0.3)) as store:
        store.add(pairs(2))
        label(store, "ann")
        with locked(url):
            began = time.monotonic()
            for ask in (
                lambda: store.record(2, "ann", "k", choice=1),
                lambda: store.next("ann"),
                lambda: store.undo("ann"),
            ):
                with pytest.raises(StoreError, match="locked by another program: close it or wait"):
                    ask()
            assert time.monotonic() - began < 60
            assert len(store.judgements()) == 1  # who only reads goes on
        assert store.record(2, "ann", "k", choice=1)
        assert len(store.judgements()) == 2


def test_a_short_lock_is_waited_for(url):
    with FeedbackStore(url, StoreConfig(wait_seconds=120)) as store:
        store.add(pairs(1))
        with ThreadPoolExecutor(1) as pool:
            with locked(url):
                recorded = pool.submit(store.record, 1, "ann", "k", choice=1)
                time.sleep(0.3)
                assert not recorded.done()
            assert recorded.result(120)


def test_a_read_only_database_can_be_read_and_says_so_when_written(url, tmp_path):
    with FeedbackStore(url) as store:
        store.add(pairs(2))
        label(store, "ann")
    if "://" not in url:
        closed = f"sqlite:///file:{url}?mode=ro&uri=true"
    else:
        closed = f"{url}%20-cdefault_transaction_read_only%3Don"
    with FeedbackStore(closed) as store:
        assert len(store.judgements()) == 1
        for ask in (
            lambda: store.record(2, "ann", "k", choice=1),
            lambda: store.next("ann"),
            lambda: store.add(pairs(3)),
        ):
            with pytest.raises(StoreError, match="is read-only: make the file"):
                ask()
    with FeedbackStore(url) as store:
        assert store.record(2, "ann", "k", choice=1)


def fill(store):
    for i in range(400):
        store.record(i + 1, "ann", f"k{i}", choice=0)


def test_a_full_disk_is_an_error_that_keeps_what_was_there(tmp_path):
    """SQLite's page limit stands for the disk: it fails with the same error."""
    limit = {"pages": 0}

    def confine(connection, _record):
        if limit["pages"]:
            connection.execute(f"PRAGMA max_page_count = {limit['pages']}")

    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        store.add(pairs(400))
    with sqlite3.connect(path) as raw:
        limit["pages"] = raw.execute("PRAGMA page_count").fetchone()[0] + 2
    raw.close()
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", confine)
    try:
        with FeedbackStore(path) as store:
            with pytest.raises(StoreError, match="no room left: free some space"):
                fill(store)
            kept = len(store.judgements())
            assert kept > 5
            with pytest.raises(StoreError, match="no room left"):
                store.add([Comparison(f"new{i}", "p", ("a", "b")) for i in range(400)])
            assert len(store.items()) == 400
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", confine)
    with FeedbackStore(path) as store:
        assert store.record(kept + 1, "ann", f"k{kept}", choice=0)
        assert len(store.judgements()) == kept + 1


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, " * 100)
    with pytest.raises(StoreError, match=r"notes\.txt is not a valid SQLite database"):
        FeedbackStore(path)
    assert path.read_text() == "these are my notes, " * 100


def test_a_folder_is_no_database(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "feedback.db"):
        with pytest.raises(StoreError, match="cannot be opened"):
            FeedbackStore(path)


def test_links_in_a_circle_are_told_of_by_name(tmp_path):
    (tmp_path / "feedback.db").symlink_to("feedback.db")
    with pytest.raises(StoreError, match=r"feedback\.db cannot be opened"):
        FeedbackStore(tmp_path / "feedback.db")
    (tmp_path / "circle").symlink_to("circle")
    with FeedbackStore(tmp_path / "other.db", media=[tmp_path / "circle"]) as store:
        assert store.untrusted_folders() == []


@pytest.mark.parametrize("url", ["sqlite://", ":memory:", "mysql://me@host/db", "nonsense://x", "://"])
def test_what_cannot_keep_labels_is_refused(url):
    with pytest.raises(StoreError, match=r"in memory|is not a supported database"):
        FeedbackStore(url)


def test_a_server_that_does_not_answer_is_named_without_its_password():
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/db does not answer") as caught:
        FeedbackStore("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)


# Versions of the schema


def run_sql(url, script):
    engine = sqlalchemy.create_engine(url if "://" in url else f"sqlite:///{url}")
    with engine.begin() as connection:
        for statement in filter(str.strip, script.split(";\n")):
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.parametrize("version", [schema.VERSION - 1, schema.VERSION + 1])
def test_another_schema_is_refused_and_left_alone(url, version):
    with FeedbackStore(url) as store:
        store.add(pairs(1))
    run_sql(url, f"UPDATE feedback_schema SET version = {version}")
    for _ in range(2):
        with pytest.raises(StoreError, match=f"schema version {version}.*export its judgements"):
            FeedbackStore(url)


def test_who_begins_a_database_waits_for_another_who_does(tmp_path):
    """SQLite does not wait by itself where the log is changed to write-ahead."""
    path = tmp_path / "feedback.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")  # about to write
    release = threading.Timer(0.3, other.close)
    release.start()
    with FeedbackStore(path) as store:
        assert store.items() == []
    release.join()


# Size


def steps_of(path, do):
    """How many instructions of SQLite's machine ``do(store)`` takes."""
    steps = [0]

    def count():
        steps[0] += 1

    def watch(connection, _record):
        connection.set_progress_handler(count, 10)

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", watch)
    try:
        with FeedbackStore(path, StoreConfig(repeat_gap=5, seed=0)) as store:
            do(store)  # once: connections are made, and the first look at the store is over
            steps[0] = 0
            do(store)
            return steps[0]
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", watch)


def large(path, n, overlap):
    """A store of ``n`` items, nine in ten of them judged by ``overlap`` people, and one by each of two who go on."""
    comparisons = pairs(n)
    said = [
        replace(c, choice=0, annotator=name, created=f"t{i}")
        for k, name in enumerate(("ann", "bob", "cat")[:overlap])
        for i, c in enumerate(comparisons)
        if i < 0.9 * n or (i % 3 == k and overlap > 1 and i < 0.95 * n)
    ]
    with FeedbackStore(path) as store:
        store.merge(said)
        store.add(comparisons)


@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize("name", ["ann", "newcomer"])
def test_what_an_answer_costs_does_not_grow_with_the_items_stored(tmp_path, overlap, name):
    keys = iter(range(1000))

    def answer(store):
        for repeats in (0.0, 1.0):
            item = store.next(name, overlap, repeats)
            assert store.record(item.id, name, f"{name} {next(keys)}", choice=0)
            store.counts(name, overlap)
        store.undo(name)
        store.progress(overlap)

    costs = []
    for n in (100, 2000):
        large(tmp_path / f"{n}.db", n, overlap)
        costs.append(steps_of(tmp_path / f"{n}.db", answer))
    assert costs[1] < 1.5 * costs[0] + 50


def test_whoever_is_through_asks_at_no_greater_cost_in_a_larger_store(tmp_path):
    """All that is left needs the judgement of somebody else."""

    def ask(store):
        assert store.next("ann", 2) is None
        assert store.counts("ann", 2).left == 0

    costs = []
    for n in (100, 2000):
        with FeedbackStore(tmp_path / f"{n}.db") as store:
            store.merge([replace(c, choice=0, annotator="ann") for c in pairs(n)])
        costs.append(steps_of(tmp_path / f"{n}.db", ask))
    assert costs[1] < 1.5 * costs[0] + 50


def expected_counts(store, name, overlap):
    """As ``counts`` says, from the rows themselves."""
    with store._reading() as connection:
        rows = connection.execute(
            sqlalchemy.select(schema.judgements, schema.annotators.c.name)
            .join(schema.annotators, schema.annotators.c.id == schema.judgements.c.annotator_id)
            .where(~schema.judgements.c.undone)
        ).all()
    judges = {item.id: {r.name for r in rows if r.item_id == item.id and not r.skipped} for item in store.items()}
    mine = {r.item_id: r.skipped for r in rows if r.name == name and not r.repeated}
    left = sum(len(names) < overlap and item_id not in mine for item_id, names in judges.items())
    return Counts(len(judges), sum(not skipped for skipped in mine.values()), sum(mine.values()), left)


@pytest.mark.parametrize(("overlap", "seed"), [(1, 0), (2, 1), (3, 2)])
def test_whatever_people_do_counts_are_those_of_the_rows_and_nothing_open_is_kept_from_anybody(
    tmp_path, monkeypatch, overlap, seed
):
    """Judging, skipping, undoing, going away for longer than a lease, and importing, at random."""
    rng, clock, keys = random.Random(seed), [1000.0], iter(range(10_000))
    monkeypatch.setattr(time, "time", lambda: clock[0])
    names = ["ann", "bob", "cat", "dan"]
    with FeedbackStore(tmp_path / "feedback.db", StoreConfig(lease_seconds=100, repeat_gap=2, seed=seed)) as store:
        store.add(pairs(6))
        for _ in range(70):
            name, act = rng.choice(names), rng.random()
            clock[0] += rng.choice([1, 5, 200])
            if act < 0.1:
                store.undo(name)
            elif act < 0.2:
                one = rng.choice(pairs(8))
                store.merge([replace(one, choice=1, annotator=name, created=f"{next(keys)}")])
            else:
                item = store.next(name, overlap, rng.choice([0.0, 0.5]))
                if item is not None and act < 0.85:
                    said = {"skipped": True} if act < 0.4 else {"choice": 0}
                    assert store.record(item.id, name, f"k{next(keys)}", **said)
            for one in names:
                counts = store.counts(one, overlap)
                assert replace(counts, held=0) == expected_counts(store, one, overlap)
        clock[0] += 1000  # nobody holds anything any more
        for name in names:
            left = store.counts(name, overlap)
            assert left.held == 0
            while (item := store.next(name, overlap)) is not None:
                assert store.record(item.id, name, f"k{next(keys)}", choice=0)
            assert store.counts(name, overlap).left == 0


# Leases that others hold


def test_what_others_hold_is_left_and_counted_as_held(store):
    store.add(pairs(4))
    queue = []
    for _ in range(3):
        queue.append(store.next("ann", queue=queue).id)
    last = store.next("bob")
    assert store.record(last.id, "bob", "k", choice=0)
    assert store.next("bob") is None
    assert store.counts("bob") == Counts(total=4, judged=1, skipped=0, left=3, held=3)
    assert store.counts("ann") == Counts(total=4, judged=0, skipped=0, left=3, held=0)
    assert store.record(queue[0], "ann", "k2", skipped=True)
    assert store.counts("bob") == Counts(total=4, judged=1, skipped=0, left=3, held=2)
    assert store.next("bob").id == queue[0]  # what ann would not say comes to bob, though he had passed it


def test_two_screens_of_one_person_show_the_same_items_and_count_once(store):
    store.add(pairs(6))
    phone = [store.next("ann").id]
    phone.append(store.next("ann", queue=phone).id)
    laptop = [store.next("ann").id]
    laptop.append(store.next("ann", queue=laptop).id)
    assert sorted(laptop) == sorted(phone)
    assert store.counts("ann") == Counts(total=6, judged=0, skipped=0, left=6, held=0)
    assert store.record(phone[0], "ann", "phone", choice=0)
    assert not store.record(phone[0], "ann", "laptop", choice=1)
    assert store.counts("ann") == Counts(total=6, judged=1, skipped=0, left=5, held=0)
    before = store.counts("ann").changes
    store.undo("ann")
    assert store.counts("ann").changes == before + 1  # the other screen takes the lower number as the later one


@pytest.mark.parametrize("ahead", [86_400, 10**9])
def test_a_lease_of_a_clock_that_was_ahead_holds_nobody_up(store, monkeypatch, ahead):
    store.add(pairs(1))
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + ahead)
    item = store.next("ann")
    monkeypatch.setattr(time, "time", true)
    assert store.next("bob") == item
    assert store.record(item.id, "bob", "k", choice=0)


# Imports beside people


def test_an_import_lets_others_write_in_between(url, monkeypatch):
    """Each pause between two parts of the import is long enough for somebody else to record."""
    from mmenv.feedback.store import store as module

    monkeypatch.setattr(module, "_BATCH", 5)
    with FeedbackStore(url) as importing, FeedbackStore(url, StoreConfig(wait_seconds=0.2)) as other:
        importing.add([Comparison("other", "p", ("a", "b"))])
        recorded = []

        def pause(_seconds):
            recorded.append(other.record(1, f"ann {len(recorded)}", f"k{len(recorded)}", choice=0))

        monkeypatch.setattr(module.time, "sleep", pause)
        assert importing.merge([replace(c, choice=0, annotator="importer") for c in pairs(20)]) == 20
    assert recorded == [True] * 6  # three pauses for the items and three for the judgements


# Media elsewhere


def test_media_in_a_folder_that_nobody_named_are_not_read(tmp_path):
    """A database of somebody else may name any folder."""
    private, run = tmp_path / "private", tmp_path / "run"
    for folder in (private, run):
        folder.mkdir()
        (folder / "x.png").write_bytes(folder.name.encode())
    with FeedbackStore(run / "feedback.db") as store:
        inside, outside = store.add(pairs(1, image="x.png"), run) + store.add(pairs(1, image="x.png"), private)
        text = store.add([Comparison("text", "p", ("a", "b"))], private)[0]
        assert store.item(outside).folder == private  # adding from a folder names it
        assert store.untrusted_folders() == []
    (run / "link").symlink_to(private)
    for place in (str(private), "../private", "link", str(run / "link")):
        run_sql(str(run / "feedback.db"), f"UPDATE feedback_items SET folder = '{place}' WHERE id > {inside}")
        with FeedbackStore(run / "feedback.db") as store:
            assert store.item(inside).folder == run
            with pytest.raises(StoreError, match=r"outside the folder of the store: give --media"):
                _ = store.item(outside).folder
            assert store.item(text).folder is not None  # it has no media
            assert len(store.untrusted_folders()) == 1
            assert len(store.items()) == 3
        with FeedbackStore(run / "feedback.db", media=[tmp_path]) as store:
            assert (store.item(outside).folder / "x.png").read_bytes() == b"private"
            assert store.untrusted_folders() == []
