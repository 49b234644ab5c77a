"""The examples run from end to end, stay short, and are what the docs quote."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = {"ppo.py": 60, "sb3_ppo.py": 60, "own_agent.py": 100}
TINY = {
    "ppo.py": ("--total-tokens", "40", "--num-envs", "8", "--episodes", "8"),
    "sb3_ppo.py": ("--total-tokens", "64", "--num-envs", "4", "--episodes", "8"),
    "own_agent.py": ("--updates", "2", "--episodes", "8"),
}


def run(name, *arguments):
    """What an example prints."""
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def gain(output):
    found = re.search(r"gain in gold ([+-]\d\.\d+)$", output.strip())
    assert found is not None, output
    return float(found[1])


def test_every_example_is_tested_here():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(LONGEST) == set(TINY)


@pytest.mark.parametrize("name", LONGEST)
def test_an_example_stays_short(name):
    assert len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()) < LONGEST[name]


@pytest.mark.parametrize("name", TINY)
def test_an_example_runs_from_end_to_end(name, tmp_path):
    if name == "sb3_ppo.py":
        pytest.importorskip("stable_baselines3")
    out = ("--out", str(tmp_path / "run")) if name == "ppo.py" else ()
    start = ROOT / "mmenv" / "models" / "pretrained" / "start-vqa.safetensors"
    assert -1 <= gain(run(name, *TINY[name], "--start", str(start), *out)) <= 1


def test_the_docs_quote_the_example_word_for_word():
    page = (ROOT / "docs" / "plug_in_your_agent.md").read_text(encoding="utf-8").split("## With stable-baselines3")[0]
    example = (ROOT / "examples" / "own_agent.py").read_text(encoding="utf-8")
    quoted = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(quoted) >= 5
    for block in quoted:
        assert block in example, block


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_agent_of_ones_own_gains_a_tenth_of_gold(seed):
    assert gain(run("own_agent.py", "--seed", str(seed))) >= 0.1
