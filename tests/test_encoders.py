"""Encoders: every named one, and every kind of transformers model behind the same face."""

from __future__ import annotations

import pytest
import torch
from packaged_models import minilm

from mmenv.models.encoders import AudioEncoder, ImageEncoder, PatchStem
from mmenv.models.representation.towers import PretrainedTower, TowerError, build_tower, world_ids

WIDTH = 24
transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WHISPER = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 40, "max_source_positions": 100, "vocab_size": 60,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def tiny(kind: str):
    """A small model of a kind, with random weights."""
    t = transformers
    if kind == "bert":
        return t.BertModel(t.BertConfig(vocab_size=420, max_position_embeddings=64, **SMALL))
    if kind == "resnet":
        return t.ResNetModel(
            t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
        )
    if kind == "vit":
        return t.ViTModel(t.ViTConfig(image_size=32, patch_size=8, **SMALL))
    if kind == "clip":
        text = t.CLIPTextConfig(vocab_size=420, max_position_embeddings=64, **SMALL)
        vision = t.CLIPVisionConfig(image_size=32, patch_size=8, **SMALL)
        return t.CLIPModel(t.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    if kind == "wav2vec2":
        conv = {"conv_dim": (16, 16), "conv_kernel": (10, 8), "conv_stride": (40, 8), "num_feat_extract_layers": 2}
        groups = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, "vocab_size": 40}
        return t.Wav2Vec2Model(t.Wav2Vec2Config(**SMALL, **conv, **groups))
    return t.WhisperModel(t.WhisperConfig(**WHISPER))


KINDS = {
    "image": ("resnet", "vit", "clip"),
    "audio": ("wav2vec2", "whisper"),
    "text": ("bert", "clip"),
}
CASES = [(modality, kind) for modality, kinds in KINDS.items() for kind in kinds]


def inputs_of(modality: str):
    if modality == "text":
        return ["a dog and an ant .", "a dog ."]
    if modality == "image":
        return torch.randint(256, (2, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wave = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)).clamp(-3, 3) / 4
    wave[1, 8000:] = 0.0
    return wave


@pytest.mark.parametrize("side", [96, 192])
def test_image_stems_give_a_token_for_each_cell_or_patch(side):
    image = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    assert ImageEncoder(WIDTH)(image).shape == (2, 36, WIDTH)
    assert PatchStem(WIDTH)(image).shape == (2, 36, WIDTH)


def test_a_patch_speaks_of_its_own_pixels_alone():
    stem, image = PatchStem(WIDTH, patch=16), torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
    changed = image.clone()
    changed[0, 16:32, 32:48] = 200  # the second row of patches, the third column
    moved = (stem(image) != stem(changed)).any(-1)[0]
    assert moved.nonzero()[:, 0].tolist() == [6 + 2]


def test_a_patch_that_does_not_divide_the_image_is_refused():
    with pytest.raises(ValueError, match="patch=7 does not divide side=96"):
        PatchStem(WIDTH, patch=7)


def test_the_padding_of_an_utterance_is_masked():
    tokens = build_tower("logmel", "audio", WIDTH)(inputs_of("audio"))
    assert tokens.states.shape == (2, 16_000 // AudioEncoder.stride, WIDTH)
    assert tokens.mask.sum(1).tolist() == [10, 5]


def test_an_empty_text_still_has_a_token():
    ids, mask = world_ids(["", "a dog"])
    assert mask.sum(1).tolist() == [1, 3]
    assert ids[0, 0] == 1


@pytest.mark.parametrize(("modality", "kind"), CASES)
def test_a_transformers_model_gives_tokens_of_the_wanted_width_and_learns(modality, kind, tmp_path):
    tiny(kind).save_pretrained(tmp_path)
    tower = build_tower(str(tmp_path), modality, WIDTH)
    tokens = tower(inputs_of(modality))
    assert tokens.states.shape[:2] == tokens.mask.shape
    assert tokens.states.shape[2] == WIDTH
    assert tokens.mask.any(1).all()
    if modality != "image":  # the second text is shorter, and the second utterance half silent
        assert tokens.mask[1].sum() < tokens.mask[0].sum()
    tokens.states.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.model.parameters())


@pytest.mark.parametrize(("modality", "kind"), CASES)
def test_a_transformers_model_is_read_with_its_own_weights(modality, kind, tmp_path):
    model = tiny(kind)
    model.save_pretrained(tmp_path)
    own = dict(model.state_dict())
    loaded = PretrainedTower(str(tmp_path), modality, WIDTH).model.state_dict()
    ends = {name: value for name, value in loaded.items() if value.dim() > 1}
    assert ends
    for name, value in ends.items():
        assert any(full.endswith(name) and torch.equal(value, own[full]) for full in own if full.endswith(name)), name


def test_a_folder_with_a_configuration_alone_is_built_anew(tmp_path):
    tiny("resnet").config.save_pretrained(tmp_path)
    assert PretrainedTower(str(tmp_path), "image", WIDTH)(inputs_of("image")).states.shape[2] == WIDTH


def test_a_frozen_model_keeps_its_weights_and_its_mode(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    tower = build_tower(str(tmp_path), "text", WIDTH, frozen=True).train()
    assert not tower.model.training
    tower(["a dog ."]).states.sum().backward()
    assert all(p.grad is None for p in tower.model.parameters())
    assert tower.out.weight.grad is not None


def test_a_model_of_another_modality_is_refused_by_name(tmp_path):
    tiny("vit").save_pretrained(tmp_path)
    with pytest.raises(TowerError, match="reads pixel_values, not input_ids: give a model of texts"):
        build_tower(str(tmp_path), "text", WIDTH)


def test_a_path_without_a_model_says_what_may_be_given(tmp_path):
    with pytest.raises(TowerError, match="neither conv, patch nor a folder"):
        build_tower(str(tmp_path / "nothing"), "image", WIDTH)


def test_too_few_embeddings_without_a_tokenizer_are_an_error(tmp_path):
    config = transformers.BertConfig(vocab_size=50, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(TowerError, match="50 embeddings are too few"):
        build_tower(str(tmp_path), "text", WIDTH)


@pytest.mark.models
def test_minilm_reads_words_as_its_makers_meant():
    tower = build_tower(minilm(), "text", WIDTH, frozen=True)
    states = tower.model(**tower.prepare(["a dog", "a puppy", "a teapot"], return_tensors="pt", padding=True))
    meant = torch.nn.functional.normalize(states.last_hidden_state.mean(1), dim=-1)
    near = meant @ meant.T
    assert near[0, 1] > near[0, 2] + 0.1
    assert tower.mask_word == "[MASK]"
