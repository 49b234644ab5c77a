"""The ten lines of CONTRIBUTING.md are true."""

import importlib
import re
from pathlib import Path

import numpy as np

import mmenv

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_task_of_contributing_runs_conforms_and_pays(tmp_path, monkeypatch):
    block = re.search(r"```python\n(.*?)```", TEXT, re.S)
    assert block is not None
    (tmp_path / "lighter_side.py").write_text(block.group(1), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    env = importlib.import_module("lighter_side").env
    observations, _ = env.reset(seed=0)
    lighter = np.where(observations["image"][:, 0, 0, 0] > 100, "left", "right")
    tokens = np.array([env.unwrapped.tokenizer.encode(side)[0] for side in lighter])
    env.step(tokens)
    _, rewards, terminated, *_ = env.step(np.ones(8, np.int64))
    assert terminated.all()
    assert (rewards == 1.0).all()
    mmenv.check_env("mine/LighterSide-v0")


def test_the_class_of_contributing_has_ten_lines():
    block = re.search(r"class LighterSide.*?\n\n", TEXT, re.S)
    assert block is not None
    assert len(block.group(0).strip().splitlines()) <= 10
