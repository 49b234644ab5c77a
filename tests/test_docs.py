"""What the docs say is so: docstring headers, spaces, links, commands."""

import re
import shlex
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import FlattenObservation

from mmenv.__main__ import COMMANDS, _parser
from mmenv.registration import TABLE, task_of

ROOT = Path(__file__).parent.parent
HEADERS = (
    "Description", "Observation Space", "Action Space", "Rewards", "Starting State", "Episode End", "Arguments",
    "Version History",
)  # fmt: skip


@pytest.mark.parametrize("env_id", TABLE)
def test_every_docstring_has_gymnasiums_headers_in_order(env_id):
    text = type(task_of(env_id)(dataset=None, image_size=None, tokenizer=None)).__doc__
    assert re.findall(r"^ *## (.+)$", text, re.M) == list(HEADERS)


@pytest.mark.parametrize("env_id", [i for i in TABLE if "Hard" not in i and "Shifted" not in i])
def test_every_docstring_describes_the_live_spaces(env_id):
    env = gym.make(env_id, reward="gold")
    text = " ".join(type(env.unwrapped.task).__doc__.split())
    assert f"`Discrete({env.action_space.n})`" in text
    for key, space in env.observation_space.items():
        shape = ", ".join(map(str, space.shape)) + ("," if len(space.shape) == 1 else "")
        assert f"`{key}` {space.dtype} ({shape})" in text, (key, shape)
    assert f"after {env.observation_space['response'].shape[0]} tokens" in text


def test_every_id_is_in_the_readme_by_name_or_variant():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for env_id in TABLE:
        if "Hard" not in env_id and "Shifted" not in env_id:
            assert f"`{env_id}`" in text


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_files_that_a_page_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"\]\(((?!http)[^)#]+)\)", text) + re.findall(
        r"`((?:docs|tests|examples|scripts)/[\w/.]+\w)`", text
    ):
        assert (ROOT / name).exists() or ((ROOT / page).parent / name).exists(), name


def test_the_readme_opens_with_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"```\n(.*?)```", text, re.S)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first.group(1).strip().splitlines()] == ["make demo", "make test"]


def test_the_readme_names_every_command_in_words_that_it_takes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    calls = [shlex.split(call, comments=True) for call in re.findall(r"python -m mmenv ([^`\n]+)", text)]
    assert {_parser().parse_args(call).command for call in calls} == set(COMMANDS)


def test_the_example_of_the_page_on_data_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.S)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    told: dict = {}
    exec(block.group(1), told)
    assert told["observations"]["image"].shape == (3, 48, 48, 3)
    assert told["rewards"].shape == (3,)


def test_the_first_code_of_the_readme_prints_what_it_says(capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.S).groups()
    exec(code, {})
    assert capsys.readouterr().out == printed


def test_the_wrappers_of_the_page_on_agents_work_as_it_says():
    page = (ROOT / "docs" / "plug_in_your_agent.md").read_text(encoding="utf-8")
    section = page.split("## With Gymnasium's wrappers")[1].split("\n## ")[0]
    names = {"gym": gym}
    exec(re.search(r"```python\n(.*?)```", section, re.S)[1], names)
    lanes = names["lanes"]
    assert lanes.reset(seed=0)[0].ndim == 2
    lanes.step(np.ones(8, np.int64))
    (said,) = re.findall(r"`(Expected autoreset_mode[^`]*)`", section)
    with pytest.raises(ValueError, match=" ".join(said.split())):
        FlattenObservation(gym.make_vec("toy/Colours-v0", num_envs=2))
    other = gym.make_vec("toy/Colours-v0", num_envs=2, vectorization_mode="sync")
    assert other.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    FlattenObservation(other).reset()


def test_the_algorithm_of_the_page_on_algorithms_runs_as_it_stands():
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], names)
    assert names["RLOO"].Config is names["RLOOConfig"]


PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*.py"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_command_installs_mmenv_from_an_index_where_it_is_not(path):
    """``pip install mmenv`` would fetch somebody else's package, and no constraints a torch for GPUs."""
    for line in re.findall(r"pip install .*", path.read_text(encoding="utf-8")):
        assert not re.search(r"\bmmenv\b", line), line
        assert "-e" not in line.split() or "-c constraints.txt" in line, line
