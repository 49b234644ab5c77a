"""Grids of runs: what fails is named and the rest goes on, nothing runs twice or is mixed, and what is reported."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from processes import Signal
from rich.console import Console

from agents import files
from agents.__main__ import main
from agents.algorithms.ppo import PPOConfig
from agents.algorithms.reinforce import RLOOConfig
from agents.comparing import grid, results, tuning
from agents.comparing.config import CompareConfig
from agents.comparing.grid import Cell, RetryPolicy, play
from agents.comparing.settings import overrides_of, shared_overrides
from agents.comparing.study import Comparison, labelled, report, variant_of
from agents.training import checkpoints, launch

TASK = "mmenv/VQA-v0"
QUIET = Console(quiet=True)
SPACE = ("learning_rate", "kl_coef")  # of most algorithms


def configured(start, folder, algorithms, **given):
    """A comparison of small runs: 256 tokens of 8 lanes, at most 128 an update, unless an algorithm has other ideas."""
    labels = [labelled(name)[0] for name in algorithms]
    small = [f"{label}/{s}" for label in labels for s in (f"start={start}", *given.pop("small", ("num-envs=8",)))]
    told = {
        "seeds": 2, "total_tokens": 256, "reward": "gold", "eval_episodes": 8, "retries": 0, "out": str(folder),
        "settings": (*small, *given.pop("settings", ())), **given,
    }  # fmt: skip
    return Comparison(CompareConfig(algorithms=tuple(algorithms), **told), QUIET)


def small_cell(start, algorithm="rloo", seed=0, **more):
    overrides = {"start": start, "reward": "gold", "num_envs": 8, "total_tokens": 256, "eval_episodes": 4, **more}
    return Cell(algorithm, algorithm, TASK, seed, overrides)


def by_label(rows):
    return {row["label"]: row for row in rows}


@pytest.fixture(scope="module")
def compared(start, reward_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    algorithms = ("sft", "rloo", "greedy=rloo", "sb3-ppo", "best-of-n")
    settings = ("greedy/kl-coef=0.001", f"best-of-n/reward={reward_model}", "best-of-n/n=2", "sb3-ppo/n-steps=2")
    return folder, configured(start, folder, algorithms, settings=settings, also=("shifted",)).run()


def test_a_row_has_all_that_is_said_of_its_run(compared):
    folder, rows = compared
    assert [(r["label"], r["seed"]) for r in rows] == [
        (label, seed) for label in ("sft", "rloo", "greedy", "sb3-ppo", "best-of-n") for seed in (0, 1)
    ]
    for row in rows:
        assert row["status"] == "done", row
        summary = files.read_json(folder / "runs" / Path(row["log"]).parent / "summary.json")
        assert not list((folder / "runs" / Path(row["log"]).parent).glob("*.png"))  # a grid draws none of its runs
        for name in ("gold", "reward", "tokens", "kl", "seconds", "versions", "commit"):
            assert row[name] == summary[name]
        assert row["also"].keys() == {"mmenv/VQAShifted-v0"}
        assert row["config"]["seed"] == row["seed"]
        assert len(row["curve"]["tokens"]) == len(row["curve"]["gold"]) >= 1
    greedy = by_label(rows)["greedy"]
    assert (greedy["algorithm"], greedy["config"]["kl_coef"]) == ("rloo", 0.001)
    assert results.read(folder / "results.jsonl") == sorted(rows, key=results.key)


def test_a_terminal_is_shown_the_tables_and_nothing_in_the_place_of_figures(compared, start, tmp_path):
    files.write_lines(tmp_path / "results.jsonl", [row for row in compared[1] if row["label"] in ("sft", "rloo")])
    comparison = configured(start, tmp_path, ("sft", "rloo"), also=("shifted",))
    comparison.console = Console(file=io.StringIO(), width=100, emoji=False)
    comparison.run()
    said = comparison.console.file.getvalue()
    assert "rloo" in said
    assert "![" in (tmp_path / "report.md").read_text()
    assert not re.search("[\U0001f300-\U0001faff]|!\\[", said)


def test_all_runs_begin_from_the_same_policy(compared):
    assert len({row["gold"]["before"] for row in compared[1] if not row["label"].startswith("sb3")}) == 1


def test_the_report_is_made_from_the_rows_alone(compared, tmp_path):
    folder, rows = compared
    text = report(rows, tmp_path)
    assert "# Comparison\n\n" + text == (folder / "report.md").read_text()
    for name in ("intervals", "profiles", "efficiency", "improvement"):
        for ending in ("svg", "png"):
            assert (tmp_path / f"{name}.{ending}").stat().st_size > 1000
    for label in ("sft", "rloo", "greedy", "sb3-ppo", "best-of-n"):
        assert f"| {label} |" in text
    assert "Failed" not in text


def test_a_seed_that_failed_for_every_label_is_left_out_of_the_statistics(compared, tmp_path):
    rows = [row for row in compared[1] if row["label"] in ("rloo", "greedy")]
    common = ("format", "label", "algorithm", "env_id", "overrides", "files", "log", "machine", "versions", "commit")
    failed = {"seed": 2, "status": "failed", "attempts": 1, "error": "exit 9"}
    failures = [{name: row[name] for name in common} | failed for row in rows if row["seed"] == 0]
    text = report(rows + failures, tmp_path)
    statistics, failed_table = text.split("## Over mmenv")[1].split("## Failed")
    assert statistics.strip() == report(rows, tmp_path).split("## Over mmenv")[1].strip()
    assert "## Over tokens" in statistics
    assert failed_table.count("exit 9") == 2


def test_a_whole_grid_is_not_run_again(compared, start, monkeypatch):
    folder, rows = compared
    monkeypatch.setattr(grid, "play", None)
    algorithms = ("sft", "rloo")
    assert configured(start, folder, algorithms, also=("shifted",)).run() == rows[:4]
    assert len(results.read(folder / "results.jsonl")) == len(rows)  # the others' rows stay


def test_what_fails_is_named_with_its_reason_and_the_rest_goes_on(start, tmp_path):
    algorithms = ("strangers:Raises", "strangers:NotANumber", "strangers:Dies", "rloo")
    told = Console(record=True, width=200, file=(tmp_path / "told").open("w"))
    comparison = configured(start, tmp_path / "out", algorithms, seeds=1, jobs=2)
    comparison.console = told
    with pytest.raises(ValueError, match="3 of 4 runs failed"):
        comparison.run()
    rows = by_label(results.read(tmp_path / "out" / "results.jsonl"))
    assert {label: row["status"] for label, row in rows.items()} == {
        "strangers:Raises": "failed", "strangers:NotANumber": "failed", "strangers:Dies": "failed", "rloo": "done",
    }  # fmt: skip
    assert "IndexError" in rows["strangers:Raises"]["error"]
    assert "the loss is nan" in rows["strangers:NotANumber"]["error"]
    assert rows["strangers:Dies"]["error"].startswith("exit 9")
    text, screen = (tmp_path / "out" / "report.md").read_text(), told.export_text()
    for label in ("strangers:Raises", "strangers:NotANumber", "strangers:Dies"):
        log = tmp_path / "out" / "runs" / rows[label]["log"]
        assert log.is_file()
        assert f"failed {label} on {TASK}, seed 0" in screen
        assert f"runs/{rows[label]['log']}" in text
    assert "| rloo |" in text


def test_a_run_that_breaks_the_budget_has_failed(start, tmp_path):
    with pytest.raises(ValueError, match="1 of 1 runs failed"):
        configured(start, tmp_path, ("strangers:Overdraws",), seeds=1, small=(), retries=1).run()
    (row,) = results.read(tmp_path / "results.jsonl")
    assert (row["status"], row["attempts"]) == ("failed", 1)  # a second would end the same
    assert "of a budget of 256" in row["error"]


def test_a_run_that_hangs_is_stopped(start, tmp_path):
    row = play(small_cell(start, "strangers:Hangs"), tmp_path, RetryPolicy(0, 2))
    assert (row["status"], row["error"]) == ("failed", "stopped after 2 seconds")


def test_a_failed_run_is_tried_again_and_anew(start, tmp_path):
    cell = small_cell(start, "strangers:NotANumber")
    row = play(cell, tmp_path, RetryPolicy(1))
    assert row["attempts"] == 2
    log = (tmp_path / row["log"]).read_text()
    assert log.count("error: the loss is nan") == 2
    assert "--resume" not in log
    assert checkpoints.newest_checkpoint(tmp_path / cell.path) is None


def test_a_failure_that_may_pass_keeps_the_checkpoint_and_another_does_not(tmp_path, monkeypatch):
    def attempt(cell, root, seconds):
        folder = root / cell.path
        begun.append(getattr(checkpoints.newest_checkpoint(folder), "name", None))
        checkpoints.save_checkpoint(folder, len(begun), {"policy": {"x": torch.ones(1)}}, {})
        return ends.pop(0)

    begun, ends = [], [("the server is down", True), ("the loss is nan", False), ("stopped after 8 seconds", True)]
    monkeypatch.setattr(grid, "_attempt", attempt)
    cell = Cell("rloo", "rloo", TASK, 0)
    row = play(cell, tmp_path, RetryPolicy(2))
    assert (row["status"], row["attempts"], row["error"]) == ("failed", 3, "stopped after 8 seconds")
    assert begun == [None, "step-1", None]
    assert checkpoints.newest_checkpoint(tmp_path / cell.path).name == "step-3"  # the same command goes on from here


@pytest.mark.parametrize(
    ("code", "passes"),
    [(1, False), (2, False), (0, False), (launch.TRANSIENT, True), (9, True), (-9, True), (None, True)],
)
def test_kills_time_limits_and_servers_that_are_down_may_pass_and_errors_do_not(tmp_path, monkeypatch, code, passes):
    class Process:
        exitcode = code

        def __init__(self, target, args):
            folder = args[1] / args[0].path
            folder.mkdir(parents=True)
            (folder / "log.txt").write_text("it went wrong\n")

        def start(self):
            pass

        join = kill = lambda self, *_: None

    monkeypatch.setattr(grid, "CONTEXT", SimpleNamespace(Process=Process))
    error, may_pass = grid._attempt(Cell("rloo", "rloo", TASK, 0), tmp_path, 8)
    assert error == ("stopped after 8 seconds" if code is None else f"exit {code}: it went wrong")
    assert may_pass is passes


def test_a_reward_that_fails_is_a_failure_that_may_pass(start, tmp_path, capsys):
    words = ["rloo", "--start", start, "--reward", "http://127.0.0.1:9/?patience=0", "--num-envs", "8"]
    words += ["--eval-episodes", "0", "--out", str(tmp_path / "run")]
    config = RLOOConfig(start=start, reward="http://127.0.0.1:9/?patience=0", num_envs=8, eval_episodes=0)
    assert launch.run("rloo", config, tmp_path / "run") == launch.TRANSIENT
    assert main(words) == 1


def test_a_cell_does_not_go_on_with_a_run_of_other_settings(tmp_path):
    cell = Cell("rloo", "rloo", TASK, 0, {"num_envs": 8})
    checkpoints.save_checkpoint(tmp_path, 1, {"policy": {"x": torch.ones(1)}}, {})
    grid._forget_others(cell, tmp_path)
    grid._forget_others(cell, tmp_path)
    assert checkpoints.newest_checkpoint(tmp_path) is not None
    grid._forget_others(cell._replace(overrides={"num_envs": 16}), tmp_path)
    assert checkpoints.newest_checkpoint(tmp_path) is None


def test_a_run_has_the_settings_of_its_cell_and_the_files_of_its_grid(tmp_path):
    cell = Cell("a", "rloo", TASK, 3, {"num_envs": 8, "also": ("mmenv/VQAHard-v0",)}, {"reward": "rewards/a"})
    config = cell.config(tmp_path / "runs")
    assert config == RLOOConfig(
        seed=3, num_envs=8, also=("mmenv/VQAHard-v0",), reward=str(tmp_path / "rewards" / "a"), threads=1,
        pictures=False, out=str(tmp_path / "runs" / "a" / "mmenv-VQA-v0" / "3"),
    )  # fmt: skip


def drive(start, out):
    """A grid of three runs; in a process of its own, which is killed after the first of them."""
    Signal(signal.SIGKILL, out / "results.jsonl", lines=1).watch()
    configured(start, out, ("rloo",), seeds=3).run()


@pytest.mark.slow
def test_a_killed_grid_goes_on_where_it_was_and_ends_the_same(start, tmp_path):
    whole = configured(start, tmp_path / "whole", ("rloo",), seeds=3, jobs=2).run()
    driver = grid.CONTEXT.Process(target=drive, args=(start, tmp_path / "killed"))
    driver.start()
    driver.join()
    assert driver.exitcode == -signal.SIGKILL
    assert 0 < len(results.read(tmp_path / "killed" / "results.jsonl")) < 3
    rows = configured(start, tmp_path / "killed", ("rloo",), seeds=3, jobs=2).run()
    kept = ("label", "seed", "gold", "reward", "kl", "tokens")
    assert [[row[name] for name in kept] for row in rows] == [[row[name] for name in kept] for row in whole]
    assert Counter(row["status"] for row in rows) == {"done": 3}


@pytest.mark.slow
def test_an_interrupted_grid_keeps_its_checkpoints_and_goes_on(start, tmp_path):
    """As Ctrl-C at a terminal: the driver and its runs hear it."""
    settings = [f"strangers:Slow/{s}" for s in (f"start={start}", "num-envs=8", "checkpoint-every=1")]
    words = ["compare", "--algorithms", "strangers:Slow", "--settings", *settings, "--seeds", "2", "--jobs", "1"]
    words += ["--total-tokens", "512", "--reward", "gold", "--eval-episodes", "4", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    driver = subprocess.Popen(
        [sys.executable, "-m", "agents", *words], stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment,
    )  # fmt: skip
    deadline = time.monotonic() + 400
    while not any(tmp_path.glob("runs/*/*/0/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGINT)
    _, told = driver.communicate(timeout=400)
    assert driver.returncode == files.INTERRUPTED, told
    assert "interrupted" in told
    (folder,) = tmp_path.glob("runs/*/*/*")  # the second never began
    assert checkpoints.newest_checkpoint(folder) is not None
    assert results.read(tmp_path / "results.jsonl") == []
    assert main(words) == 0
    assert [row["status"] for row in results.read(tmp_path / "results.jsonl")] == ["done"] * 2
    updates = [row["update"] for row in files.read_lines(folder / "metrics.jsonl")]
    assert updates == list(range(1, len(updates) + 1))
    assert "--resume" in (folder / "log.txt").read_text()


def test_two_at_one_cell_wait_for_each_other(start, tmp_path):
    cell = small_cell(start)
    with ThreadPoolExecutor(2) as threads:  # each of which begins a process for the run
        both = list(threads.map(lambda _: play(cell, tmp_path, RetryPolicy()), range(2)))
    assert [row["status"] for row in both] == ["done", "done"]
    assert (tmp_path / cell.path / "log.txt").read_text().count("run: ") == 1  # only one of them ran


def test_results_of_other_versions_are_refused_or_marked(compared, start, tmp_path):
    rows = [json.loads(json.dumps(row)) for row in compared[1] if row["label"] in ("sft", "rloo")]
    for row in rows[2:]:
        row["versions"]["torch"] = "1.0.0"
    files.write_lines(tmp_path / "results.jsonl", rows)
    given = {"algorithms": ("sft", "rloo"), "also": ("shifted",)}
    with pytest.raises(ValueError, match=r"torch 1\.0\.0 instead of .*--mark-versions"):
        configured(start, tmp_path, **given).run()
    configured(start, tmp_path, **given, mark_versions=True).run()
    text = (tmp_path / "report.md").read_text()
    assert "| rloo † |" in text
    assert "| sft |" in text
    assert "† marks rows of other versions" in text


def test_results_of_other_settings_are_refused(compared, start, tmp_path):
    files.write_lines(tmp_path / "results.jsonl", compared[1])
    with pytest.raises(ValueError, match="take another --out"):
        configured(start, tmp_path, ("sft",), total_tokens=64, also=("shifted",)).run()


def test_results_in_another_form_are_refused(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"format": 0}\n')
    with pytest.raises(ValueError, match=r"line 1: format 0"):
        results.read(tmp_path / "results.jsonl")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"algorithms": ("pppo",)}, "did you mean 'ppo'"),
        ({"algorithms": ("sb3-dqn",)}, "sb3-ppo"),
        ({"algorithms": ("ppo", "ppo")}, "LABEL=NAME"),
        ({"envs": ("mmenv/VAQ-v0",)}, "VAQ"),
        ({"settings": ("ppo/kl-coeff=1",)}, "but kl-coef"),
        ({"settings": ("kl-coef=1",)}, "ALGORITHM/NAME=VALUE"),
        ({"settings": ("grpo/kl-coef=1",)}, "settings of grpo"),
        ({"envs": ("mmenv/VQAHard-v0",), "also": ("shifted",)}, "leave shifted out of --also"),
    ],
)
def test_what_does_not_exist_is_told_before_anything_runs(given, said, tmp_path):
    with pytest.raises((ValueError, gym.error.Error), match=said):
        Comparison(CompareConfig(**{"algorithms": ("ppo",), "out": str(tmp_path / "out"), **given}), QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["seeds", "total_tokens", "jobs"])
def test_a_grid_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        CompareConfig(**{name: 0})


def test_equal_seconds_and_equal_kl_reach_every_run():
    overrides = shared_overrides(CompareConfig(max_seconds=7, stop_at_kl=0.5), "gold")
    assert overrides == {
        "reward": "gold", "total_tokens": 20_000, "eval_episodes": 512, "max_seconds": 7, "stop_at_kl": 0.5,
    }  # fmt: skip


def test_settings_are_values_of_the_type_that_the_algorithm_has():
    settings = ("a/kl-coef=0.5", "a/metrics=cider wer", "a/normalisation=dapo", "a/recompute-logp=True", "b/n=3")
    assert overrides_of("a", "grpo", settings, {"seed": 1}) == {
        "seed": 1, "kl_coef": 0.5, "metrics": ("cider", "wer"), "normalisation": "dapo", "recompute_logp": True,
    }  # fmt: skip
    for setting, fault in (("a/kl-coef=much", "'much' is no value"), ("a/kl-coef=-1", "kl_coef=-1")):
        with pytest.raises(ValueError, match=fault):
            overrides_of("a", "grpo", (setting,), {})


@pytest.mark.parametrize("algorithm", ["rloo", "sb3-ppo"])
def test_a_run_ends_at_its_kl_or_after_its_seconds(algorithm, start, tmp_path):
    far = {"total_tokens": 4000, "learning_rate": 0.01, "eval_episodes": 0}
    far |= {"n_steps": 2} if algorithm == "sb3-ppo" else {}
    for limit in ({"stop_at_kl": 0.001}, {"max_seconds": 0.05}):
        out = tmp_path / min(limit)
        config = small_cell(start, algorithm, **far, **limit).config(tmp_path)
        assert launch.run(algorithm, config, out) == 0
        assert files.read_json(out / "summary.json")["tokens"] < 2000


def trial_row(gold):
    return {"status": "done", "gold": {"after": gold}, "reward": {"after": -gold}}


def test_trials_are_as_many_for_all_and_apart_from_the_comparison():
    cell = Cell("ppo", "ppo", TASK, 0, {"reward": "gold"})
    trials = tuning.Search(cell).ask(4)
    assert trials == tuning.Search(cell._replace(seed=3)).ask(4)
    assert [trial.seed for trial in trials] == [tuning.FIRST_SEED + k for k in range(4)]
    common = {"reward": "gold", "final_split": "validation"}
    defaults = {"kl_coef": PPOConfig().kl_coef, "learning_rate": PPOConfig().learning_rate}
    assert trials[0].overrides == {**common, **defaults}
    for trial in trials[1:]:
        assert trial.overrides.keys() == {*common, *SPACE}
        for name, (low, high) in tuning.space_of(cell).items():
            assert low <= trial.overrides[name] <= high
    assert len({json.dumps(trial.overrides) for trial in trials}) == 4
    assert "kl_coef" not in tuning.Search(cell._replace(algorithm="sft")).ask(3)[2].overrides
    fixed = tuning.Search(cell._replace(overrides={"kl_coef": 0.1}))
    assert [trial.overrides["kl_coef"] for trial in fixed.ask(3)] == [0.1] * 3


def test_the_best_trial_is_that_of_most_gold():
    search = tuning.Search(Cell("ppo", "ppo", TASK, 0))
    trials = search.ask(4)
    search.tell([trial_row(0.5), trial_row(0.9), trial_row(0.7), {"status": "failed"}])
    assert search.best == {name: trials[1].overrides[name] for name in SPACE}
    lost = tuning.Search(Cell("ppo", "ppo", TASK, 0))
    lost.ask(1)
    lost.tell([{"status": "failed"}])
    assert lost.best == {}


def test_later_trials_follow_from_the_rows_of_earlier_ones():
    def searched(golds):
        search = tuning.Search(Cell("ppo", "ppo", TASK, 0))
        for first in range(0, len(golds), 4):
            trials = search.ask(4)
            search.tell([trial_row(gold) for gold in golds[first : first + 4]])
        return search.ask(1), trials

    golds = [float(gold) for gold in np.random.default_rng(0).uniform(size=12)]
    assert searched(golds) == searched(golds)
    assert searched(golds)[0] != searched(golds[::-1])[0]


def test_tuning_is_recorded_and_used(start, tmp_path):
    rows = configured(start, tmp_path, ("rloo",), seeds=1, tune=2).run()
    trials = results.read(tmp_path / "tuning.jsonl")
    assert [t["split"] for t in trials] == ["validation"] * 2
    assert rows[0]["split"] == "test"
    best = max(trials, key=lambda row: row["gold"]["after"])
    assert {name: rows[0]["config"][name] for name in SPACE} == {name: best["config"][name] for name in SPACE}


def test_labels_and_variants():
    assert labelled("dapo=grpo") == ("dapo", "grpo")
    assert labelled("my.package:Agent") == ("my.package:Agent", "my.package:Agent")
    assert variant_of(TASK, "shifted") == "mmenv/VQAShifted-v0"
    assert variant_of(TASK, "comp") == f"{TASK}@comp"
    assert launch.config_class("sb3-ppo").__name__ == "SB3Config"


def test_the_command_line_compares(start, tmp_path):
    small = [f"ppo/{s}" for s in (f"start={start}", "num-envs=8")]
    given = ["--seeds", "1", "--total-tokens", "256", "--eval-episodes", "4", "--reward", "gold", "--jobs", "1"]
    assert main(["compare", "--algorithms", "ppo", *given, "--settings", *small, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.md").is_file()
    assert main(["compare", "--algorithms", "nobody", "--out", str(tmp_path)]) == 1
