"""Runs: their files, exact resume after any kill, interrupts, and failures that lose nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import mmenv
from agents import runs
from agents.__main__ import main
from agents.config import PPOConfig
from agents.trainer import Trainer, resume
from mmenv.models.checkpoints import save_network
from mmenv.models.transformer import Network, NetworkConfig

ROOT = Path(__file__).parent.parent
FILES = {
    "config.json", "metrics.jsonl", "tensorboard", "checkpoint", "curves.png", "samples.png", "samples.jsonl", "summary.json",
}  # fmt: skip


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "start.safetensors"
    save_network(Network(NetworkConfig(vocab_size=401, width=32, layers=1, heads=2)), path)
    return path


def arguments(start, out, tokens=3000):
    return [
        "ppo", "--env-id", "mmenv/VQA-v0", "--reward", "gold", "--start", str(start), "--total-tokens", str(tokens),
        "--num-envs", "16", "--eval-episodes", "16", "--checkpoint-every", "3", "--threads", "1", "--out", str(out),
    ]  # fmt: skip


def weights(folder):
    return runs.load_checkpoint(folder)[0]


def same(a, b):
    return all(torch.equal(a[name][key], b[name][key]) for name in ("policy", "optimiser") for key in a[name])


def test_a_run_leaves_everything_that_it_promises(start, tmp_path):
    assert main(arguments(start, tmp_path / "run")) == 0
    assert {p.name for p in (tmp_path / "run").iterdir()} >= FILES
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["tokens"] >= 3000
    assert summary["split"] == "test"
    assert set(summary) >= {"env_id", "algorithm", "seed", "seconds", "tokens_per_second", "kl", "episodes", "versions"}
    assert 0 <= summary["gold"]["before"] <= 1
    assert 0 <= summary["gold"]["after"] <= 1
    rows = runs.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["tokens"] == summary["tokens"]
    assert all(r["kl"] >= 0 for r in rows)
    samples = runs.read_lines(tmp_path / "run" / "samples.jsonl")
    assert all(s["choice"] is None and len(s["responses"]) == 2 for s in samples)


def test_a_killed_run_resumed_ends_with_the_same_weights_bit_for_bit(start, tmp_path):
    assert main(arguments(start, tmp_path / "whole")) == 0
    command = [sys.executable, "-m", "agents", *arguments(start, tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(runs.read_lines(metrics)) < 8:
        assert time.monotonic() < deadline
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    assert main(["ppo", "--resume", str(tmp_path / "killed")]) == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    a, b = (runs.read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed"))
    assert [r["reward"] for r in a] == [r["reward"] for r in b]


def test_an_interrupted_run_leaves_a_checkpoint_and_says_how_to_go_on(start, tmp_path):
    command = [sys.executable, "-m", "agents", *arguments(start, tmp_path / "run", 1_000_000)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(runs.read_lines(metrics)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in output
    done = len(runs.read_lines(metrics))
    assert runs.load_checkpoint(tmp_path / "run")[1]["updates"] == done


@pytest.mark.parametrize("moment", ["checkpoint.new", "checkpoint.old"])
def test_a_kill_while_a_checkpoint_is_written_leaves_a_whole_one(tmp_path, moment):
    runs.save_checkpoint(tmp_path, {"policy": {"x": torch.ones(2)}}, {"updates": 1})
    (tmp_path / "checkpoint").rename(tmp_path / moment)  # the state between two renames
    half = tmp_path / "checkpoint.new"
    if moment == "checkpoint.old":
        half.mkdir()
        (half / "state.json").write_text("{")  # half written: no marker
    tensors, state = runs.load_checkpoint(tmp_path)
    assert state == {"updates": 1}
    assert tensors["policy"]["x"].tolist() == [1.0, 1.0]


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert main(["--resume", str(tmp_path)]) == 1
    assert "config.json" in capsys.readouterr().err


def test_an_unknown_environment_argument_or_reward_is_named(start, tmp_path, capsys):
    bad = arguments(start, tmp_path / "run")
    bad[bad.index("gold")] = "praise"
    assert main(bad) == 1
    assert "praise" in capsys.readouterr().err


def test_a_reward_of_nan_ends_the_run_with_what_was_learned(start, tmp_path):
    calls = []

    def sometimes(samples, responses):
        calls.append(1)
        return np.full(len(samples), np.nan if len(calls) > 40 else 0.0)

    config = PPOConfig(num_envs=16, eval_episodes=0, total_tokens=10_000, start=str(start), checkpoint_every=1)
    trainer = Trainer("ppo", config, tmp_path / "run", console=Console(quiet=True), reward=sometimes)
    with pytest.raises(mmenv.RewardError, match="finite"):
        trainer.train()
    assert runs.load_checkpoint(tmp_path / "run")[1]["updates"] >= 1


def test_resume_reads_the_configuration_of_the_run(start, tmp_path):
    main(arguments(start, tmp_path / "run", tokens=200))
    again = resume(tmp_path / "run")
    assert again.config.num_envs == 16
    assert again.tokens >= 200
