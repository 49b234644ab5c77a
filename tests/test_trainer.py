"""Runs: their files, exact resume after any kill, interrupts, and failures that lose nothing."""

import io
import json
import re
import shutil
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from processes import Command, Signal
from rich.console import Console

import mmenv
from agents import files
from agents.__main__ import main
from agents.algorithms.best_of_n import BestOfNConfig
from agents.algorithms.ppo import PPOConfig
from agents.training import checkpoints
from agents.training.loading import load_policy, resume
from agents.training.report import describe, table
from agents.training.trainer import Trainer
from mmenv.feedback.agreement import win_rates
from mmenv.feedback.comparison_files import read_comparisons
from mmenv.models.checkpoints import load_pretrained, save_network
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.worlds.vocabulary import world_tokenizer

LONG = 6000
FILES = {
    "config.json", "metrics.jsonl", "tensorboard", "checkpoint", "curves.png", "samples.png", "samples.jsonl",
    "summary.json",
}  # fmt: skip


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "start.safetensors"
    save_network(Network(NetworkConfig(vocab_size=world_tokenizer().vocab_size, width=32, layers=1, heads=2)), path)
    return path


def arguments(start, out, tokens=3000, pictures=False):
    drawn = [] if pictures else ["--no-pictures"]
    return [
        "ppo", "--env-id", "mmenv/VQA-v0", "--reward", "gold", "--start", str(start), "--total-tokens", str(tokens),
        "--num-envs", "16", "--eval-episodes", "16", "--checkpoint-every", "3", "--threads", "1", *drawn,
        "--out", str(out),
    ]  # fmt: skip


def test_word_pairs_of_a_batch_are_told_apart():
    """Distinct pairs are counted over all responses, repeated ones within each."""
    texts = ["a b c d", "no no no no", ""]
    batch = SimpleNamespace(
        gold=np.full(3, np.nan), scores=torch.zeros(3), num_tokens=9, texts=texts, stops=["eos"] * 3
    )
    row = describe(batch)
    assert row["repetition"] == pytest.approx((0 + 2 / 3 + 0) / 3)
    assert row["diversity"] == pytest.approx(4 / 6)


