"""The import rule: a module imports only what stands above it, and importing mmenv is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmenv

PACKAGE = Path(mmenv.__file__).parent
# From above to below; the packages' own __init__ of the root names what is public and so stands last.
ORDER = (
    "arguments", "statistics", "literal", "tokenizer", "data", "worlds", "tasks", "models", "serving", "feedback",
    "rewards", "envs", "registration", "wrappers", "evaluation", "integrations", "__init__", "cards", "playing",
    "commands", "cli", "__main__",
)  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """``mmenv.envs.episode`` for its file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The entry of ``ORDER`` that a module belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    """Names of what a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            found |= {
                f"{node.module}.{a.name}" if is_module(f"{node.module}.{a.name}") else node.module for a in node.names
            }
    return found


def is_module(name: str) -> bool:
    at = PACKAGE.parent.joinpath(*name.split("."))
    return at.with_suffix(".py").is_file() or (at / "__init__.py").is_file()


GRAPH = {name_of(p): {i for i in imports(p) if i.split(".")[0] == "mmenv"} for p in MODULES}


def test_every_room_has_its_place_in_the_order():
    assert {room(name) for name in GRAPH} <= set(ORDER)


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_a_module_imports_only_what_stands_above_it(name):
    for other in GRAPH[name]:
        assert ORDER.index(room(other)) <= ORDER.index(room(name)), f"{name} imports {other}, which stands below it"


def test_no_module_reaches_itself_through_imports():
    def reach(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a cycle: {' -> '.join((*path, name))}"
        if name not in settled:
            for other in GRAPH.get(name, ()):
                if other != "mmenv":
                    reach(other, (*path, name))
            settled.add(name)

    settled: set[str] = set()
    for name in GRAPH:
        reach(name, ())


def test_the_agents_are_never_imported():
    for path in MODULES:
        assert not {i for i in imports(path) if i.split(".")[0] == "agents"}, path


def test_every_file_opens_with_its_job():
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_importing_mmenv_loads_neither_torch_nor_transformers_and_takes_under_half_a_second():
    code = (
        "import time; t = time.process_time(); import mmenv, sys; took = time.process_time() - t\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'soundfile', 'stable_baselines3'} & set(sys.modules)\n"
        "assert not heavy, heavy; print(took)"
    )

    def seconds() -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    # The first import may write bytecode, and other processes share caches: what is asked is what an import costs.
    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("name", mmenv.__all__)
def test_every_public_name_is_there(name):
    assert getattr(mmenv, name) is not None
    assert name in dir(mmenv)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        mmenv.nonsense  # noqa: B018
