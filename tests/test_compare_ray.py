"""A Ray cluster of two nodes that the test starts: every result of a grid comes back, though a worker is killed."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from agents import files
from agents.algorithms.ppo import PPOConfig
from agents.comparing import grid
from agents.comparing.config import CompareConfig
from agents.comparing.study import Comparison
from agents.training.trainer import Trainer

ray = pytest.importorskip("ray")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

TASK = "mmenv/VQA-v0"
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def nodes():
    """Two nodes of one core each, as two machines would be, and this process as their driver."""
    cluster = Cluster()
    here = os.pathsep.join([os.getcwd(), str(Path(__file__).parent)])
    found = [cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80_000_000) for _ in range(2)]
    ray.init(cluster.address, runtime_env={"env_vars": {"PYTHONPATH": here}}, log_to_driver=False)
    yield found
    ray.shutdown()
    cluster.shutdown()


def compared(start, folder, **given):
    small = [f"{label}/{s}" for label in ("strangers:Slow", "rloo") for s in (f"start={start}", "num-envs=8")]
    return Comparison(
        CompareConfig(
            algorithms=("strangers:Slow", "rloo"), seeds=4, total_tokens=256, reward="gold", eval_episodes=8,
            settings=tuple(small), out=str(folder), **given,
        ),
        QUIET,
    ).run()  # fmt: skip


def workers():
    """Processes of Ray that play a run now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::play"):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def kill_one(root, killed):
    """Kill the first worker whose run has begun to learn."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not killed:
        if any(root.glob("runs/*/*/*/metrics.jsonl")) and (found := workers()):
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])
        time.sleep(0.05)


@pytest.mark.slow
def test_a_worker_killed_half_way_costs_no_result(start, nodes, tmp_path):
    killed = []
    killer = threading.Thread(target=kill_one, args=(tmp_path / "ray", killed))
    killer.start()
    rows = compared(start, tmp_path / "ray", cluster=True)
    killer.join()
    assert killed
    assert [row["status"] for row in rows] == ["done"] * 8
    alone = compared(start, tmp_path / "alone", jobs=2)
    kept = ("label", "seed", "tokens", "gold", "reward", "kl")
    assert [[row[name] for name in kept] for row in rows] == [[row[name] for name in kept] for row in alone]
    assert len(ray.nodes()) == 2


@pytest.mark.slow
def test_a_run_is_a_trainable_of_ray_tune(start, nodes, tmp_path):
    """Tune plays functions in threads of its workers."""
    tune = pytest.importorskip("ray.tune")

    def train(settings):
        config = PPOConfig(
            start=start, reward="gold", num_envs=8, total_tokens=32, eval_episodes=0, pictures=False, threads=1,
            **settings,
        )  # fmt: skip
        return {"tokens": Trainer("ppo", config, tmp_path / "run", console=Console(quiet=True)).train()["tokens"]}

    tuner = tune.Tuner(
        train, param_space={"seed": 3}, run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0)
    )
    (result,) = tuner.fit()
    assert result.error is None
    assert result.metrics["tokens"] >= 32
    assert files.read_json(tmp_path / "run" / "config.json")["seed"] == 3


def test_a_missing_ray_is_told_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match="pip install"):
        list(grid.on_ray([], tmp_path, grid.RetryPolicy()))
