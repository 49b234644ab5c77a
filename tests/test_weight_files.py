"""Weight files and their parents: what a file leaves out, what it descends from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmenv.models.checkpoints import WeightsError, lineage, load_pretrained, read_tensors, save_network, save_tensors
from mmenv.models.transformer import Network, NetworkConfig


def network() -> Network:
    torch.manual_seed(0)
    return Network(NetworkConfig(40, width=32, layers=1, heads=2))


def rounded(model: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.half().float() for name, tensor in model.state_dict().items()}


def test_a_child_holds_only_what_changed_and_loads_whole(tmp_path: Path) -> None:
    model = network()
    save_network(model, tmp_path / "parent.safetensors")
    with torch.no_grad():
        model.norm.weight.add_(1)
    (tmp_path / "below").mkdir()
    child = tmp_path / "below" / "child.safetensors"
    save_network(model, child, parent=tmp_path / "parent.safetensors")
    loaded = load_pretrained(child).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in rounded(model).items())
    assert child.stat().st_size < (tmp_path / "parent.safetensors").stat().st_size / 10


def test_lineage_names_every_ancestor(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3)}
    paths = [tmp_path / f"{name}.safetensors" for name in ("first", "second", "third")]
    for at, path in enumerate(paths):
        tensors[f"b{at}"] = torch.full((3,), float(at))
        save_tensors(tensors, path, {}, paths[at - 1] if at else None)
    assert lineage(paths[2]) == [str(paths[2]), str(paths[1]), str(paths[0])]
    assert read_tensors(paths[2])[0].keys() == tensors.keys()


def test_a_folder_of_weights_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    model = network()
    save_network(model, tmp_path / "here" / "parent.safetensors")
    save_network(model, tmp_path / "here" / "child.safetensors", parent=tmp_path / "here" / "parent.safetensors")
    (tmp_path / "here").rename(tmp_path / "there")
    assert torch.equal(
        load_pretrained(tmp_path / "there" / "child.safetensors").embed.weight, rounded(model)["embed.weight"]
    )


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    parent, child = tmp_path / "parent.safetensors", tmp_path / "child.safetensors"
    save_network(network(), parent)
    save_network(network(), child, parent=parent)
    parent.unlink()
    with pytest.raises(WeightsError, match=r"parent 'parent\.safetensors'.*copy the parent"):
        load_pretrained(child)


def test_a_file_that_is_its_own_ancestor_is_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_tensors({"a": torch.ones(2)}, one, {})
    save_tensors({"a": torch.ones(2)}, two, {}, one)
    save_tensors({"a": torch.ones(2)}, tmp_path / "new.safetensors", {}, two)
    (tmp_path / "new.safetensors").replace(one)
    with pytest.raises(WeightsError, match="its own ancestor"):
        lineage(one)


@pytest.mark.parametrize("name", ["/etc/hostname", "nowhere", "../parent.safetensors"])
def test_a_parent_outside_is_refused_where_it_does_not_exist(tmp_path: Path, name: str) -> None:
    save_tensors({"a": torch.ones(2)}, tmp_path / "child.safetensors", {"parent": name})
    with pytest.raises(WeightsError, match="parent"):
        read_tensors(tmp_path / "child.safetensors")


def test_a_parent_with_other_tensors_is_refused(tmp_path: Path) -> None:
    save_tensors({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "parent.safetensors", {})
    with pytest.raises(WeightsError, match="'b'"):
        save_tensors({"a": torch.ones(2)}, tmp_path / "child.safetensors", {}, tmp_path / "parent.safetensors")
