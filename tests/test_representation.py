"""Representation learning: losses by hand, missing modalities, saving, the command, and that something is learned."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from packaged_models import minilm
from rich.console import Console

from mmenv.cli import main
from mmenv.models.checkpoints import WeightsError
from mmenv.models.representation.config import AlignConfig
from mmenv.models.representation.contrast import info_nce, late_interaction, owned_nce, owned_sigmoid, sigmoid_loss
from mmenv.models.representation.fusion import Tokens
from mmenv.models.representation.network import Representation, load_representation, save_representation
from mmenv.models.representation.pairings import Examples, described, draw_examples, draw_phrases, spoiled
from mmenv.models.representation.pretraining import contrast, losses_of, pretrain
from mmenv.models.representation.probes import held_out_examples, linear_probe, recall, retrieval, similarities
from mmenv.models.representation.reconstruction import hide
from mmenv.worlds.captions import caption_parts
from mmenv.worlds.painter import paint
from mmenv.worlds.samples import draw_caption
from mmenv.worlds.scenes import RELATIONS, draw_scene, held_out_relation
from mmenv.worlds.things import concept_index

TINY = {"width": 32, "dim": 16, "layers": 1, "heads": 4, "steps": 2, "batch": 6, "probe_scenes": 100}
ALL = ("image", "audio", "text")


def tiny(**changes) -> Representation:
    return Representation(AlignConfig(**{**TINY, **changes}))


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))), dim=-1)


def test_info_nce_is_the_mean_cross_entropy_of_rows_and_columns():
    similarity, scale = torch.tensor([[0.9, 0.1], [0.4, 0.3]]), torch.tensor(5.0)
    rows = [-np.log(np.exp(4.5) / (np.exp(4.5) + np.exp(0.5))), -np.log(np.exp(1.5) / (np.exp(1.5) + np.exp(2.0)))]
    columns = [-np.log(np.exp(4.5) / (np.exp(4.5) + np.exp(2.0))), -np.log(np.exp(1.5) / (np.exp(1.5) + np.exp(0.5)))]
    assert info_nce(similarity, scale).item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, rel=1e-5)


def test_sigmoid_loss_judges_every_pair_by_itself():
    similarity, scale, bias = torch.tensor([[0.9, 0.1], [0.4, 0.3]]), torch.tensor(5.0), torch.tensor(-2.0)
    x = 5 * similarity.numpy() - 2
    expected = sum(np.log1p(np.exp(-x[i, j] if i == j else x[i, j])) for i in range(2) for j in range(2)) / 2
    assert sigmoid_loss(similarity, scale, bias).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_owned_losses_are_the_plain_ones_where_each_row_owns_one_column(loss):
    similarity, scale, bias, owner = torch.randn(5, 5), torch.tensor(3.0), torch.tensor(-1.0), torch.arange(5)
    if loss == "info_nce":
        torch.testing.assert_close(owned_nce(similarity, scale, owner), info_nce(similarity, scale))
    else:
        torch.testing.assert_close(owned_sigmoid(similarity, scale, bias, owner), sigmoid_loss(similarity, scale, bias))


def test_hard_negatives_raise_a_contrastive_loss_the_more_the_likelier_they_look():
    similarity, scale, bias = torch.eye(4), torch.tensor(5.0), torch.tensor(-2.0)
    far, near = torch.full((4, 4), -1.0), torch.full((4, 4), 0.9)
    assert info_nce(similarity, scale) < info_nce(similarity, scale, far) < info_nce(similarity, scale, near)
    plain, hard = sigmoid_loss(similarity, scale, bias), sigmoid_loss(similarity, scale, bias, near)
    assert plain < sigmoid_loss(similarity, scale, bias, far) < hard


def test_late_interaction_is_the_mean_of_best_matches_from_both_sides():
    a, b = unit(2, 3, 8), unit(4, 5, 8)
    weights = torch.full((2, 3), 1 / 3), torch.full((4, 5), 1 / 5)
    masks = torch.ones(2, 3).bool(), torch.ones(4, 5).bool()
    found = late_interaction(Tokens(a, masks[0]), weights[0], Tokens(b, masks[1]), weights[1])
    cosines = a[1] @ b[2].T
    assert found[1, 2].item() == pytest.approx(((cosines.amax(1).mean() + cosines.amax(0).mean()) / 2).item(), rel=1e-5)


def test_what_is_wrongly_said_is_less_true_than_a_right_description():
    rng = random.Random(0)
    for i in range(200):
        scene = draw_scene(rng, (1, 4))
        right = described(scene, i % 2 == 0, rng)
        wrong = spoiled(scene, right, i % 2 == 0, rng)
        assert caption_parts(scene, wrong)["correct"] < caption_parts(scene, right)["correct"]


def test_held_out_relations_are_never_told_in_pretraining():
    rng, told = random.Random(0), []
    for _ in range(300):
        words = described(draw_scene(rng, (2, 4)), False, rng).split()
        for relation in RELATIONS:
            parts = relation.split()
            for at in range(2, len(words) - len(parts)):
                if words[at - 1] in ("is", "lies") and words[at : at + len(parts)] == parts:
                    told.append(held_out_relation(concept_index()[words[at - 2]], relation))
    assert len(told) > 50
    assert not any(told)


def test_phrases_name_what_their_own_image_shows():
    phrases = draw_phrases(random.Random(1), 5)
    assert len(phrases.image) == 5
    assert len(phrases.texts) == len(phrases.owner)
    assert sorted(set(phrases.owner.tolist())) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fusion", ["concat", "gated", "cross"])
@pytest.mark.parametrize("strategy", ["shared", "separate"])
@pytest.mark.parametrize("loss", ["infonce", "sigmoid", "reconstruction"])
def test_every_strategy_fusion_and_loss_trains_with_modalities_missing(strategy, fusion, loss):
    model = tiny(strategy=strategy, fusion=fusion, loss=loss, audio="logmel", missing=0.3, warm_up=0.5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    steps = list(pretrain(model))
    assert len(steps) == 2
    assert all(np.isfinite(list(s.losses.values())).all() for s in steps)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    for part in ("towers.image", "towers.audio", "towers.text", "fusion"):
        assert any(name.startswith(part) for name in moved), part


def test_both_kinds_of_loss_add_up_by_their_weights():
    model = tiny(reconstruction_weight=0.5)
    examples = draw_examples(random.Random(3), 6, model.modalities)
    losses, _ = losses_of(model, examples, np.random.default_rng(0))
    assert set(losses) == {"image-text", "matching", "hidden image", "hidden text"}
    twice = Representation(dataclasses.replace(model.config, reconstruction_weight=1.0))
    twice.load_state_dict(model.state_dict())
    double, _ = losses_of(twice, examples, np.random.default_rng(0))
    torch.testing.assert_close(double["hidden image"], 2 * losses["hidden image"])
    torch.testing.assert_close(double["image-text"], losses["image-text"])


def test_a_contrastive_loss_takes_only_the_pairs_that_are_there():
    model = tiny()
    examples = draw_examples(random.Random(4), 8, model.modalities)
    keep = torch.arange(8) < 5
    some = dataclasses.replace(examples, present={"image": keep})
    wrong = model.encode("text", examples.wrong)
    fewer = Examples(examples.image[:5], None, examples.text[:5])
    with_gaps, _ = contrast(model, model.encode_all(some), wrong)
    alone, _ = contrast(model, model.encode_all(fewer), Tokens(wrong.states[:5], wrong.mask[:5]))
    torch.testing.assert_close(with_gaps["image-text"], alone["image-text"])


def test_a_batch_without_images_trains_on_text_and_sound():
    model = tiny(audio="logmel")
    examples = draw_examples(random.Random(5), 12, ("audio", "text"))
    losses, _ = losses_of(model, examples, np.random.default_rng(0))
    assert set(losses) == {"audio-text"}


def test_rows_without_an_image_are_encoded_as_nothing():
    model = tiny()
    examples = draw_examples(random.Random(6), 4, model.modalities)
    tokens = model.encode("image", examples.image, torch.tensor([True, False, True, False]))
    assert tokens.mask.any(1).tolist() == [True, False, True, False]
    torch.testing.assert_close(tokens.states[2], model.encode("image", examples.image[2:3]).states[0])


def test_hidden_parts_are_hidden_and_the_rest_is_left():
    examples = draw_examples(random.Random(7), 6, ALL)
    rest, hidden = hide(examples, 0.5, np.random.default_rng(0), "<unk>")
    covered = hidden["image"].view(6, 6, 6).repeat_interleave(16, 1).repeat_interleave(16, 2)
    assert (rest.image[covered] == 128).all()
    assert torch.equal(rest.image[~covered], examples.image[~covered])
    for text, whole, gone in zip(rest.text, examples.text, hidden["text"]):
        for word, right, masked in zip(text.split(), whole.split(), gone.tolist()):
            assert word == ("<unk>" if masked else right)
    quiet = hidden["audio"].repeat_interleave(1600, 1)
    assert rest.audio[quiet].abs().max() <= 1e-5
    assert torch.equal(rest.audio[~quiet], examples.audio[:, : quiet.shape[1]][~quiet])


def test_nothing_hidden_is_nothing_lost():
    examples = draw_examples(random.Random(7), 3, ALL)
    rest, hidden = hide(examples, 0.0, np.random.default_rng(0), "<unk>")
    assert torch.equal(rest.image, examples.image)
    assert list(rest.text) == list(examples.text)
    assert not any(h.any() for h in hidden.values())


def test_recall_counts_ranks_and_never_ties_in_its_own_favour():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.2, 0.2, 0.2]])
    assert recall(similarity, 1) == pytest.approx(1 / 3)
    assert recall(similarity, 2) == pytest.approx(2 / 3)
    assert recall(similarity, 3) == pytest.approx(1.0)


def test_held_out_scenes_are_those_of_the_test_split():
    examples = held_out_examples(5)
    scene, caption = draw_caption("plain", "test", 4)
    assert np.array_equal(examples.image[4].numpy(), paint(scene))
    assert examples.text[4] == caption


@pytest.mark.parametrize("fusion", ["concat", "gated", "cross"])
def test_features_have_a_number_for_how_well_modalities_match(fusion):
    model = tiny(fusion=fusion).eval()
    examples = draw_examples(random.Random(8), 3, model.modalities)
    tokens = model.features(model.encode_all(examples))
    assert tokens.states.shape[2] == model.config.width + 1
    assert tokens.states.shape[:2] == tokens.mask.shape
    assert tokens.states[..., -1][tokens.mask].abs().max() <= 1 + 1e-5


@pytest.mark.parametrize("interaction", ["late", "global"])
def test_a_saved_representation_comes_back_the_same(interaction, tmp_path):
    model = tiny(interaction=interaction, strategy="shared", fusion="cross").eval()
    save_representation(model, tmp_path)
    loaded = load_representation(tmp_path)
    assert loaded.config == model.config
    examples = held_out_examples(4)
    torch.testing.assert_close(*(similarities(m, examples, "image", "text") for m in (model, loaded)), rtol=0, atol=0)


def test_a_folder_without_weights_says_how_to_make_them(tmp_path):
    with pytest.raises(WeightsError, match="python -m mmenv align --out"):
        load_representation(tmp_path)


def test_same_seed_same_weights_and_another_seed_others():
    def trained(seed: int) -> torch.Tensor:
        model = tiny(seed=seed)
        list(pretrain(model))
        return model.projections["image"].weight.detach()

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_building_a_representation_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"fusion": "sum"}, "fusion='sum' is none of concat, gated, cross"),
        ({"image": "none"}, "text alone cannot be aligned"),
        ({"width": 30}, "heads=4 does not divide width=30"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"missing": 1.5}, "missing=1.5 is a share"),
    ],
)
def test_an_impossible_configuration_names_the_value_and_the_remedy(given, told):
    with pytest.raises(ValueError, match=told):
        AlignConfig(**given)


def command(out: Path, *more: str) -> tuple[int, dict]:
    small = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    code = main(["align", *small, *more, "--out", str(out)], Console(quiet=True))
    path = out / "metrics.json"
    return code, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def test_the_command_writes_weights_metrics_and_a_picture(tmp_path):
    code, metrics = command(tmp_path, "--strategy=shared", "--fusion=gated", "--loss=sigmoid", "--image=patch")
    assert code == 0
    assert metrics["config"]["fusion"] == "gated"
    assert 0 <= metrics["found"]["captions/text_to_image@1"] <= metrics["found"]["captions/text_to_image@5"] <= 1
    assert {"probe/cells", "probe/concepts"} <= set(metrics["found"])
    assert (tmp_path / "retrieval.png").stat().st_size > 1000
    assert load_representation(tmp_path).config.image == "patch"


def test_the_command_trains_sound_too(tmp_path):
    code, metrics = command(tmp_path, "--audio=logmel", "--image=none")
    assert code == 0
    assert {"speech/audio_to_text@1", "speech/text_to_audio@5"} <= set(metrics["found"])


def test_the_command_refuses_a_path_without_a_model(tmp_path, capsys):
    code, _ = command(tmp_path / "out", f"--text={tmp_path / 'nothing'}")
    assert code == 1
    assert "nor a folder with a transformers config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("gpu", "device='gpu' is unknown to torch"),
        pytest.param(
            "cuda", "sees no such card", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
        ),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(device, told, tmp_path, capsys):
    assert command(tmp_path / "out", f"--device={device}")[0] == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card that torch sees")
@pytest.mark.parametrize(("fusion", "loss"), [("concat", "infonce"), ("gated", "sigmoid"), ("cross", "reconstruction")])
def test_a_card_trains_the_same_through_the_command(fusion, loss, tmp_path):
    given = (f"--fusion={fusion}", f"--loss={loss}", "--audio=logmel", "--missing=0.3", "--reconstruction-weight=0.3")
    here = command(tmp_path / "cpu", *given)[1]
    there = command(tmp_path / "cuda", *given, "--device=cuda")[1]
    assert there["device"] == "cuda"
    for a, b in zip(here["curve"], there["curve"], strict=True):
        assert b == pytest.approx(a, rel=0.02)
    assert load_representation(tmp_path / "cuda").device.type == "cpu"


@pytest.mark.slow
def test_a_transformers_resnet_trains_through_the_command(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    transformers.ResNetModel(config).save_pretrained(tmp_path / "resnet")
    code, _ = command(tmp_path / "out", f"--image={tmp_path / 'resnet'}")
    assert code == 0
    began = transformers.ResNetModel.from_pretrained(tmp_path / "resnet").state_dict()
    ended = load_representation(tmp_path / "out").towers["image"].model.state_dict()
    kernels = [k for k, v in began.items() if v.dim() == 4]
    assert kernels
    assert all(not torch.equal(began[k], ended[k]) for k in kernels)


@pytest.mark.models
def test_bert_with_its_real_weights_trains_through_the_command_and_comes_back_without_them(tmp_path):
    bert = minilm()
    code, metrics = command(tmp_path, f"--text={bert}")
    assert code == 0
    assert np.isfinite(list(metrics["found"].values())).all()
    loaded = load_representation(tmp_path)
    # Its words, its tokenizer and its changed weights stand in the folder: the path is not asked again.
    assert loaded.config.text == str(tmp_path / "text")
    assert loaded.encode("text", ["a dog ."]).states.shape[2] == TINY["width"]


@pytest.mark.slow
def test_a_few_steps_teach_more_than_none():
    config = AlignConfig(width=64, dim=32, layers=1, steps=40, batch=32, warm_up=1.0, lr=4e-3)
    model = Representation(config)
    steps = list(pretrain(model))
    first, last = (np.mean([s.losses["image-phrase"] for s in part]) for part in (steps[:5], steps[-5:]))
    assert last < first - 0.15


@pytest.mark.slow
def test_text_finds_its_image_among_200_held_out_scenes_and_a_random_encoder_does_not():
    config = AlignConfig()
    untrained = Representation(config).eval()
    assert retrieval(untrained)["captions/text_to_image@1"] < 0.1
    aligned = Representation(config)
    list(pretrain(aligned))
    assert retrieval(aligned)["captions/text_to_image@1"] >= 0.8
    assert linear_probe(aligned)["cells"] > linear_probe(untrained)["cells"] + 0.1
