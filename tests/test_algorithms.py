"""Every algorithm of the command line: a run to its end, a resume that is exact, and one of one's own."""

import json

import numpy as np
import pytest
import torch
from test_ppo import tiny

from agents import files
from agents.algorithms.registry import ALGORITHMS, find
from agents.algorithms.reinforce import RLOO
from agents.rollouts.batch import split_rows
from agents.settings.bounds import offered
from agents.training.trainer import Trainer
from mmenv.models.checkpoints import save_network


class Mine(RLOO):
    """One of one's own."""


def even_tokens(samples, responses):
    """1 for each even number among the tokens, as a share: the responses of a group differ in it."""
    return np.array([np.mean([t % 2 == 0 for t in r.tokens] or [0.0]) for r in responses], dtype=np.float32)


def trainer(name, folder, resume=False, **settings):
    start = folder.parent / "start.safetensors"
    if not start.exists():
        save_network(tiny(), start)
    given = {"num_envs": 16, "total_tokens": 300, "eval_episodes": 0, "checkpoint_every": 1, **settings}
    given |= {"pictures": False, "threads": 1}
    cls = find(name)
    if "preferences" not in settings:
        given |= {"pairs": 40, "judgements": 40}  # of the offline algorithms
    if name == "vineppo":
        given |= {"branches": 1, "branch_every": 3}  # fewer tokens, and so more updates
    given = {"learning_rate": 1e-3, **given}
    config = cls.Config(start=str(start), **{k: v for k, v in given.items() if k in offered(cls.Config)})
    return Trainer(name, config, folder, resume=resume, reward=even_tokens, max_response_tokens=6)


@pytest.mark.parametrize("name", [*ALGORITHMS])
def test_a_run_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(tmp_path, name):
    whole = trainer(name, tmp_path / "whole")
    whole.train()
    cut = trainer(name, tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    cut._begin()
    files.append_line(tmp_path / "cut" / "metrics.jsonl", cut._update())
    cut._save()
    again = trainer(name, tmp_path / "cut", resume=True)
    assert again.updates == 1
    again.train()
    assert again.updates == whole.updates
    for a, b in zip(whole.policy.state_dict().values(), again.policy.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert summary["algorithm"] == name
    assert np.isfinite(summary["kl"])
    assert all("kl" in row for row in files.read_lines(tmp_path / "whole" / "metrics.jsonl"))


def test_where_no_responses_differ_there_are_no_pairs_and_nothing_is_learned(tmp_path):
    one = trainer("online-dpo", tmp_path / "run", temperature=1e-6)
    before = [p.detach().clone() for p in one.algorithm.stepper.parameters]
    row = one._update()
    assert np.isfinite(row["kl"])
    assert "dpo_loss" not in row
    assert all(torch.equal(a, b) for a, b in zip(before, one.algorithm.stepper.parameters, strict=True))


@pytest.mark.parametrize(
    ("name", "num_envs", "minibatches", "expected"),
    [
        ("ppo", 6, 4, [2, 2, 1, 1]),
        ("rloo", 8, 5, [2, 2, 2, 1, 1]),
        ("sft", 6, 4, [2, 2, 1, 1]),
        ("online-dpo", 20, 4, [6, 6, 4, 4]),
        ("offline-dpo", 20, 4, [6, 6, 4, 4]),
        ("expert-iteration", 40, 4, [3, 3, 2, 2]),
        ("distillation", 40, 4, [3, 3, 2, 2]),
    ],
)
def test_a_pass_takes_as_many_steps_as_minibatches_are_asked_for(tmp_path, name, num_envs, minibatches, expected):
    one = trainer(name, tmp_path / "run", num_envs=num_envs, minibatches=minibatches, epochs=1, responses_per_context=4)
    sizes, step = [], one.algorithm.stepper.step

    def counted(data, indices, loss):
        sizes.append(len(indices))
        step(data, indices, loss)

    one.algorithm.stepper.step = counted
    one._update()
    assert sizes == expected


def test_fewer_rows_than_minibatches_make_a_step_each_and_none_is_empty():
    assert [part.tolist() for part in split_rows(torch.arange(3), 5)] == [[0], [1], [2]]
    assert split_rows(torch.arange(0), 5) == []


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "best-of-n"])
def test_a_step_in_parts_is_the_step_in_one(tmp_path, name):
    found = []
    for parts in (1, 3):
        one = trainer(name, tmp_path / str(parts), micro_batches=parts, minibatches=2, max_grad_norm=1e9)
        # Adam would make much of rounding where gradients are nearly 0.
        one.algorithm.stepper.optimiser = torch.optim.SGD(one.algorithm.stepper.parameters, lr=1e-2)
        found.append((one._update(), [p.detach().clone() for p in one.algorithm.stepper.parameters]))
    (logs, whole), (told, in_parts) = found
    for a, b in zip(whole, in_parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert told["grad_norm"] == pytest.approx(logs["grad_norm"], rel=1e-3)
    assert told["grad_norm"] > 0


def test_an_algorithm_of_ones_own_joins_by_its_path(tmp_path):
    assert find("test_algorithms:Mine").__name__ == "Mine"
    run = trainer("test_algorithms:Mine", tmp_path / "run")
    run.train()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["algorithm"] == "test_algorithms:Mine"


@pytest.mark.parametrize("name", ["ppp", "no_such_package:Mine", "json:Nothing", "json:loads"])
def test_a_name_that_is_no_algorithm_is_refused_with_the_remedy(name):
    with pytest.raises(ValueError, match=r"package.module:Class|Python path|subclass"):
        find(name)


def test_a_missing_class_is_told_beside_those_of_its_module():
    with pytest.raises(ValueError, match=r"has no class Yours: give package.module:Class, one of .*Mine"):
        find("test_algorithms:Yours")


def test_a_run_ends_at_its_kl(tmp_path):
    run = trainer("rloo", tmp_path / "run", total_tokens=100_000, stop_at_kl=1e-9)
    run.train()
    assert run.tokens < 5000
    assert run.last_kl >= 1e-9
