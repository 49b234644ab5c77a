"""What the docs say is so: docstring headers, spaces, links, commands."""

import importlib
import json
import operator
import os
import re
import shlex
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import FlattenObservation
from markdown.extensions.toc import slugify

from mmenv.cli import parse
from mmenv.commands import COMMANDS
from mmenv.registration import TABLE, task_of
from scripts.make_docs import environment_page, pages, question_table, word_table

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


MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
NOTEBOOKS = sorted(ROOT.glob("docs/tutorials/*.ipynb"))
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
GENERATED = ROOT / "docs" / "index.md"  # from README.md by `make docs`


def name_of(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """The Markdown of a page or notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    return text


def anchors(path):
    """Ids of a page's headings, as mkdocs makes them."""
    text = re.sub(r"^```.*?^```", "", prose(path), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+)$", text, re.M)
    return {slugify(re.sub(r"[`*]", "", heading), "-") for heading in headings}


@pytest.mark.parametrize("page", [*MARKDOWN, *NOTEBOOKS], ids=name_of)
def test_links_and_anchors_of_a_page_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", prose(page), flags=re.M | re.S)
    for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists() or page == GENERATED, link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("page", [*MARKDOWN, *NOTEBOOKS], ids=name_of)
def test_files_and_modules_that_a_page_names_exist(page):
    text = prose(page)
    folders = "mmenv|agents|docs|tests|examples|scripts|experiments|benchmarks"
    for name in re.findall(rf"`((?:{folders})/(?![A-Z])[\w/.-]*\w)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"(?:`|-m |::: )((?:mmenv|agents|experiments|benchmarks|scripts)(?:\.\w+)+)", text):
        assert resolves(name), name


def resolves(dotted):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        if place.with_suffix(".py").exists() or (place / "__init__.py").exists():
            value = importlib.import_module(".".join(parts[:length])) if length < len(parts) else None
            return value is None or operator.attrgetter(".".join(parts[length:]))(value) is not None
    return False


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_what_the_code_of_a_page_imports_from_this_repository_exists(page):
    for block in re.findall(r"^ *```python\n(.*?)^ *```", prose(page), re.M | re.S):
        for module, names in re.findall(r"^ *from ((?:mmenv|agents)[\w.]*) import ([\w, ]+)$", block, re.M):
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{module}.{name}"


# Options of other programs: pip, accelerate, ray, uvicorn.
FOREIGN = {"no-deps", "config-file", "num-processes", "machine-rank", "cpu", "head", "address", "factory"}


@pytest.mark.parametrize("page", [*MARKDOWN, *NOTEBOOKS], ids=name_of)
def test_options_that_a_page_names_are_fields_or_arguments_of_the_code(page):
    for option in re.findall(r"(?<![\w-])--(?:no-)?([a-z][\w.-]*[a-z])", prose(page)):
        name = option.replace("_", "-").removeprefix("ppo.")
        assert name in FOREIGN or name.replace("-", "_") in NAMES or f"--{name}" in SOURCES, option


SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("agents", "mmenv", "experiments", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
)
NAMES = set(re.findall(r"^ *(\w+): ", SOURCES, re.M))


def nav_files(entry):
    """The pages of the site's navigation."""
    if isinstance(entry, str):
        return [entry]
    children = entry.values() if isinstance(entry, dict) else entry
    return [file for child in children for file in nav_files(child)]


def test_the_navigation_lists_every_page_in_four_parts():
    assert [next(iter(part)) for part in SITE["nav"]] == ["Home", "Tutorials", "How-to", "Reference", "Explanation"]
    listed = {ROOT / "docs" / file for file in nav_files(SITE["nav"])}
    pages = {*MARKDOWN[2:], *NOTEBOOKS}
    assert listed - {GENERATED} == pages - {GENERATED}


KINDS = ("Tutorial", "How-to guide", "Reference", "Explanation")


@pytest.mark.parametrize(
    "page",
    [p for p in (*MARKDOWN[2:], *NOTEBOOKS) if p.parent.name != "environments" and p.name != "results.md"],
    ids=name_of,
)
def test_a_page_says_first_which_kind_it_is(page):
    if page != GENERATED:
        assert re.match(rf"# .+\n\n\*({'|'.join(KINDS)})\b", prose(page)), page


@pytest.mark.parametrize("page", ["quickstart.md", "rewards.md", "scenes.md"])
def test_the_first_code_of_a_page_runs(page, capsys):
    exec(re.search(r"```python\n(.*?)```", prose(ROOT / "docs" / page), re.S)[1], {})
    assert page != "quickstart.md" or capsys.readouterr().out


@pytest.mark.parametrize("path", [NOTEBOOKS[0], *(pytest.param(p, marks=pytest.mark.slow) for p in NOTEBOOKS[1:])])
def test_a_tutorial_runs(path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_readme_opens_with_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"```\n(.*?)```", text, re.S)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first.group(1).strip().splitlines()] == ["make demo", "make test"]


def test_the_readme_names_every_command_in_words_that_it_takes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    calls = [shlex.split(call, comments=True) for call in re.findall(r"python -m mmenv ([^`\n]+)", text)]
    assert {type(parse(call)) for call in calls} == set(COMMANDS.values())


def test_the_example_of_the_page_on_data_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.S)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    told: dict = {}
    exec(block.group(1), told)
    assert told["observations"]["image"].shape == (3, 96, 96, 3)
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


@pytest.mark.parametrize("name", pages())
def test_a_committed_page_of_an_environment_is_what_the_code_says(name):
    folder = ROOT / "docs" / "environments"
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert text == environment_page(name), "write it again: python -m scripts.make_docs"
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (folder / picture).stat().st_size > 10_000


def test_the_page_about_scenes_has_the_tables_of_the_code():
    text = (ROOT / "docs" / "scenes.md").read_text(encoding="utf-8")
    for table in (question_table(), word_table()):
        assert f"\n{table}\n" in text, "write it again: python -m scripts.make_docs"
