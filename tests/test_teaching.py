"""Trainings of the shipped weights: they go on where they stopped, and see the demonstrations that they are given."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mmenv.data.sample import Sample
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.worlds.facts import write_facts
from mmenv.worlds.painter import paint
from mmenv.worlds.scenes import draw_scene, seed_of
from mmenv.worlds.vocabulary import world_tokenizer
from scripts.resumable import Schedule, train
from scripts.teaching import FACTS_THINGS, Demonstrations, Facts, Lessons, teach

ODDS = {"vqa": 0.5, "captioning": 0.2, "dialogue": 0.3}
FEW = Lessons({"vqa": 5, "captioning": 4, "dialogue": 3}, ODDS, batch=8)


class Numbers(Dataset[torch.Tensor]):
    """A batch of numbers a step."""

    def __getitem__(self, step: int) -> torch.Tensor:
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


def run(state: Path, stop: int = 99) -> torch.Tensor:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    seen = 0

    def loss_of(batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        nonlocal seen
        seen += 1
        if seen > stop:
            raise InterruptedError
        return model(batch).square().mean(), {}

    schedule = Schedule(steps=8, lr=0.1, every=3, bf16=False)
    groups: list[dict[str, Any]] = [{"params": [model.weight], "scale": 1.0}, {"params": [model.bias], "scale": 0.5}]
    train(model, groups, Numbers(), loss_of, schedule, state, "test")
    return model.weight.detach()


def test_a_training_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped.pt", stop=5)
    assert torch.equal(run(tmp_path / "stopped.pt"), run(tmp_path / "straight.pt"))
    assert torch.equal(run(tmp_path / "stopped.pt"), run(tmp_path / "straight.pt"))  # nothing is left to do


def test_only_the_first_demonstrations_are_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Demonstrations(FEW, seed=0)
    indices: dict[str, set[int]] = {name: set() for name in ODDS}
    for (name, _), task in batches.tasks.items():
        draw = task.sample

        def sample(split: str, index: int, name: str = name, draw=draw) -> Sample:  # type: ignore[no-untyped-def]
            assert split == "train"
            indices[name].add(index)
            return draw(split, index)

        monkeypatch.setattr(task, "sample", sample)
    for step in range(12):
        batches[step]
    assert {name: max(seen) + 1 for name, seen in indices.items()} == FEW.counts


def test_a_batch_of_demonstrations_is_a_function_of_its_step() -> None:
    first, again = Demonstrations(FEW, seed=0)[3], Demonstrations(FEW, seed=0)[3]
    assert first.task == again.task
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.response, again.response)


@pytest.mark.parametrize("distinct", [False, True])
def test_facts_are_of_the_pictures_beside_them_and_a_function_of_the_step(distinct: bool) -> None:
    batch, again = Facts(0, 3, {"count": 2}, distinct)[5], Facts(0, 3, {"count": 2}, distinct)[5]
    assert torch.equal(batch.image, again.image)
    assert torch.equal(batch.response, again.response)
    rng, decode = random.Random(seed_of("facts", 0, 5)), world_tokenizer().decode
    for image, row in zip(batch.image, batch.response, strict=True):
        scene = draw_scene(rng, FACTS_THINGS, distinct=distinct)
        assert np.array_equal(image, paint(scene))
        assert decode(row.tolist()) == write_facts(scene, rng, 64, {"count": 2})


def test_teaching_lowers_the_loss_and_leaves_the_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = Network(NetworkConfig(world_tokenizer().vocab_size, width=32, layers=1, heads=2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    teach(network, Demonstrations(FEW, 0), Schedule(steps=8, lr=1e-3, bf16=False), tmp_path / "state.pt", "test")
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("encoders."))
    assert not torch.equal(before["blocks.0.qkv.weight"], after["blocks.0.qkv.weight"])
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert "8 of 8" in capsys.readouterr().out