def test_the_last_table_shows_gold_with_its_interval_and_the_way_to_the_oracle_where_it_is_known():
    summary = {
        "algorithm": "ppo", "env_id": "mmenv/VQA-v0", "episodes": 512, "split": "test", "kl": 1.0,
        "tokens": 1234, "tokens_per_second": 900.0, "way": 0.4171,
        "reward": {"before": 0.2, "after": 1.5}, "gold": {"before": 0.6, "after": 0.953},
        "gold_interval": {"before": [0.571, 0.632], "after": [0.9441, 0.9619]},
        "length": {"before": 3.0, "after": 2.5}, "diversity": {"before": 0.3, "after": 0.2},
        "greedy": {"gold": {"before": 0.7, "after": 0.961}, "gold_interval": {"before": [0.68, 0.72], "after": None}},
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    console.print(table(summary, 1000))
    assert "1,234 (budget 1,000)" in console.file.getvalue()
    lines = console.file.getvalue().splitlines()
    names = ("gold, sampled", "gold, greedy", "reward")
    gold, greedy, reward = (next(line for line in lines if f" {name} " in line) for name in names)
    assert "0.600 [0.571, 0.632]" in gold
    assert "0.953 [0.944, 0.962]" in gold
    assert gold.count("[") == 3
    assert "0.700 [0.680, 0.720]" in greedy
    assert "0.961 " in greedy
    assert "1.500 " in reward
    assert any("way from start to oracle" in line and " 42% " in line for line in lines)
    console.print(table(summary | {"way": None}, 1000))
    assert console.file.getvalue().count("way from start") == 1


def test_the_last_table_has_no_gold_where_none_is_known():
    nothing = {"before": None, "after": None}
    summary = {
        "algorithm": "ppo", "env_id": "mmenv/VQA-v0", "episodes": 0, "split": "test", "kl": 1.0,
        "tokens": 1234, "tokens_per_second": 900.0,
        **dict.fromkeys(("reward", "gold", "gold_interval", "length", "diversity"), nothing),
    }  # fmt: skip
    assert table(summary, 1000).row_count == 3


def test_greedy_gold_of_a_summary_is_that_of_the_likeliest_tokens(start, tmp_path):
    config = small(start, eval_episodes=16, eval_every=1, also=("mmenv/VQAHard-v0",))
    summary = Trainer("ppo", config, tmp_path / "run", console=Console(quiet=True)).train()
    env = gym.make_vec(config.env_id, num_envs=1, reward="gold").unwrapped
    for when, weights in (("before", config.start), ("after", tmp_path / "run")):
        likeliest = load_policy(weights, env, greedy=True)
        hidden, _ = likeliest.begin(likeliest.encode(env.reset(seed=0)[0]))
        assert likeliest.sample(hidden)[1] == likeliest.log_probs(hidden).max()
        result = mmenv.evaluate(likeliest.act, config.env_id, episodes=16, reward="gold")
        assert summary["greedy"]["gold"][when] == pytest.approx(result.gold)
        assert summary["greedy"]["length"][when] == pytest.approx(result.length)
    assert summary["also"]["mmenv/VQAHard-v0"]["greedy"]["gold"] is not None
    rows = files.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert all(0 <= row["validation_greedy_gold"] <= 1 for row in rows)


def weights(folder):
    return checkpoints.load_checkpoint(folder)[0]


def same(a, b):
    return all(torch.equal(a[name][key], b[name][key]) for name in ("policy", "optimiser") for key in a[name])


def test_a_run_leaves_everything_that_it_promises(start, tmp_path):
    assert main(arguments(start, tmp_path / "run", pictures=True)) == 0
    assert {p.name for p in (tmp_path / "run").iterdir()} >= FILES
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["tokens"] >= 3000
    assert summary["split"] == "test"
    assert set(summary) >= {"env_id", "algorithm", "seed", "seconds", "tokens_per_second", "kl", "episodes", "versions"}
    assert 0 <= summary["gold"]["before"] <= 1
    assert 0 <= summary["gold"]["after"] <= 1
    rows = files.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["tokens"] == summary["tokens"]
    assert all(r["kl"] >= 0 for r in rows)
    samples = files.read_lines(tmp_path / "run" / "samples.jsonl")
    assert all(s["choice"] is None and len(s["responses"]) == 2 for s in samples)
    judged = [
        replace(c, choice=1, annotator="ann") for c in read_comparisons(tmp_path / "run/samples.jsonl").comparisons
    ]
    assert win_rates(judged) == {"before": (0.0, len(samples)), "after": (1.0, len(samples))}
    assert all((tmp_path / "run" / s["image"]).is_file() for s in samples)


def test_the_kl_of_a_run_is_that_of_the_policy_it_ended_with(start, tmp_path):
    """One update that moves far: the row of it has the KL of the start to itself, the summary that of what it left."""
    out = tmp_path / "run"
    learn = ["--learning-rate", "0.01", "--epochs", "4", "--num-envs", "64", "--total-tokens", "1"]
    assert main([*arguments(start, out), *learn]) == 0
    (row,) = files.read_lines(out / "metrics.jsonl")
    assert row["kl"] == pytest.approx(0, abs=1e-6)
    told = json.loads((out / "summary.json").read_text())["kl"]
    assert told > 0.01
    again = resume(out)
    before = again.randomness.states()
    assert again._final_kl() == pytest.approx(told)
    assert torch.equal(before[0], again.randomness.states()[0])
    assert before[1] == again.randomness.states()[1]


def test_resume_shows_a_finished_run_and_refuses_one_of_another_algorithm(whole, capsys):
    folder = str(whole / "run")
    capsys.readouterr()
    was = (whole / "run" / "summary.json").stat().st_mtime_ns
    assert main(["ppo", "--resume", folder]) == 0
    said = capsys.readouterr().out
    assert f"{folder} is finished" in said
    assert f"(budget {LONG:,})" in said
    assert (whole / "run" / "summary.json").stat().st_mtime_ns == was
    assert main(["rloo", "--resume", folder]) == 1
    assert f"{folder} holds ppo and not rloo" in capsys.readouterr().err


def test_the_bar_has_its_width_at_80_columns_and_ends_with_the_run(start, tmp_path):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    given = {"num_envs": 64, "eval_episodes": 0, "total_tokens": 1_000_000, "start": str(start)}
    Trainer(
        "best-of-n", BestOfNConfig(**given), tmp_path, console=console, reward=lambda s, r: np.zeros(len(r))
    ).train()
    bar = next(line for line in reversed(console.file.getvalue().splitlines()) if "best-of-n \u2501" in line)
    assert bar.count("\u2501") == 28
    done, total = bar.split(" tokens")[0].split()[-1].split("/")
    assert done == total


def stopped(number, command, folder, updates):
    """A run in a process of its own that got a signal when it had written so many lines of metrics, and what it said"""
    process = Command("agents", *command, watch=Signal(number, folder / "metrics.jsonl", updates))
    return process, process.ended()


def curve(folder):
    """KL by update, after a check that no update is missing or there twice."""
    rows = files.read_lines(folder / "metrics.jsonl")
    assert [r["update"] for r in rows] == list(range(1, len(rows) + 1))
    return [r["kl"] for r in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A start, and a run from it that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    save_network(
        Network(NetworkConfig(vocab_size=world_tokenizer().vocab_size, width=32, layers=1, heads=2)),
        folder / "start.safetensors",
    )
    assert main(arguments(folder / "start.safetensors", folder / "run", LONG)) == 0
    return folder


def test_a_run_killed_twice_and_resumed_ends_with_the_same_weights_bit_for_bit(whole, tmp_path):
    killed = tmp_path / "killed"
    for command, updates in (
        (arguments(whole / "start.safetensors", killed, LONG), 7),
        (["--resume", str(killed)], 16),
    ):
        process, _ = stopped(signal.SIGKILL, command, killed, updates)
        assert process.code == -signal.SIGKILL
    assert not (killed / "summary.json").exists()
    assert main(["ppo", "--resume", str(killed)]) == 0
    assert same(weights(whole / "run"), weights(killed))
    assert curve(whole / "run") == curve(killed)


def test_an_interrupted_run_says_how_to_go_on_and_ends_with_the_same_weights(whole, tmp_path):
    process, output = stopped(signal.SIGINT, arguments(whole / "start.safetensors", tmp_path, LONG), tmp_path, 4)
    assert process.code == 130
    assert f"--resume {tmp_path}" in output.replace("\n", "")
    assert checkpoints.load_checkpoint(tmp_path)[1]["updates"] == len(curve(tmp_path))
    assert main([f"--resume={tmp_path}"]) == 0
    assert same(weights(whole / "run"), weights(tmp_path))


def test_a_run_killed_before_its_first_checkpoint_begins_anew(whole, tmp_path):
    config = json.loads((whole / "run" / "config.json").read_text())
    files.write_json(tmp_path / "config.json", {**config, "eval_episodes": 0})
    assert main(["--resume", str(tmp_path)]) == 0
    assert same(weights(whole / "run"), weights(tmp_path))


def test_a_new_run_in_a_used_folder_takes_nothing_from_the_old_one(whole, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    config = PPOConfig(
        num_envs=16, eval_episodes=0, start=str(whole / "start.safetensors"), reward="gold", overwrite=True
    )
    trainer = Trainer("ppo", config, tmp_path / "run", console=Console(quiet=True))
    assert checkpoints.load_checkpoint(tmp_path / "run")[1]["updates"] > 0  # nothing is lost before the new one begins
    trainer._begin()
    trainer._save()
    assert checkpoints.load_checkpoint(tmp_path / "run")[1]["updates"] == 0
    assert {p.name for p in (tmp_path / "run").iterdir()} <= {"config.json", "checkpoint", "lock"}


def test_a_new_run_killed_at_its_beginning_is_not_resumed_with_the_old_weights(whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(self):
        raise Killed

    shutil.copytree(whole / "run", tmp_path / "run")
    config = PPOConfig(
        num_envs=16, eval_episodes=0, start=str(whole / "start.safetensors"), reward="gold", overwrite=True, seed=7
    )
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", kill)
        with pytest.raises(Killed):
            Trainer("ppo", config, tmp_path / "run", console=Console(quiet=True)).train()
    again = resume(tmp_path / "run")
    assert (again.config.seed, again.updates) == (7, 0)


def test_resume_needs_no_file_outside_the_folder_and_the_policy_loads_by_path(start, tmp_path):
    assert main(arguments(start, tmp_path / "run", tokens=200)) == 0
    start.unlink()
    assert resume(tmp_path / "run").updates > 0
    network = load_pretrained(checkpoints.policy_of(tmp_path / "run"))
    saved = weights(tmp_path / "run")["policy"]
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())


def test_a_failure_while_a_checkpoint_is_written_leaves_the_older_one_whole(tmp_path):
    checkpoints.save_checkpoint(tmp_path, 1, {"policy": {"x": torch.ones(2)}}, {"updates": 1})
    with pytest.raises(TypeError):
        checkpoints.save_checkpoint(tmp_path, 2, {"policy": {"x": torch.zeros(2)}}, {"updates": object()})
    tensors, state = checkpoints.load_checkpoint(tmp_path)
    assert state == {"updates": 1}
    assert tensors["policy"]["x"].tolist() == [1.0, 1.0]


def test_an_unknown_environment_argument_or_reward_is_named(start, tmp_path, capsys):
    bad = arguments(start, tmp_path / "run")
    bad[bad.index("gold")] = "praise"
    assert main(bad) == 1
    assert "praise" in capsys.readouterr().err


def test_a_reward_of_nan_ends_the_run_with_a_checkpoint_of_everything_before_it(start, tmp_path):
    def length(samples, responses):
        return np.array([len(r.text) for r in responses], np.float32)

    def broken(samples, responses):
        calls.append(1)
        return length(samples, responses) * (np.nan if len(calls) > 12 else 1)

    def trainer(name, reward, again=False):
        config = PPOConfig(
            num_envs=16, eval_episodes=0, total_tokens=3000, start=str(start), checkpoint_every=1000, pictures=False
        )
        return Trainer("ppo", config, tmp_path / name, resume=again, console=Console(quiet=True), reward=reward)

    calls = []
    with pytest.raises(mmenv.RewardError, match="finite"):
        trainer("broken", broken).train()
    done = len(curve(tmp_path / "broken"))
    assert done > 1
    assert checkpoints.load_checkpoint(tmp_path / "broken")[1]["updates"] == done
    trainer("broken", length, again=True).train()
    trainer("sound", length).train()
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "sound"))


def test_resume_reads_the_configuration_of_the_run(start, tmp_path):
    main(arguments(start, tmp_path / "run", tokens=200))
    again = resume(tmp_path / "run")
    assert again.config.num_envs == 16
    assert again.config.also == ()
    assert again.tokens >= 200


def small(start, **given):
    settings = {"num_envs": 8, "total_tokens": 64, "eval_episodes": 0, "pictures": False, "threads": 1, **given}
    return PPOConfig(start=str(start), reward="gold", **settings)


def test_a_run_trains_in_a_thread_of_somebody_else(start, tmp_path):
    """As notebook servers and Ray Tune have it: handlers of signals are the main thread's."""
    ended, before = [], signal.getsignal(signal.SIGINT)
    run = Trainer("ppo", small(start), tmp_path / "run", console=Console(quiet=True))
    thread = threading.Thread(target=lambda: ended.append(run.train()))
    thread.start()
    thread.join()
    assert ended[0]["tokens"] >= 64
    assert signal.getsignal(signal.SIGINT) is before


def test_where_output_is_no_terminal_every_update_is_a_line_and_so_are_the_evaluations(start, tmp_path):
    out = io.StringIO()
    config = small(start, total_tokens=300, eval_episodes=4)
    Trainer("ppo", config, tmp_path / "run", console=Console(file=out, width=40)).train()
    rows = files.read_lines(tmp_path / "run" / "metrics.jsonl")
    lines = out.getvalue().splitlines()
    assert lines[0] == "0/300 tokens  evaluating 4 episodes of the test split before training"
    for row, line in zip(rows, lines[1:], strict=False):
        assert line.startswith(f"{row['tokens']:,}/300 tokens  reward ")
    assert lines[len(rows) + 1].endswith("evaluating 4 episodes of the test split after training")


def test_a_terminal_says_what_is_done_before_the_first_update(start, tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    Trainer("ppo", small(start, eval_episodes=4), tmp_path / "run", console=console).train()
    assert "evaluating 4 episodes of the test split before training" in console.file.getvalue()


def test_what_is_no_number_is_null_on_disk_and_ends_no_run(start, tmp_path, monkeypatch):
    """Metrics of a split without references, and whatever else divides by nothing."""
    measured, updated = Trainer.evaluate, Trainer._update

    def nothing(trainer, *arguments, **given):
        return replace(measured(trainer, *arguments, **given), metrics={"exact": float("nan")}, diversity=float("inf"))

    def odd(trainer):
        return updated(trainer) | {"value_loss": float("nan"), "repetition": float("-inf")}

    monkeypatch.setattr(Trainer, "evaluate", nothing)
    monkeypatch.setattr(Trainer, "_update", odd)
    config = small(start, eval_episodes=4, eval_every=1, also=("mmenv/VQAHard-v0",), pictures=True)
    console = Console(file=io.StringIO())
    run = tmp_path / "run"
    assert Trainer("ppo", config, run, console=console).train() is not None
    summary = files.read_json(run / "summary.json")
    assert summary["metrics"] == {"before": {"exact": None}, "after": {"exact": None}}
    assert summary["also"]["mmenv/VQAHard-v0"]["metrics"] == {"exact": None}
    assert re.search(r"exact\W+-\W+-", console.file.getvalue())
    (row,) = files.read_lines(run / "metrics.jsonl")
    assert row["value_loss"] is None
    assert row["repetition"] is None
    assert main(["evaluate", "--run", str(run), "--episodes", "4"]) == 0
    written = [*run.glob("*.json*"), checkpoints.newest_checkpoint(run) / "state.json"]
    assert len(written) == 6
    for path in written:
        for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)


def test_a_run_on_a_task_of_ones_own_goes_on_with_the_words_of_the_task(start, tmp_path):
    """They are in no metadata of its weights."""
    run = tmp_path / "run"
    assert Trainer("ppo", small(start, env_id="toy/Colours-v0"), run, console=Console(quiet=True)).train() is not None
    learned = weights(run)["policy"]
    again = resume(run).policy.network.state_dict()
    assert all(torch.equal(learned[name], again[name]) for name in learned)
    with pytest.raises(ValueError, match="14 words"):
        Trainer("ppo", small(checkpoints.policy_of(run)), tmp_path / "other", console=Console(quiet=True))
