"""The ten lines of CONTRIBUTING.md are true, and so is what it says of other commands."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from toys import Colours

import mmenv

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def lighter(tmp_path, monkeypatch):
    """The module of the page, as the page has it saved."""
    block = re.search(r"```python\n(.*?)```", TEXT, re.S)
    assert block is not None
    (tmp_path / "lighter.py").write_text(block.group(1), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("lighter")


def test_the_task_of_contributing_runs_conforms_and_pays(lighter):
    env = lighter.env
    observations, _ = env.reset(seed=0)
    lighter_side = np.where(observations["image"][:, 0, 0, 0] > 100, "left", "right")
    tokens = np.array([env.unwrapped.tokenizer.encode(side)[0] for side in lighter_side])
    env.step(tokens)
    _, rewards, terminated, *_ = env.step(np.ones(8, np.int64))
    assert terminated.all()
    assert (rewards == 1.0).all()
    mmenv.check_env("mine/LighterSide-v0")


def test_the_command_of_contributing_trains_on_the_task(lighter, start, tmp_path, capsys):
    from agents.__main__ import main

    command = re.search(r"python -m agents (ppo .*)", TEXT)
    assert command is not None
    words = [start if word == "start" else word for word in command.group(1).split()]  # a smaller network of its words
    small = ["--total-tokens=32", "--num-envs=4", "--eval-episodes=4", "--threads=None", f"--out={tmp_path / 'run'}"]
    assert main([*words, *small]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["env_id"] == "lighter:mine/LighterSide-v0"


def test_the_class_of_contributing_has_ten_lines():
    block = re.search(r"class LighterSide.*?\n\n", TEXT, re.S)
    assert block is not None
    assert len(block.group(0).strip().splitlines()) <= 10


def test_a_task_of_ones_own_without_a_start_is_trained_by_the_remedy_that_the_error_names(lighter, tmp_path, capsys):
    from agents.__main__ import main

    small = ["--env-id=lighter:mine/LighterSide-v0", "--num-envs=4", "--eval-episodes=0"]
    for command in ("ppo", "sb3-ppo"):
        assert main([command, *small, "--total-tokens=32", f"--out={tmp_path / command}"]) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert "no start is shipped for lighter:mine/LighterSide-v0: train one (python -m agents sft" in error
    assert main(["sft", *small, "--total-tokens=32", f"--out={tmp_path / 'sft'}"]) == 0, capsys.readouterr().err
    started = [*small, "--total-tokens=32", f"--start={tmp_path / 'sft'}", f"--out={tmp_path / 'run'}"]
    assert main(["ppo", *started]) == 0, capsys.readouterr().err


def test_runs_are_paid_by_the_reward_that_an_id_was_registered_with(lighter, start, tmp_path):
    from agents.algorithms.ppo import PPOConfig
    from agents.comparing.config import CompareConfig
    from agents.comparing.study import Comparison
    from agents.integrations.sb3 import SB3Config, SB3Run
    from agents.training.trainer import Trainer

    settings = {"env_id": "lighter:mine/LighterSide-v0", "start": start, "num_envs": 4, "total_tokens": 32}
    assert Trainer("ppo", PPOConfig(**settings), tmp_path / "ppo").env.unwrapped.reward_function.name == "gold"
    assert SB3Run("sb3-ppo", SB3Config(**settings), tmp_path / "sb3").arguments.get("reward") is None
    compared = Comparison(CompareConfig(envs=(settings["env_id"],), out=str(tmp_path / "compare")))
    assert all("reward" not in cell.overrides for cell in compared.firsts)


def test_shipped_weights_belong_to_classes_and_not_to_what_an_id_is_called():
    from agents.settings.ids import task_name
    from mmenv.tasks.vqa import VQA

    mmenv.register("mine/VQAColours-v0", Colours)
    mmenv.register("mine/Other-v0", VQA)
    assert task_name("mine/VQAColours-v0") == ""
    assert task_name("mine/Other-v0") == task_name("mmenv/VQAHard-v0") == "vqa"
    assert task_name("mmenv/SpokenDialogueShifted-v0") == "dialogue"
    assert task_name("mmenv/Captioning-v0") == "captioning"


@pytest.mark.parametrize("command", ["overoptimise", "rlhf"])
def test_a_command_that_needs_a_shipped_start_says_that_there_is_none_of_ones_own_task(command, tmp_path, capsys):
    from strange_ids import ENV_ID

    from agents.__main__ import main

    if command == "rlhf":  # the environment of the older releases of gymnasium has no database
        pytest.importorskip("sqlalchemy")
    assert main([command, "--env-id", ENV_ID, "--out", str(tmp_path / "out")]) == 1
    assert f"no start is shipped for {ENV_ID}: train one (python -m agents sft" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "out").exists()
