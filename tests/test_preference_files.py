"""Files of preference models: what they hold, how they name the network they began as, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.models.checkpoints import WeightsError, read_tensors, save_network
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.files import read_backbone
from mmenv.rewards.preference.model import PreferenceModel, load_preference_model
from mmenv.rewards.preference.training import fit
from tests.backbones import small_backbone

IMAGE = np.zeros((96, 96, 3), np.uint8)
SAMPLES = [Sample(f"s/{i}", i, "what ?", IMAGE) for i in range(32)]
PAIRS = [Comparison(s.id, s.prompt, ("yes", "no"), 0, annotator="a") for s in SAMPLES]
RESPONSES = [Response("yes"), Response("no"), Response("two dogs")]


def learned(parent, **settings):
    model = PreferenceModel(parent)
    fit(model, PAIRS, SAMPLES, RewardConfig(epochs=1, batch=8, **settings))
    return model


@pytest.mark.parametrize("trained", ["all", "upper", "head"])
def test_a_file_has_what_differs_from_its_parent_and_is_loaded_as_it_was_saved(tmp_path, trained):
    parent = small_backbone(tmp_path, layers=2)
    model, path = learned(parent, trained=trained), tmp_path / "mine.safetensors"
    model.save(path, {"note": "x"})
    tensors, metadata = read_tensors(path)
    assert metadata["parent"] == "small.safetensors"
    assert metadata["note"] == "x"
    of_backbone = {name for name in tensors if name.startswith("backbone.")}
    of_decoder = {
        f"backbone.{name}" for name in parent.network.state_dict()
        if not name.startswith(("encoders.", "media_position.", "value_head."))
    }  # fmt: skip
    upper = {name for name in of_decoder if name.startswith(("backbone.blocks.1.", "backbone.norm."))}
    assert of_backbone <= {"all": of_decoder, "upper": upper, "head": set()}[trained]
    assert ("backbone.blocks.0.qkv.weight" in of_backbone) == (trained == "all")
    assert ("backbone.blocks.1.qkv.weight" in of_backbone) == (trained != "head")
    loaded = load_preference_model(path)
    expected = model(SAMPLES[:3], RESPONSES)
    np.testing.assert_allclose(loaded(SAMPLES[:3], RESPONSES), expected, atol=0.05)  # files have half precision
    assert expected.std() > 0.5


def test_a_file_and_its_parent_move_together_and_alone_the_file_is_refused(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "nets").mkdir()
    model = learned(small_backbone(tmp_path / "nets"))
    model.save(tmp_path / "here" / "mine.safetensors")
    assert read_tensors(tmp_path / "here" / "mine.safetensors")[1]["parent"] == "../nets/small.safetensors"
    for folder in ("here", "nets"):
        shutil.move(tmp_path / folder, tmp_path / "moved" / folder)
    loaded = load_preference_model(tmp_path / "moved" / "here" / "mine.safetensors")
    np.testing.assert_allclose(loaded(SAMPLES[:3], RESPONSES), model(SAMPLES[:3], RESPONSES), atol=0.05)
    alone = shutil.copy(tmp_path / "moved" / "here" / "mine.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(WeightsError, match=r"differs from its parent .*small\.safetensors"):
        load_preference_model(alone)


def test_a_file_that_names_no_parent_or_changes_the_encoders_is_refused(tmp_path):
    parent, path = small_backbone(tmp_path), tmp_path / "mine.safetensors"
    PreferenceModel(parent).save(path)
    tensors, metadata = read_tensors(path)
    save_file(tensors, path, {k: v for k, v in metadata.items() if k != "parent"})
    with pytest.raises(WeightsError, match="names no parent"):
        load_preference_model(path)
    encoder = next(name for name in parent.network.state_dict() if name.startswith("encoders."))
    save_file({**tensors, f"backbone.{encoder}": parent.network.state_dict()[encoder] + 1}, path, metadata)
    with pytest.raises(WeightsError, match="changes the encoders"):
        load_preference_model(path)


def test_the_newest_policy_of_a_run_is_a_backbone_and_another_folder_is_not(tmp_path):
    for step, width in ((9, 16), (10, 32)):
        (tmp_path / "run" / "checkpoint" / f"step-{step}").mkdir(parents=True)
        made = small_backbone(tmp_path, width=width).path
        shutil.move(made, tmp_path / "run" / "checkpoint" / f"step-{step}" / "policy.safetensors")
    assert read_backbone(tmp_path / "run").network.config.width == 32
    with pytest.raises(WeightsError, match="is no run with a checkpoint"):
        read_backbone(tmp_path)


def test_a_backbone_with_words_that_it_does_not_name_is_refused(tmp_path):
    save_network(Network(NetworkConfig(vocab_size=20, width=16, layers=1, heads=2)), tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match="has 20 words, the embedded world"):
        read_backbone(tmp_path / "odd.safetensors")


def test_a_backbone_is_read_once_and_again_where_its_file_was_written_again(tmp_path):
    first = small_backbone(tmp_path)
    assert read_backbone(tmp_path / "small.safetensors").network is first.network
    assert small_backbone(tmp_path, width=64).network.config.width == 64
