"""What a run's folder or a file of results names is imported only where the command line names it too."""

import json
import sys

import pytest

from agents import files
from agents.__main__ import main
from agents.comparing import results
from agents.comparing.config import ReproduceConfig
from agents.comparing.reproduce import Reproduction
from agents.training.loading import resume

CODE = "from agents.algorithms.reinforce import RLOO\n\n\nclass Mine(RLOO):\n    pass\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of somebody, which can be imported."""
    (tmp_path / "foreign_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "foreign_code"
    sys.modules.pop("foreign_code", None)


def folder_of(path, start, **settings):
    """A run's folder before its first checkpoint, as somebody might send it."""
    from agents.algorithms.reinforce import RLOOConfig

    config = RLOOConfig(
        start=start, reward="gold", num_envs=8, total_tokens=8, eval_episodes=0, pictures=False, threads=1
    )
    path.mkdir()
    files.write_json(path / "config.json", {"algorithm": "rloo", **vars(config), **settings})
    return path


NAMED = {
    "algorithm": {"algorithm": "foreign_code:Mine"},
    "id": {"env_id": "foreign_code:mmenv/VQA-v0"},
    "another id": {"also": ["foreign_code:mmenv/VQAHard-v0"], "eval_episodes": 4},
}


@pytest.mark.parametrize("settings", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("command", ["--resume", "evaluate --run"])
def test_a_folder_has_no_module_imported_that_nobody_named(module, start, tmp_path, settings, command, capsys):
    folder = folder_of(tmp_path / "run", start, **settings)
    assert main([*command.split(), str(folder)]) == 1
    assert "--trust foreign_code" in capsys.readouterr().err
    assert module not in sys.modules
    assert main([*command.split(), str(folder), "--trust", "another"]) == 1
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (NAMED["algorithm"], "foreign_code:Mine --resume {}"), (NAMED["algorithm"], "--resume {} --trust foreign_code"),
        (NAMED["id"], "--resume {} --trust foreign_code"),
    ],
)  # fmt: skip
def test_one_that_the_command_line_names_is_imported(module, start, tmp_path, settings, words):
    folder = folder_of(tmp_path / "run", start, **settings)
    assert main(words.format(folder).split()) == 0
    assert module in sys.modules


def test_an_evaluation_names_what_it_evaluates_on(module, start, tmp_path, capsys):
    folder = folder_of(tmp_path / "run", start, **NAMED["id"])
    assert main(["--resume", str(folder), "--trust", module]) == 0
    sys.modules.pop(module)
    asked = ["evaluate", "--run", str(folder), "--episodes", "4"]
    assert main([*asked, "--env-ids", "foreign_code:mmenv/VQAHard-v0"]) == 0
    assert main([*asked, "--trust", module]) == 0


def test_a_loop_has_no_module_imported_that_nobody_named(module, tmp_path, capsys):
    config = {"algorithm": "rlhf", "env_id": "foreign_code:foreign/Tints-v0", "ppo": {}, "loop": "x"}
    (tmp_path / "loop").mkdir()
    files.write_json(tmp_path / "loop" / "config.json", config)
    assert main(["--resume", str(tmp_path / "loop")]) == 1
    assert "--trust foreign_code" in capsys.readouterr().err
    assert module not in sys.modules


def row(**given):
    return {
        "format": 2, "label": "rloo", "algorithm": "rloo", "env_id": "mmenv/VQA-v0", "seed": 0, "overrides": {},
        "files": {}, "status": "done", "versions": {}, "gold": {"after": 0.5}, "reward": {"after": 0.5}, **given,
    }  # fmt: skip


ROWS = {
    "algorithm": ({"algorithm": "foreign_code:Mine"}, "--trust foreign_code"),
    "id": ({"env_id": "foreign_code:mmenv/VQA-v0"}, "--trust foreign_code"),
    "also": ({"overrides": {"also": ["foreign_code:mmenv/VQA-v0"]}}, "--trust foreign_code"),
    "also as a word": ({"overrides": {"also": "foreign_code:mmenv/VQA-v0"}}, "also="),
    "out": ({"overrides": {"out": "/tmp"}}, "sets out"),
    "another id": ({"overrides": {"env_id": "foreign_code:mmenv/VQA-v0"}}, "sets env_id"),
    "seed": ({"seed": "../.."}, "seed='../..'"),
    "overrides": ({"overrides": [1]}, "overrides"),
    "no overrides": ({"overrides": None}, "overrides"),
    "a setting of another type": ({"overrides": {"num_envs": "8"}}, "num_envs='8'"),
    "a setting that does not exist": ({"overrides": {"lanes": 8}}, "a setting 'lanes'"),
    "gold": ({"gold": 3}, "gold=3"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_of_results_from_elsewhere_is_looked_at_first(module, tmp_path, kind):
    given, told = ROWS[kind]
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row(**given)) + "\n")
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        Reproduction(ReproduceConfig(row="rloo", results=str(path)))
    assert module not in sys.modules


@pytest.mark.parametrize("label", ["..", ".", "", "../up", "a\nb"])
def test_a_label_names_a_folder_below_that_of_the_grid(label, tmp_path):
    from agents.comparing.grid import Cell

    cell = Cell(label, "rloo", "mmenv/VQA-v0", 0)
    if label == "../up":
        assert (tmp_path / cell.path).resolve().is_relative_to(tmp_path)
        assert ".." not in cell.path.parts
        return
    with pytest.raises(ValueError, match="names no folder"):
        _ = cell.path


def test_rows_of_other_types_are_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row(label=["x"])) + "\n")
    with pytest.raises(ValueError, match=r"row 1: label=\['x'\] is damaged"):
        results.read(path)


def test_python_names_it_too(module, start, tmp_path):
    folder = folder_of(tmp_path / "run", start, **NAMED["algorithm"])
    with pytest.raises(ValueError, match="--trust"):
        resume(folder)
    assert resume(folder, [module]).name == "foreign_code:Mine"
