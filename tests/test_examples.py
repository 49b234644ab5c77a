"""The examples run from end to end, stay short, and are what the docs quote."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agents.maths.advantages import gae

ROOT = Path(__file__).parent.parent
LONGEST = {
    "ppo.py": 60, "sb3_ppo.py": 60, "own_agent.py": 100, "cleanrl_ppo.py": 130, "torchrl_gym_env.py": 130,
    "rllib_ppo.py": 110, "trl_grpo.py": 185, "turn_level.py": 70, "smollm2.py": 100, "guess.py": 100,
}  # fmt: skip
TINY = {
    "ppo.py": ("--total-tokens", "40", "--num-envs", "8", "--episodes", "8"),
    "sb3_ppo.py": ("--total-tokens", "64", "--num-envs", "4", "--episodes", "8"),
    "own_agent.py": ("--updates", "2", "--episodes", "8"),
}
# Agents of other libraries: a few updates here, what they learn in the slow tests.
OTHERS = {
    "cleanrl_ppo.py": ("--total-tokens", "256", "--num-envs", "16", "--episodes", "8"),
    "torchrl_gym_env.py": ("--total-tokens", "256", "--num-envs", "16", "--episodes", "8"),
    "trl_grpo.py": ("--total-tokens", "128", "--batch", "64", "--contexts", "64", "--episodes", "16"),
}
SLOW = [name for name in OTHERS if name != "cleanrl_ppo.py"]
OWN = ("guess.py", "rllib_ppo.py", "smollm2.py", "turn_level.py")  # with tests of their own
NEEDS = {
    "sb3_ppo.py": "stable_baselines3", "cleanrl_ppo.py": "tyro", "torchrl_gym_env.py": "torchrl", "trl_grpo.py": "trl",
}  # fmt: skip
# Sections of the page that quote an example word for word.
QUOTED = {
    "# Plug in your agent": "examples/own_agent.py",
    "## With CleanRL's loop": "examples/cleanrl_ppo.py",
    "## With TorchRL": "examples/torchrl_gym_env.py",
    "## With RLlib": "examples/rllib_ppo.py",
    "## With TRL": "agents/integrations/trl_network.py",
    "## Turn by turn": "examples/turn_level.py",
}


def run(name, *arguments, python=sys.executable, **environment):
    """What an example prints."""
    if name in NEEDS and os.environ.get("MMENV_REQUIRE_ALL") != "1":
        pytest.importorskip(NEEDS[name])
    command = [str(python), str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def gain(output):
    found = re.search(r"gain in gold ([+-]\d\.\d+)$", output.strip())
    assert found is not None, output
    return float(found[1])


def test_every_example_is_tested_here():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(LONGEST) == {*TINY, *OTHERS, *OWN}


@pytest.mark.parametrize("name", LONGEST)
def test_an_example_stays_short(name):
    assert len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()) < LONGEST[name]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "sb3_ppo.py" else name for name in TINY]
)
def test_an_example_runs_from_end_to_end(name, tmp_path):
    out = ("--out", str(tmp_path / "run")) if name == "ppo.py" else ()
    start = ROOT / "mmenv" / "models" / "pretrained" / "start.safetensors"
    assert -1 <= gain(run(name, *TINY[name], "--start", str(start), *out)) <= 1


@pytest.mark.parametrize("name", ["cleanrl_ppo.py", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_an_agent_of_another_library_trains_and_is_evaluated(name):
    assert -1 <= gain(run(name, *OTHERS[name])) <= 1


@pytest.mark.slow
def test_a_language_model_is_given_eyes_and_trained_in_two_steps(tmp_path):
    from benchmarks.models import llama

    few = (
        "--caption-tokens",
        "100",
        "--sft-tokens",
        "100",
        "--total-tokens",
        "100",
        "--num-envs",
        "8",
        "--episodes",
        "8",
        "--seeds",
        "1",
    )
    said = run("smollm2.py", "--model", str(llama(tmp_path / "llama")), "--out", str(tmp_path), *few)
    assert len(re.findall(r"seed 1: gold \d\.\d+ -> \d\.\d+", said)) == 1
    assert {"captions", "VQA-sft", "VQA-ppo-1"} <= {path.name for path in tmp_path.iterdir()}
    for name in ("curves.png", "samples.png", "summary.json"):
        assert (tmp_path / "VQA-ppo-1" / name).is_file()


@pytest.mark.models
def test_smollm2_comes_out_of_its_package_as_it_went_in(tmp_path):
    """The weights that training starts from say what the packed ones say."""
    spec = importlib.util.spec_from_file_location("smollm2", ROOT / "examples" / "smollm2.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    folder = example.prepare(tmp_path / "model")
    from agents.policies.transformers.config import HFConfig
    from agents.policies.transformers.loading import load_transformers

    network = load_transformers(HFConfig(str(folder), image_encoder="encoders"))
    assert network.config.vocab_size == 49_152 + 1  # and padding, for which the tokenizer has no token of its own
    ids = network.tokenizer.encode("The capital of France is the city of")
    with torch.no_grad():
        likeliest = network.model(torch.tensor([ids])).logits[0, -1].argmax()
    assert network.tokenizer.decode([int(likeliest)]) == "Paris"


def test_cleanrl_advantages_end_with_the_response():
    """A lane that answers one question after another is worth what its responses are worth one by one."""
    pytest.importorskip("tyro")
    spec = importlib.util.spec_from_file_location("cleanrl_ppo", ROOT / "examples" / "cleanrl_ppo.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.rand(6, 1, generator=generator) for _ in range(2))
    ends = torch.tensor([0, 0, 1, 0, 0, 1.0])[:, None]
    found = example.gae(rewards, values, ends, torch.tensor([100.0]), 0.9, 0.8)
    one_by_one = gae(rewards.view(2, 3), values.view(2, 3), torch.ones(2, 3), 0.9, 0.8)  # (B, T), as agents have it
    torch.testing.assert_close(found.view(2, 3), one_by_one)
    cut = example.gae(rewards[:2], values[:2], ends[:2], values[2], 0.9, 0.8)  # the batch ends before the response
    assert cut[1] == pytest.approx((rewards[1] + 0.9 * values[2] - values[1]).item())


def test_the_docs_quote_the_examples_word_for_word():
    page = (ROOT / "docs" / "plug_in_your_agent.md").read_text(encoding="utf-8")
    heads = re.findall(r"^(?:# |## With |## Turn ).*$", page, re.M)
    sections = dict(zip(heads, re.split(r"^(?:# |## With |## Turn ).*$", page, flags=re.M)[1:]))
    for head, name in QUOTED.items():
        example = (ROOT / name).read_text(encoding="utf-8")
        quoted = re.findall(r"```python\n(.*?)```", sections[head], re.S)
        assert len(quoted) >= (5 if name.endswith("own_agent.py") else 1)
        for block in quoted:
            assert block in example, block


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_agent_of_ones_own_gains_a_tenth_of_gold(seed):
    assert gain(run("own_agent.py", "--seed", str(seed))) >= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cleanrl_ppo.py", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_four_thousand_tokens_gain_a_tenth_of_gold(name):
    contexts = ("--contexts", "512") if name == "trl_grpo.py" else ()
    assert gain(run(name, "--total-tokens", "4096", "--episodes", "128", *contexts)) >= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_example_that_learns_fast_gains_a_fifth_of_gold(name, seed):
    assert gain(run(name, "--seed", str(seed))) >= 0.2


@pytest.mark.slow
def test_rllib_runs_in_an_environment_of_its_own(tmp_path):
    """Run by `make test-rllib`, which makes the environment."""
    python = ROOT / ".venv-rllib" / "bin" / "python"
    arguments = ("--iterations", "1", "--tokens", "256", "--episodes", "32")
    printed = run("rllib_ppo.py", *arguments, python=python, HOME=str(tmp_path))  # Ray writes into the home folder
    assert re.search(r"^iteration   1  reward [+-]\d\.\d+$", printed, re.M), printed
    assert -1 <= gain(printed) <= 1
