"""The agents' command line: what it accepts, what it refuses by name, and its exit codes."""

import ast
import dataclasses
import inspect
import json
import re
import subprocess
import sys

import pytest

from agents.__main__ import COMMANDS, SB3, ResumeConfig, main
from agents.algorithms.registry import ALGORITHMS, find
from agents.comparing import config as comparing
from agents.overoptimisation import config as overoptimisation
from agents.rlhf import config as rlhf
from agents.settings import shared
from agents.settings.bounds import offered


def test_no_algorithm_shows_the_names(capsys):
    assert main([]) == 2
    assert "ppo" in capsys.readouterr().out
    assert main(["alphago"]) == 1
    assert "alphago" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"), [("pppo", "ppo"), ("sb3-recurent-ppo", "sb3-recurrent-ppo"), ("rlfh", "rlhf")]
)
def test_a_misspelt_name_is_refused_with_the_one_that_was_meant_and_all_there_are(capsys, typed, meant):
    assert main([typed]) == 1
    said = capsys.readouterr().err
    assert f"unknown algorithm {typed!r}: did you mean {meant!r}?" in said
    for name in (*ALGORITHMS, *SB3, *COMMANDS):
        assert f"{name}," in said or f"{name};" in said


def test_the_usage_has_a_line_about_everything(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name in (*ALGORITHMS, *COMMANDS):
        # Where a name is long, the sentences stand below the names, in a frame of bars.
        assert re.search(rf"{name}[\s│]+[A-Z][^•]*\.\s", said), name
    for name in SB3:
        assert name in said
    assert "--resume DIR" in said


@pytest.mark.parametrize("name", [*ALGORITHMS])
def test_help_explains_every_setting(capsys, name):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all("--" + field.replace("_", "-") in shown for field in offered(find(name).Config))


SETTINGS = [
    c
    for module in (shared, comparing, overoptimisation, rlhf)
    for _, c in inspect.getmembers(module, inspect.isclass)
    if c.__module__ == module.__name__
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda c: c.__name__)
def test_every_setting_has_a_sentence_under_it(settings):
    body = ast.parse(inspect.getsource(settings)).body[0].body
    for i, node in enumerate(body):
        if isinstance(node, ast.AnnAssign) and node.target.id in offered(settings):
            sentence = body[i + 1].value.value
            assert isinstance(sentence, str), node.target.id
            assert sentence.endswith("."), node.target.id


def test_an_unknown_environment_is_an_error_without_a_traceback(tmp_path, capsys):
    assert main(["ppo", "--env-id", "mmenv/Nope-v0", "--out", str(tmp_path / "run")]) == 1
    assert "Nope" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ppo", "sb3-ppo", "rlhf", "compare --envs"])
def test_an_environment_of_somebody_else_is_an_error_in_a_line(tmp_path, capsys, name):
    if name == "sb3-ppo":
        pytest.importorskip("sb3_contrib")
    words = name.split() if " " in name else [name, "--env-id"]
    assert main([*words, "CartPole-v1", "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.startswith("error: CartPole-v1 is not an environment of mmenv")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ppo", "sb3-ppo", "rlhf", "compare --envs", "overoptimise"])
def test_a_shifted_id_is_not_trained_on_as_if_it_were_the_plain_one(tmp_path, capsys, name):
    if name == "sb3-ppo":
        pytest.importorskip("sb3_contrib")
    words = name.split() if " " in name else [name, "--env-id"]
    assert main([*words, "mmenv/VQAShifted-v0", "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err == (
        "error: mmenv/VQAShifted-v0 shows its test split, which is for evaluation: train on mmenv/VQA-v0 and give "
        "--also mmenv/VQAShifted-v0\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_policy_is_not_evaluated_on_another_task(start, tmp_path, capsys):
    words = ["--reward", "gold", "--start", start, "--num-envs", "8", "--total-tokens", "32", "--eval-episodes", "4"]
    assert main(["ppo", *words, "--also", "mmenv/Captioning-v0", "--out", str(tmp_path / "never")]) == 1
    assert "mmenv/Captioning-v0 is another task than mmenv/VQA-v0" in capsys.readouterr().err
    assert main(["ppo", *words, "--out", str(tmp_path / "run")]) == 0
    asked = ["evaluate", "--run", str(tmp_path / "run"), "--episodes", "4", "--env-ids"]
    assert main([*asked, "mmenv/VQAHard-v0"]) == 0
    assert main([*asked, "mmenv/VQAHard-v0", "mmenv/Captioning-v0"]) == 1
    assert "mmenv/Captioning-v0 is another task than mmenv/VQA-v0" in capsys.readouterr().err
    assert "mmenv/Captioning-v0" not in json.loads((tmp_path / "run" / "evaluations.json").read_text())


def test_compare_knows_the_algorithms_of_stable_baselines3(capsys):
    assert main(["compare", "--algorithms", "sb3-pp"]) == 1
    said = capsys.readouterr().err
    assert "did you mean 'sb3-ppo'?" in said
    assert all(name in said for name in SB3)


def test_the_loop_offers_no_option_that_it_sets_itself(capsys):
    with pytest.raises(SystemExit):
        main(["rlhf", "--help"])
    said = capsys.readouterr().out
    assert "--ppo.total-tokens" in said
    for name in ("env-id", "reward", "start", "seed", "out", "judge"):
        assert f"--ppo.{name} " not in said
    assert main(["rlhf", "--ppo.seed", "3"]) == 1
    assert "did you mean --seed?" in capsys.readouterr().err


def test_missing_weights_are_an_error_without_a_traceback(tmp_path, capsys):
    arguments = ["ppo", "--reward", "gold", "--start", "nowhere", "--num-envs", "2", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--minibatches", "1"]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("spelling", ["--resume={}", "--resume {}", "ppo --resume={}", "ppo --resume {}"])
def test_resume_in_a_folder_without_a_run_says_so(tmp_path, capsys, spelling):
    assert main(spelling.format(tmp_path).split()) == 1
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["--resume {}", "evaluate --run {}"])
@pytest.mark.parametrize("name", SB3)
def test_a_run_of_stable_baselines3_is_named_where_it_cannot_go_on(tmp_path, capsys, name, call):
    (tmp_path / "config.json").write_text(json.dumps({"algorithm": name}))
    assert main(call.format(tmp_path).split()) == 1
    assert f"holds {name}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spelling", "fault"),
    [
        ("ppo --resume", "--resume"), ("ppo --resume {} --seed 1", "Unrecognized options: --seed"),
        ("ppo --seed 1 --resume {}", "Unrecognized options: --seed"),
    ],
)  # fmt: skip
def test_resume_takes_the_folder_and_nothing_else(tmp_path, capsys, spelling, fault):
    with pytest.raises(SystemExit) as ended:
        main(spelling.format(tmp_path).split())
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err
    assert [field.name for field in dataclasses.fields(ResumeConfig)] == ["resume", "trust"]


def test_a_run_is_not_lost_to_another_in_its_folder(start, tmp_path, capsys):
    words = [
        "--env-id",
        "mmenv/VQA-v0",
        "--reward",
        "gold",
        "--start",
        start,
        "--num-envs",
        "8",
        "--total-tokens",
        "32",
    ]
    words += ["--eval-episodes", "4", "--out", str(tmp_path)]
    assert main(["rloo", *words]) == 0
    first = (tmp_path / "summary.json").read_text()
    for name in ("rloo", "ppo", "sb3-ppo"):
        assert main([name, *words, "--seed", "1"]) == 1
        assert "--overwrite starts again" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == first
    assert main(["rloo", *words, "--seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "summary.json").read_text() != first
    (tmp_path / "feedback.db").touch()
    assert main(["rloo", *words, "--overwrite"]) == 1
    assert "holds judgements" in capsys.readouterr().err


def test_names_need_no_torch_and_help_needs_nothing_else_that_is_heavy():
    """A misspelt name needs none either; settings are beside their algorithms, which import torch."""
    code = (
        "import sys; from agents.__main__ import main; assert main([]) == 2; assert main(['pppo']) == 1\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'transformers'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "try: main(['ppo', '--help'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "heavy -= {'torch'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", [*ALGORITHMS])
def test_every_algorithm_has_its_settings_in_its_own_file(name):
    cls = find(name)
    assert cls.Config.__module__ == cls.__module__
    assert cls.Config.__doc__


DOCSTRING = """
    \"\"\"Learns from every second response.

    More.
    \"\"\"
"""


@pytest.mark.parametrize(
    ("body", "expected"), [(DOCSTRING, "Learns from every second response."), ("pass", "An algorithm of your own.")]
)
def test_the_help_of_an_algorithm_of_ones_own_opens_with_its_docstring(body, expected, tmp_path, monkeypatch, capsys):
    (tmp_path / "halves.py").write_text(
        "from dataclasses import dataclass\n"
        "from agents.algorithms.reinforce import RLOO, RLOOConfig\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        f"class HalvesConfig(RLOOConfig):\n    {body.strip()}\n\n\n"
        "class Halves(RLOO):\n    Config = HalvesConfig\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "halves", raising=False)
    with pytest.raises(SystemExit):
        main(["halves:Halves", "--help"])
    assert expected in " ".join(capsys.readouterr().out.split())
