"""Without an extra, a command that needs it ends in one line with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from agents.__main__ import main

HTTP = ("mmenv.rewards.remote.endpoints", "mmenv.rewards.remote.connection", "mmenv.rewards.remote.client")


@pytest.mark.parametrize(
    ("arguments", "missing", "importers", "extra"),
    [
        (("ppo", "--reward", "http://127.0.0.1:9"), "httpx", HTTP, "serve"),
        (("ppo", "--reward", "vllm+http://127.0.0.1:9/score"), "httpx", HTTP, "serve"),
        (("ppo", "--reward", "cider"), "pycocoevalcap.cider.cider_scorer", (), "metrics"),
        (("ppo", "--reward", "wer"), "jiwer", (), "metrics"),
        (("sb3-ppo",), "stable_baselines3", ("agents.integrations.sb3", "mmenv.integrations.sb3"), "sb3"),
    ],
)
def test_a_missing_extra_is_one_line(arguments, missing, importers, extra, tmp_path, start, capsys, monkeypatch):
    for name in importers:
        monkeypatch.delitem(sys.modules, name, raising=False)
    # Also what an earlier test has imported of it.
    for name in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    few = ("--total-tokens", "50", "--num-envs", "4", "--eval-episodes", "0", "--start", start)
    assert main([*arguments, *few, "--env-id", "toy/Colours-v0", "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert f'is missing: pip install -c constraints.txt -e ".[{extra}]"' in error
