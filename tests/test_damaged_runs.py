"""Every file of a run's folder damaged in every way, and disks that fail: a sentence, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import cut_run, one_sentence, same_policy, snapshot, whole_run

from agents import files
from agents.__main__ import main
from agents.training import checkpoints, launch
from agents.training.loggers import JSONLines

TENSORS = ("policy.safetensors", "reference.safetensors", "optimiser.safetensors", "generator.safetensors")
WORDS = ("--reward", "gold", "--num-envs", "8", "--no-pictures", "--threads", "1")


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    return whole_run(start, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def cut(start, tmp_path_factory):
    return cut_run(start, tmp_path_factory.mktemp("cut") / "run")


@pytest.fixture
def folder(cut, tmp_path):
    return Path(shutil.copytree(cut, tmp_path / "run"))


def missing(path):
    path.unlink()


def emptied(path):
    path.write_bytes(b"")


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [missing, emptied, halved, flipped, longer])
@pytest.mark.parametrize("name", [*TENSORS, "state.json", "checksums.json"])
def test_a_damaged_file_of_a_checkpoint_is_refused_by_name(folder, name, damage, capsys):
    damage(folder / "checkpoint" / "step-3" / name)
    before = snapshot(folder)
    assert main(["--resume", str(folder)]) == 1
    fault = "is missing" if damage is missing else "is damaged"
    if name == "checksums.json" and damage is flipped:
        fault = "differs"  # still JSON: then it is a file's checksum, or name, that is wrong
    told = one_sentence(capsys, str(folder / "checkpoint" / "step-3"), "copy it from a backup")
    assert (f"{name} {fault}" in told) or fault in ("differs",)
    assert snapshot(folder) == before


@pytest.mark.parametrize("lost", ["checkpoint", "checkpoint/step-3"])
def test_a_run_that_lost_its_checkpoint_is_not_begun_anew_unasked(folder, lost, capsys):
    shutil.rmtree(folder / lost)
    before = snapshot(folder)
    assert main(["--resume", str(folder)]) == 1
    one_sentence(capsys, f"{folder}/checkpoint is gone", "--overwrite")
    assert snapshot(folder) == before


STATES = {
    "empty": {}, "tokens": {"tokens": "many"}, "updates": {"updates": None}, "rng": {"rng": 3}, "before": {"before": 7},
    "algorithm": {"algorithm": []}, "best": {"best": 0.5}, "seconds": {"seconds": True}, "kl": {"kl": "far"},
}  # fmt: skip


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_state_of_other_types_is_refused_though_its_checksum_is_right(folder, change, capsys):
    path = folder / "checkpoint" / "step-3"
    state = json.loads((path / "state.json").read_text()) | change if change else {}
    (path / "state.json").write_text(json.dumps(state))
    known = json.loads((path / "checksums.json").read_text())
    known["state.json"] = checkpoints._checksum(path / "state.json")
    (path / "checksums.json").write_text(json.dumps(known))
    assert main(["--resume", str(folder)]) == 1
    one_sentence(capsys, "step-3")


CONFIGS = {
    "emptied": b"", "list": b"[]", "object": b"{}", "number": b"3", "cut": b'{"algorithm": "ppo", "se',
    "NULs": bytes(64), "other bytes": b'{"algorithm": "\xff\xfe"}', "deep": b"[" * 100_000,
    "no name": b'{"algorithm": 3}',
}  # fmt: skip


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("call", ["--resume", "evaluate --run", "ppo --out new --start"])
def test_a_damaged_configuration_is_named(folder, content, call, capsys, monkeypatch):
    if content == CONFIGS["no name"] and "--start" in call:
        return  # of a start the weights count
    monkeypatch.chdir(folder.parent)
    (folder / "config.json").write_bytes(content)
    before = snapshot(folder)
    assert main([*call.split(), str(folder)]) == 1
    one_sentence(capsys, str(folder))
    assert snapshot(folder) == before
    assert not Path("new").exists()


SETTINGS = {
    "seed": "0", "kl_coef": float("nan"), "num_envs": 8.0, "overwrite": 1, "also": "x", "start": 3,
    "learning_rte": 1, "learning_rate": -1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_unknown_or_of_another_type_is_named(folder, name, capsys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: SETTINGS[name]}))
    assert main(["--resume", str(folder)]) == 1
    one_sentence(capsys, str(path), name)


def test_a_setting_that_is_missing_is_named(folder, capsys):
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "kl_coef"}))
    assert main(["--resume", str(folder)]) == 1
    one_sentence(capsys, str(path), "kl_coef")


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


LOGS = {
    "cut": (lambda rows: [*rows[:-1], rows[-1][:20]], ""),
    "CRLF": (lambda rows: [row.replace(b"\n", b"\r\n") for row in rows], ""),
    "CR": (lambda rows: [row.replace(b"\n", b"\r") for row in rows], ""),
    "byte order mark": (lambda rows: [b"\xef\xbb\xbf", *rows], ""),
    "blank lines": (lambda rows: [rows[0], b"\n", b"  \n", *rows[1:]], ""),
    "NULs at the end": (lambda rows: [*rows, bytes(64)], ""),
    "emptied": (lambda rows: [], ""),
    "junk": (lambda rows: [rows[0], b"junk\n", *rows[1:]], "line 2"),
    "other bytes": (lambda rows: [rows[0], b"\xff\xfe\n", *rows[1:]], "line 2"),
    "a list": (lambda rows: [b"[]\n", *rows], "line 1"),
    "deep": (lambda rows: [b"[" * 100_000 + b"\n", *rows], "line 1"),
    "words": (lambda rows: [*rows, b'{"update": "x", "tokens": 3}\n'], "not a row of metrics"),
    "no update": (lambda rows: [*rows, b'{"tokens": 3}\n'], "not a row of metrics"),
    "nested": (lambda rows: [*rows, b'{"update": 2, "tokens": 3, "kl": []}\n'], "not a row of metrics"),
    "NaN": (lambda rows: [*rows, b'{"update": 2, "tokens": 3, "kl": NaN}\n'], ""),
}


@pytest.mark.parametrize("kind", LOGS)
def test_a_damaged_log_keeps_no_run_from_going_on(folder, whole, kind, capsys):
    damage, told = LOGS[kind]
    path = folder / "metrics.jsonl"
    path.write_bytes(b"".join(damage(lines(path))))
    assert main(["--resume", str(folder)]) == 0
    said = capsys.readouterr().out
    assert not told or (told in said and str(path) in said)
    assert same_policy(folder, whole)
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


SUMMARIES = {"emptied": b"", "list": b"[]", "object": b"{}", "bytes": b"\xff", "other": b'{"episodes": 4, "split": 3}'}


@pytest.mark.parametrize("content", SUMMARIES.values(), ids=SUMMARIES)
def test_a_damaged_summary_is_named_and_made_again_once_it_is_deleted(whole, tmp_path, content, capsys):
    folder = shutil.copytree(whole, tmp_path / "run")
    path, right = folder / "summary.json", json.loads((folder / "summary.json").read_text())
    path.write_bytes(content)
    assert main(["--resume", str(folder)]) == 1
    one_sentence(capsys, str(path), "delete it, and --resume writes it again")
    path.unlink()
    assert main(["--resume", str(folder)]) == 0
    assert json.loads(path.read_text())["gold"] == right["gold"]


def test_what_a_kill_left_behind_does_not_matter_nor_the_name_of_the_folder(folder, whole, tmp_path):
    for leftover in ("checkpoint/step-4.tmp", "checkpoint.tmp/step-9"):
        (folder / leftover).mkdir(parents=True)
        (folder / leftover / "state.json").write_text("{")
    (folder / "config.json.17.tmp").write_text("{")
    (tmp_path / "mark[").mkdir()
    moved = folder.rename(tmp_path / "mark[" / "up] é [bold]")  # what is markup to rich
    assert main(["--resume", str(moved)]) == 0
    assert same_policy(moved, whole)
    assert [path.name for path in (moved / "checkpoint").iterdir()] == [checkpoints.newest_checkpoint(whole).name]


# Errors of the disk.


def test_a_full_disk_is_told_in_a_line_and_costs_nothing(folder, whole, capsys, monkeypatch):
    log = folder / "metrics.jsonl"
    save = checkpoints.save_file

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise checkpoints.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    assert launch.exit_code(lambda: launch.resume(folder)) == launch.TRANSIENT
    one_sentence(capsys, "step-4.tmp/policy.safetensors: no space left on device", "make room")
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["step-3"]
    monkeypatch.setattr(checkpoints, "save_file", save)
    rows = log.read_bytes()
    log.unlink()
    log.symlink_to("/dev/full")
    monkeypatch.setattr(files, "write_lines", lambda *_: None)
    assert launch.exit_code(lambda: launch.resume(folder)) == launch.TRANSIENT
    one_sentence(capsys, "metrics.jsonl: no space left on device", "make room")
    monkeypatch.undo()
    log.unlink()
    log.write_bytes(rows)
    assert main(["--resume", str(folder)]) == 0
    assert same_policy(folder, whole)


def test_a_folder_that_cannot_be_written_is_told_in_a_line(start, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["ppo", *WORDS, "--start", start, "--out", str(tmp_path / "file" / "run")]) == 1
    one_sentence(capsys, str(tmp_path / "file"))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # no traceback beside the sentence
def test_a_folder_renamed_under_a_run_is_told_of_and_not_made_again(folder, whole, tmp_path, monkeypatch, capsys):
    log_row = JSONLines.log

    def renames(logger, row, step):
        log_row(logger, row, step)
        if folder.exists():
            folder.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(JSONLines, "log", renames)
    assert main(["--resume", str(folder)]) == 1
    one_sentence(capsys, str(folder), "renamed")
    assert not folder.exists()
    monkeypatch.undo()
    assert main(["--resume", str(tmp_path / "elsewhere")]) == 0
    assert same_policy(tmp_path / "elsewhere", whole)


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / f"a.json.{os.getpid()}.tmp").symlink_to(target)
    files.write_json(tmp_path / "a.json", {"a": np.float64("nan"), "b": [float("inf"), {"c": 1.5}]})
    assert target.read_text() == "mine"
    assert files.read_json(tmp_path / "a.json") == {"a": None, "b": [None, {"c": 1.5}]}


def test_a_damaged_line_of_results_is_named_with_its_number(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"a": 1}\n\xff\n{"b": 2}\n')
    with pytest.raises(files.RunError, match="line 2 is no JSON"):
        files.read_lines(path)
    path.write_bytes(b'{"a": 1}\n{"b": "\xe2\x80\xa8"}\n{"c')
    assert len(files.read_lines(path)) == 2
