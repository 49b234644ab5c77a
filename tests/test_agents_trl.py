"""TRL's trainer in our run folders: it begins as all others do, on the same contexts, and leaves the same files."""

import os

import numpy as np
import pytest
from rich.console import Console

from agents import files
from agents.rollouts.rollout import context_generator
from agents.training import checkpoints
from mmenv.models.checkpoints import load_pretrained

if os.environ.get("MMENV_REQUIRE_ALL") != "1":
    pytest.importorskip("trl")

from agents.integrations.trl import TRLConfig, TRLRun
from agents.training.launch import config_class
from agents.training.trainer import Trainer

TASK = "mmenv/VQA-v0"


def run_of(start, folder, env_id=TASK, **settings):
    given = {"num_envs": 8, "total_tokens": 400, "eval_episodes": 8, "seed": 3, "pictures": False, "threads": 1}
    config = TRLConfig(env_id=env_id, reward="gold", start=start, **{**given, **settings})
    return TRLRun("trl-grpo", config, folder, Console(quiet=True))


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory):
    run = run_of(start, tmp_path_factory.mktemp("trl") / "run", learning_rate=0.01, also=(f"{TASK}@comp",))
    return run, run.train()


def test_a_run_leaves_the_folder_of_the_other_algorithms(trained, start):
    run, summary = trained
    assert files.read_json(run.folder / "summary.json") == summary
    assert files.read_json(run.folder / "config.json")["algorithm"] == "trl-grpo"
    rows = files.read_lines(run.folder / "metrics.jsonl")
    assert [row["update"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 2
    assert summary["tokens"] == rows[-1]["tokens"] >= 0.5 * 400
    for name in ("seconds", "reward", "gold", "length"):
        assert all(np.isfinite(row[name]) for row in rows), name
    assert summary["kl"] > 1e-3
    assert f"{TASK}@comp" in summary["also"]
    learned = load_pretrained(checkpoints.policy_of(run.folder))
    assert not (learned.embed.weight == load_pretrained(start).embed.weight).all()


def test_contexts_are_those_of_every_algorithm_at_the_seed(trained):
    run, _ = trained
    size = run.env.task.size("train")
    expected = context_generator(3).integers(size, size=len(run.samples)).tolist()
    assert [sample.index for sample in run.samples] == expected


def test_it_begins_where_the_algorithms_here_begin(trained, start, tmp_path):
    _, summary = trained
    settings = {"env_id": TASK, "reward": "gold", "start": start, "num_envs": 8, "eval_episodes": 8, "threads": 1}
    ours = Trainer("ppo", config_class("ppo")(**settings), tmp_path, console=Console(quiet=True))._evaluation("test")
    assert summary["gold"]["before"] == ours["gold"]
    assert summary["length"]["before"] == ours["length"]


def test_trls_defaults_are_the_defaults_here_and_the_loss_is_named():
    from trl import GRPOConfig

    defaults = {field.name: field.default for field in GRPOConfig.__dataclass_fields__.values()}
    config = TRLConfig()
    assert (config.loss_type, config.kl_coef, config.clip_coef) == (
        defaults["loss_type"], defaults["beta"], defaults["epsilon"],
    )  # fmt: skip


def test_a_task_of_several_turns_is_refused(start, tmp_path):
    with pytest.raises(ValueError, match="several turns"):
        run_of(start, tmp_path, "mmenv/SpokenDialogue-v0")
