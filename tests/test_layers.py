"""The import rule: a module imports only what stands above it, and importing mmenv is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmenv

ROOT = Path(mmenv.__file__).parent.parent
# Rooms from above to below: a module imports only from its own room and from those before it.
ORDER = {
    "mmenv": (
        "arguments", "statistics", "literal", "tokenizer", "data", "worlds", "tasks", "models", "serving", "feedback",
        "rewards", "envs", "registration", "wrappers", "evaluation", "integrations", "__init__", "cards",
        "playing", "commands", "cli", "__main__",
    ),
    "agents": (
        "__init__", "files", "progress", "settings", "maths", "policies", "rollouts", "distributed", "algorithms",
        "training", "integrations", "rlhf", "comparing", "overoptimisation", "__main__",
    ),
}  # fmt: skip
MODULES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """``mmenv.envs.rendering`` for its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The entry of ``ORDER`` that a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def position(name: str) -> int:
    """Where the room of a module stands in its package's order."""
    return ORDER[name.split(".")[0]].index(room(name))


def imports(path: Path) -> set[str]:
    """Names of what a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.add(submodule if is_module(submodule) else str(node.module))
    return names


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or folder of the repository."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


GRAPH = {name_of(path): {i for i in imports(path) if i.split(".")[0] in ORDER} for path in MODULES}


@pytest.mark.parametrize("package", ORDER)
def test_every_room_has_its_place_in_the_order_and_every_place_a_room(package):
    assert {room(name) for name in GRAPH if name.split(".")[0] == package} == set(ORDER[package])


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_a_module_imports_only_what_stands_above_it(name):
    package = name.split(".")[0]
    for other in GRAPH[name]:
        if other.split(".")[0] == package:
            assert position(other) <= position(name), f"{name} imports {other}, which stands below it"


def test_no_module_reaches_itself_through_imports():
    def reach(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a cycle: {' -> '.join((*path, name))}"
        if name not in settled:
            for other in GRAPH.get(name, ()):
                if other not in ORDER:
                    reach(other, (*path, name))
            settled.add(name)

    settled: set[str] = set()
    for name in GRAPH:
        reach(name, ())


@pytest.mark.parametrize("name", [name for name in sorted(GRAPH) if name.split(".")[0] == "mmenv"])
def test_mmenv_never_imports_agents(name):
    assert not {other for other in GRAPH[name] if other.split(".")[0] == "agents"}


def test_nobody_imports_a_command_line():
    programs = {"mmenv.__main__", "agents.__main__"}
    assert {name for name in GRAPH if GRAPH[name] & programs} == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_file_opens_with_its_job_and_stays_readable(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    assert text.count("\n") <= 400, f"{path} has more than 400 lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{path}: {node.name} has {lines} lines"


def test_importing_mmenv_loads_neither_torch_nor_transformers_and_takes_less_than_twice_as_long_as_gymnasium():
    code = (
        "import time; begun = time.process_time(); import gymnasium; alone = time.process_time() - begun\n"
        "import mmenv, sys; took = time.process_time() - begun\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'soundfile', 'stable_baselines3'} & set(sys.modules)\n"
        "assert not heavy, heavy; print(took / alone)"
    )

    def ratio() -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    # The first import may write bytecode, and other processes share caches: what is asked is what an import costs.
    assert min(ratio() for _ in range(3)) < 2


@pytest.mark.parametrize("name", mmenv.__all__)
def test_every_public_name_is_there(name):
    assert getattr(mmenv, name) is not None
    assert name in dir(mmenv)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        mmenv.nonsense  # noqa: B018
