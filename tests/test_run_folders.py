"""A run's folder has one writer, loses nothing before its successor begins, and nobody who reads it changes it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import QUIET, configured, cut_run, one_sentence, same_policy, snapshot, whole_run

from agents import files
from agents.__main__ import main
from agents.comparing.grid import FORMAT
from agents.training import checkpoints, run_folder
from agents.training.loading import resume
from agents.training.trainer import Trainer

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


def test_a_kill_between_two_checkpoints_leaves_the_older_one(folder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_checkpoint(folder, 4, {"policy": {"x": torch.ones(2)}}, {})
    monkeypatch.undo()
    assert checkpoints.newest_checkpoint(folder).name == "step-3"
    checkpoints.save_checkpoint(folder, 4, {"policy": {"x": torch.ones(2)}}, {})
    assert checkpoints.newest_checkpoint(folder).name == "step-4"
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["step-4"]


def test_of_checkpoints_the_last_and_the_best_on_validation_stay(start, tmp_path, monkeypatch):
    golds = iter([0.5, 0.9, 0.7, None, 0.8, 0.1, 0.1, 0.1])
    run, measured = tmp_path / "run", Trainer._evaluation

    def scored(trainer, split):
        return measured(trainer, split) | ({"gold": next(golds)} if split == "validation" else {})

    monkeypatch.setattr(Trainer, "_evaluation", scored)
    summary = Trainer("ppo", configured(start, eval_every=1), run, console=QUIET).train()
    updates = [row["update"] for row in files.read_lines(run / "metrics.jsonl")]
    kept = {path.name for path in (run / "checkpoint").iterdir()}
    assert kept == {"step-2", f"step-{updates[-1]}"}
    assert (summary["best"]["update"], summary["best"]["validation_gold"]) == (2, 0.9)
    assert resume(run).best == summary["best"]
    (run / "checkpoint" / f"step-{updates[-1]}" / "policy.safetensors").unlink()
    with pytest.raises(files.RunError, match="to go on from step-2"):
        resume(run)


# One writer.


def held_by_another(folder, end):
    """A process that locks a folder and says so; it ends as soon as its input does, or is killed at once."""
    code = "import fcntl,os,sys; f=open(sys.argv[1]); fcntl.flock(f,2); print('locked',flush=True); " + end
    (folder / "lock").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_folder_has_one_writer(folder, start, whole, capsys):
    other = held_by_another(folder, "sys.stdin.read()")
    before = snapshot(folder)
    assert main(["--resume", str(folder)]) == 1
    one_sentence(capsys, f"{folder} is in use")
    assert main(["rloo", *WORDS, "--start", start, "--eval-episodes", "0", "--overwrite", "--out", str(folder)]) == 1
    one_sentence(capsys, f"{folder} is in use")
    assert snapshot(folder) == before
    other.communicate()
    assert main(["--resume", str(folder)]) == 0
    assert same_policy(folder, whole)


def test_a_lock_dies_with_its_process(tmp_path):
    other = held_by_another(tmp_path, f"os.kill(os.getpid(),{signal.SIGKILL.value})")
    other.communicate()
    with run_folder.writing(tmp_path):
        assert (tmp_path / "lock").exists()


@pytest.mark.parametrize("command", ["compare", "overoptimise", "rlhf", "reproduce"])
def test_so_has_the_folder_of_every_other_command(command, tmp_path, start, capsys):
    results, out = tmp_path / "results.jsonl", tmp_path / "out"
    row = {"format": FORMAT, "label": "ppo", "env_id": "mmenv/VQA-v0", "seed": 0, "status": "done", "files": {}}
    row |= {"algorithm": "ppo", "overrides": {}, "versions": {}, "gold": {"after": 0.5}, "reward": {"after": 0.5}}
    files.write_lines(results, [row])
    words = {
        "compare": ["--algorithms", "sft"], "overoptimise": ["--algorithms", "ppo"], "rlhf": ["--start", start],
        "reproduce": ["ppo", "--results", str(results)],
    }  # fmt: skip
    with run_folder.writing(out):
        assert main([command, *words[command], "--out", str(out)]) == 1
        one_sentence(capsys, f"{out} is in use")
        assert [path.name for path in out.iterdir()] == ["lock"]


def test_a_run_that_went_on_since_it_was_read_is_not_gone_on_with(folder):
    early = resume(folder)
    early.console = QUIET
    assert main(["--resume", str(folder)]) == 0
    with pytest.raises(files.RunError, match="has gone on since"):
        early.train()


# Nothing is lost before its successor begins.


@pytest.mark.parametrize(
    "words",
    [
        "offline-dpo --preferences nope.jsonl", "ppo --judge nope", "ppo --reward nope",
        "ppo --eval-every 1 --eval-split val", "ppo --final-split val", "ppo --start nope", "ppo --metrics nope",
        "ppo --also mmenv/Captioning-v0", "ppo --dataset nope", "ppo --env-id mmenv/Nope-v0", "ppo --device nope",
        "best-of-n --reward nope",
    ],
)  # fmt: skip
def test_a_run_that_is_refused_leaves_no_trace(whole, start, tmp_path, words, capsys):
    folder = shutil.copytree(whole, tmp_path / "deep" / "run")
    before, small = snapshot(folder), ["--eval-episodes", "4", "--num-envs", "8", "--total-tokens", "8"]
    name, *given = words.split()
    command = [name, *(["--start", start] if "--start" not in given else []), "--reward", "gold", *small, *given]
    assert main([*command, "--overwrite", "--out", str(folder)]) == 1
    flag, value = given[-2:]
    one_sentence(capsys, "Nope" if flag == "--env-id" else value)
    assert snapshot(folder) == before
    assert main([*command, "--out", str(tmp_path / "new" / "run")]) == 1
    assert not (tmp_path / "new").exists()


def test_a_judge_that_does_not_exist_is_named_as_such(start, tmp_path, capsys):
    assert main(["ppo", *WORDS, "--start", start, "--judge", "nope", "--out", str(tmp_path / "run")]) == 1
    one_sentence(capsys, "judge='nope'")


def test_another_run_takes_the_place_of_the_old_one_whole(whole, start, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in ("evaluations.json", "model.zip", "start.safetensors", "curves.png"):
        (folder / name).touch()
    (folder / "notes.txt").write_text("mine")
    Trainer("ppo", configured(start, seed=1, overwrite=True, eval_episodes=0), folder, console=QUIET).train()
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "tensorboard", "checkpoint", "summary.json", "lock", "notes.txt"}
    assert json.loads((folder / "config.json").read_text())["seed"] == 1


# Reading does not write.


def test_a_run_under_way_is_evaluated_and_not_changed(folder):
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"update": 4, "tokens": 150}) + "\n")  # beyond its checkpoint
    before = snapshot(folder)
    with run_folder.writing(folder):
        assert main(["evaluate", "--run", str(folder), "--episodes", "4"]) == 0
    after = snapshot(folder)
    assert json.loads(after.pop("evaluations.json"))["mmenv/VQA-v0"]["episodes"] == 4
    assert after == before


def test_an_evaluation_has_an_entry_for_each_shift(folder):
    elsewhere = ["--split", "comp", "--level", "hard", "--shifts", "0", "0.5"]
    assert main(["evaluate", "--run", str(folder), "--episodes", "4", *elsewhere]) == 0
    entries = json.loads((folder / "evaluations.json").read_text())
    assert list(entries) == ["mmenv/VQA-v0 shift 0", "mmenv/VQA-v0 shift 0.5"]
    entry = entries["mmenv/VQA-v0 shift 0.5"]
    assert (entry["split"], entry["level"], entry["shift"]) == ("comp", "hard", 0.5)
    assert set(entry["gold_parts"]) == {"correct", "brevity", "grammar"}
    assert entry["families"]


def test_a_run_without_a_checkpoint_is_not_evaluated_and_not_begun(folder, capsys):
    shutil.rmtree(folder / "checkpoint")
    before = snapshot(folder)
    assert main(["evaluate", "--run", str(folder), "--episodes", "4"]) == 1
    one_sentence(capsys, f"{folder} holds no checkpoint yet")
    assert snapshot(folder) == before
    assert main(["evaluate", "--run", str(folder / "nowhere")]) == 1
    one_sentence(capsys, "nowhere holds no run")


def test_an_evaluation_that_cannot_be_written_down_is_told_all_the_same(folder, monkeypatch, capsys):
    def full(path, value):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(files, "write_json", full)
    assert main(["evaluate", "--run", str(folder), "--episodes", "4"]) == 0
    said = capsys.readouterr().out
    assert "gold 0." in said
    assert "evaluations.json: read-only file system" in said


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_anew(folder, monkeypatch):
    import agents.training.evaluate

    def replaced(path, trusted):
        if not calls:
            (folder / "checkpoint" / "step-3").rename(folder / "checkpoint" / "step-4")
            calls.append(1)
            raise FileNotFoundError("gone")
        return resume(path, trusted)

    calls = []
    monkeypatch.setattr(agents.training.evaluate, "resume", replaced)
    assert main(["evaluate", "--run", str(folder), "--episodes", "4"]) == 0
