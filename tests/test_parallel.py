"""Several processes of one run: the gradient of one, one log, resumes on other numbers, a process that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from processes import Command, Signal
from ranks import CASES, learn
from safetensors.torch import load_file

from agents import files
from agents.__main__ import main
from agents.algorithms.ppo import PPOConfig
from agents.distributed import processes
from agents.training import checkpoints

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "PYTHONFAULTHANDLER": "1",
}  # fmt: skip
RANKS = ROOT / "tests" / "ranks.py"


def launch(configuration, *command):
    """``accelerate launch`` with a configuration of the examples."""
    path = ROOT / "examples" / "accelerate" / configuration
    return Command("accelerate.commands.launch", "--config_file", path, *command, **ENVIRONMENT)


def begin(*command, **environment):
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**ENVIRONMENT, **environment},
    )  # fmt: skip


def meeting():
    """What tells each of two processes where to meet the other, without a launcher that would look after them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [here | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def begin_two(*command, **environment):
    return [Command(*command, **environment, **here) for here in meeting()]


def ended(process):
    """What a process said, at its end."""
    output, _ = process.communicate(timeout=400)
    return output


@pytest.fixture(scope="module", params=["cpu.yaml", pytest.param("fsdp.yaml", marks=pytest.mark.slow)])
def configuration(request):
    """Every process has the whole policy, or a part of it."""
    return request.param


@pytest.fixture(scope="module")
def sharing(configuration):
    """What the launcher tells processes of the configuration."""
    return {"ACCELERATE_USE_FSDP": "true"} if configuration == "fsdp.yaml" else {}


@pytest.fixture(scope="module")
def apart(sharing, tmp_path_factory):
    """What two processes found together, as each of them has it."""
    folder = tmp_path_factory.mktemp("ranks")
    for process in begin_two(RANKS, folder, **sharing):
        said = process.ended()
        assert process.code == 0, said
    tensors = [load_file(folder / f"{r}.safetensors") for r in (0, 1)]
    return tensors, [json.loads((folder / f"{r}.json").read_text()) for r in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_gradient_of_one_with_the_same_batch(apart, case):
    tensors, logs = apart
    whole, told = learn(case)
    expected = {name: p for name, p in whole.items() if name.startswith("gradient/")}
    for own in tensors:
        found = {k.removeprefix(f"{case}/"): v for k, v in own.items() if k.startswith(f"{case}/gradient/")}
        # In parts a head that no loss reaches has a gradient of zeros.
        assert found.keys() == expected.keys() | {name for name, g in found.items() if not g.any()}
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    linear = {"kl", "kl_k1", "reference_entropy", "policy_loss", "value_loss", "dpo_loss", "grad_norm", "clip_fraction"}
    for name in linear & told.keys():
        assert logs[0][case][name] == pytest.approx(told[name], rel=1e-3, abs=1e-5), name


def test_processes_with_different_numbers_of_minibatches_stay_together(apart):
    (first, second), _ = apart
    weights = [name for name in first if name.startswith("steps/weights/")]
    assert weights
    assert all(torch.equal(first[name], second[name]) for name in weights)


def test_lanes_that_do_not_divide_in_whole_groups_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(processes, "size", lambda: 3)
    with pytest.raises(ValueError, match=r"num_envs=16 .* take a multiple of 12"):
        processes.local_config(PPOConfig(num_envs=16))
    assert processes.local_config(PPOConfig(num_envs=24)).num_envs == 8


def test_processes_have_seeds_of_their_own_and_the_first_one_the_runs(monkeypatch):
    assert processes.rank_seed(7) == 7
    monkeypatch.setattr(processes, "rank", lambda: 1)
    assert len({7, processes.rank_seed(7), processes.rank_seed(8), processes.rank_seed(7, 1)}) == 4


def test_a_launcher_that_starts_one_process_of_several_is_found_out():
    """``accelerate launch --cpu --num_processes 2`` starts one, which would train alone and say nothing."""
    alone = ("--cpu", "--num_processes", "2", "-m", "agents", "ppo")
    process = Command("accelerate.commands.launch", *alone, **ENVIRONMENT)
    said = process.ended()
    assert process.code != 0
    assert "cpu.yaml" in said


@pytest.mark.parametrize("command", ["compare", "sb3-ppo"])
def test_what_is_one_process_is_refused_under_a_launcher(monkeypatch, capsys, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([command]) == 1
    assert "one process" in capsys.readouterr().err


def test_one_process_needs_no_accelerate():
    code = "import agents.training.trainer, sys; assert 'accelerate' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=ENVIRONMENT)


# The first process keeps the interpreter's lock for two seconds in the earliest of its exit functions, which is the
# last, and again as the interpreter ends. Each time the second process comes meanwhile, and a thread of gloo waits
# for the lock to release the first one's tensor.
LATE = """
import atexit, ctypes, sys, time

def hold():
    atexit.register(ctypes.PyDLL(None).usleep, 2_000_000)

hold()
sys.stderr.flush = hold
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from agents.distributed import processes

processes.join("cpu")
mesh = init_device_mesh("cpu", (2,))
if processes.rank() == 0:
    for _ in range(2):
        dist.all_reduce(torch.zeros(3), async_op=True)
    processes.leave()
    atexit.register(print, "exit functions")
else:
    for pause in (1, 2, 1):
        time.sleep(pause)
        dist.all_reduce(torch.ones(3), async_op=True)
processes.hard_exit(5)
"""


@pytest.mark.slow
def test_a_process_ends_with_its_code_whatever_threads_of_gloo_still_hold():
    first, second = (begin(sys.executable, "-c", LATE, **here) for here in meeting())
    assert (ended(first), first.returncode) == ("exit functions\n", 5)
    ended(second)


def arguments(start, out):
    return [
        "agents", "ppo", "--reward", "gold", "--start", start, "--total-tokens", 2500, "--num-envs", 16,
        "--eval-episodes", 0, "--no-pictures", "--checkpoint-every", 3, "--threads", 1, "--out", out,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(sharing, start, tmp_path_factory):
    """A run of two processes that nothing interrupted, and what it said."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    processes = begin_two(*arguments(start, folder), **sharing)
    said = [process.ended() for process in processes]
    assert [process.code for process in processes] == [0, 0], said
    return folder, "".join(said)


@pytest.fixture(scope="module")
def killed(sharing, start, tmp_path_factory):
    """The same run, whose second process was killed, and what the first one said at its end."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    here, there = meeting()
    second = Command(*arguments(start, folder), **sharing, **there)
    kill = Signal(signal.SIGKILL, folder / "metrics.jsonl", lines=7, to=second.pid)
    first = Command(*arguments(start, folder), watch=kill, **sharing, **here)
    said = first.ended()
    assert first.code == 1
    second.ended()
    assert second.code == -signal.SIGKILL
    return folder, said


def updates(folder):
    return [row["update"] for row in files.read_lines(folder / "metrics.jsonl")]


def test_two_processes_write_one_log_and_one_checkpoint(whole):
    folder, said = whole
    assert updates(folder) == list(range(1, len(updates(folder)) + 1))
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert said.count("run: ") == 1
    rows = files.read_lines(folder / "metrics.jsonl")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["tokens"] == rows[-1]["tokens"] >= 2500
    assert rows[0]["tokens"] == 16 * rows[0]["length"]  # those of all lanes, of both processes
    tensors, state = checkpoints.load_checkpoint(folder)
    assert set(tensors["generator"]) == {"state", "state.1"}
    for name in ("contexts", "rng"):
        assert state["rng"][name]["state"] != state["rng"]["others"][0][name]["state"]


def test_a_killed_process_ends_the_run_with_a_message_and_a_whole_checkpoint(killed):
    folder, said = killed
    assert "error: another process of the run is gone" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert checkpoints.load_checkpoint(folder)[1]["updates"] >= 6


def test_on_as_many_processes_it_ends_with_the_same_weights_bit_for_bit(sharing, whole, killed, tmp_path):
    shutil.copytree(killed[0], tmp_path / "run")
    for process in begin_two("agents", "--resume", tmp_path / "run", **sharing):
        said = process.ended()
        assert process.code == 0, said
    (expected, _), (found, _) = checkpoints.load_checkpoint(whole[0]), checkpoints.load_checkpoint(tmp_path / "run")
    assert all(torch.equal(expected[name][k], found[name][k]) for name in expected for k in expected[name])
    assert updates(tmp_path / "run") == updates(whole[0])


def test_on_one_process_it_goes_on_with_new_random_numbers_and_says_so(killed, tmp_path, capsys):
    shutil.copytree(killed[0], tmp_path / "run")
    assert main(["--resume", str(tmp_path / "run")]) == 0
    assert "resumed on 1 of 2 processes" in capsys.readouterr().out
    assert updates(tmp_path / "run") == list(range(1, len(updates(tmp_path / "run")) + 1))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["tokens"] >= 2500
    assert set(checkpoints.load_checkpoint(tmp_path / "run")[0]["generator"]) == {"state"}


@pytest.mark.slow
def test_a_policy_in_parts_is_launched_by_its_configuration(start, tmp_path):
    """In ``make test`` the other configuration is launched, and processes of this one start without a launcher."""
    process = launch("fsdp.yaml", "-m", *arguments(start, tmp_path / "run"))
    said = process.ended()
    assert process.code == 0, said
    assert said.count("run: ") == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["tokens"] >= 2500


@pytest.mark.slow
def test_an_interrupt_of_the_launcher_ends_all_with_a_checkpoint(start, tmp_path):
    process = launch("cpu.yaml", "-m", *arguments(start, tmp_path / "run"), "--total-tokens", 500_000)
    process.until(lambda: len(files.read_lines(tmp_path / "run" / "metrics.jsonl")) >= 4)
    for one in psutil.Process(process.pid).children(recursive=True):
        one.send_signal(signal.SIGINT)  # as a terminal does: to everybody
    process.send(signal.SIGINT)
    said = process.ended()
    assert f"--resume {tmp_path}" in said.replace("\n", ""), said
    assert checkpoints.load_checkpoint(tmp_path / "run")[1]["updates"] == len(updates(tmp_path / "run"))
