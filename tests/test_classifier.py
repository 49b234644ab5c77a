"""Transformers models as rewards: tiny ones built from a configuration, saved, loaded by their folder."""

from __future__ import annotations

import os
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

import mmenv  # noqa: F401
from mmenv.data.sample import Response, Sample
from mmenv.models.checkpoints import WeightsError
from mmenv.rewards.judges.classifier import HEAD_FILE, ClassifierReward, VisionLanguageReward, save_head, written
from mmenv.rewards.loading import load_reward

if os.environ.get("MMENV_REQUIRE_ALL") != "1":
    pytest.importorskip(
        "transformers", reason='transformers models as rewards: pip install -c constraints.txt -e ".[hf]"'
    )
import transformers

WORDS = "[PAD] [UNK] [CLS] [SEP] <image> what is it ? a dog cat yes no".split()
RESPONSES = [Response("a dog"), Response("a"), Response("cat dog cat")]


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 48, 48, 3)).astype(np.uint8)


SAMPLES = [Sample(f"s/{i}", i, ("what is it ?", "is it a dog ?")[i % 2], x) for i, x in enumerate(pictures(3))]


def word_tokenizer(kinds=False):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        "$A", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if kinds else [])],
    )  # fmt: skip


def bert(folder, labels=1, kind="BertForSequenceClassification"):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=labels, max_position_embeddings=32,
    )  # fmt: skip
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    word_tokenizer(kinds=True).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A folder with a tiny Llava, and the model that was saved there."""
    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**small, image_size=32, patch_size=8)
    text = transformers.LlamaConfig(**small, vocab_size=len(WORDS), num_key_value_heads=2, pad_token_id=0)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.LlavaProcessor(
        images, word_tokenizer(), patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    head = torch.nn.Linear(16, 1)
    save_head(head, folder)
    return folder, model, processor, head


def test_a_classifier_scores_prompt_and_response_as_a_pair(tmp_path):
    model, reward = bert(tmp_path), load_reward(tmp_path)
    assert isinstance(reward, ClassifierReward)
    ids = torch.tensor([[2, 5, 6, 7, 8, 3, 9, 10, 3]])  # [CLS] what is it ? [SEP] a dog [SEP]
    kinds = torch.tensor([[0] * 6 + [1] * 3])
    expected = model(ids, token_type_ids=kinds).logits[0, 0].item()
    scores = reward(SAMPLES, RESPONSES)
    assert scores.dtype == np.float32
    assert scores[0] == pytest.approx(expected, abs=1e-5)
    alone = [reward([s], [r])[0] for s, r in zip(SAMPLES, RESPONSES, strict=True)]
    np.testing.assert_allclose(scores, alone, atol=1e-5)


def test_a_long_response_is_cut_to_what_the_model_reads(tmp_path):
    bert(tmp_path)
    assert np.isfinite(load_reward(tmp_path)(SAMPLES[:1], [Response("dog " * 100)])).all()


def test_an_environment_pays_by_a_classifier(tmp_path):
    bert(tmp_path)
    venv = gym.make_vec("mmenv/VQA-v0", num_envs=2, reward=str(tmp_path))
    venv.reset(seed=0)
    _, rewards, terminated, _, _ = venv.step(np.array([1, 1]))
    assert terminated.all()
    samples = [venv.unwrapped.task.sample("train", i) for i in (0, 1)]
    assert np.isfinite(rewards).all()
    assert venv.unwrapped.reward_function(samples, [Response("yes"), Response("no")]).shape == (2,)


def test_a_decoder_scores_its_last_word_whatever_the_padding(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_labels=1,
    )  # fmt: skip
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    reward = load_reward(tmp_path)
    alone = [reward([s], [r])[0] for s, r in zip(SAMPLES, RESPONSES, strict=True)]
    np.testing.assert_allclose(reward(SAMPLES, RESPONSES), alone, atol=1e-5)


def test_a_model_that_cannot_be_a_reward_says_why(tmp_path):
    bert(tmp_path / "many", labels=3)
    with pytest.raises(WeightsError, match=r"3 labels.*num_labels=1"):
        load_reward(tmp_path / "many")
    bert(tmp_path / "headless", kind="BertModel")
    with pytest.raises(WeightsError, match=r"lacks .*classifier"):
        load_reward(tmp_path / "headless")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_reward(tmp_path / "empty")
    with pytest.raises(ValueError, match="model's folder"):
        gym.make("mmenv/VQA-v0", reward=str(tmp_path / "nowhere"))


def test_a_missing_extra_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install -c constraints.txt -e "\.\[hf\]"'):
        load_reward(tmp_path)


def test_a_vision_language_model_scores_the_state_of_its_last_token(llava):
    folder, model, processor, head = llava
    reward = load_reward(folder)
    assert isinstance(reward, VisionLanguageReward)
    inputs = written(processor, SAMPLES[:1], RESPONSES[:1])
    with torch.no_grad():
        expected = head(model.model(**inputs).last_hidden_state[:, -1]).item()
    scores = reward(SAMPLES, RESPONSES)
    assert scores[0] == pytest.approx(expected, abs=1e-5)
    alone = [reward([s], [r])[0] for s, r in zip(SAMPLES, RESPONSES, strict=True)]
    np.testing.assert_allclose(scores, alone, atol=1e-4)


def test_a_vision_language_model_sees_the_picture_and_reads_the_words(llava):
    reward = load_reward(llava[0])
    other = [Sample(s.id, s.index, s.prompt, x) for s, x in zip(SAMPLES, pictures(3, seed=9), strict=True)]
    assert not np.allclose(reward(SAMPLES, RESPONSES), reward(other, RESPONSES), atol=1e-4)
    assert not np.allclose(reward(SAMPLES[:1], [Response("yes")]), reward(SAMPLES[:1], [Response("no")]), atol=1e-4)
    with pytest.raises(ValueError, match="'s' has no image"):
        reward([Sample("s", 0, "what is it ?")], [Response("a")])


def test_a_chat_template_is_used_where_there_is_one(llava):
    processor = llava[2]
    processor.chat_template = (
        "{% for m in messages %}{{ m.role }} : {% for c in m.content %}"
        "{{ '<image>' if c.type == 'image' else c.text }} {% endfor %}{% endfor %}"
    )
    try:
        ids = written(processor, SAMPLES[:1], RESPONSES[:1])["input_ids"][0].tolist()
    finally:
        processor.chat_template = None
    assert [i for i in ids if i not in (1, 4)] == [5, 6, 7, 8, 9, 10]  # "user :" and "assistant :" are unknown words
    assert ids.count(1) == 4


def test_a_head_that_does_not_fit_and_a_missing_one_are_refused(llava, tmp_path):
    _, model, processor, _ = llava
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=rf"llava, which has no sequence classifier.*{HEAD_FILE}"):
        load_reward(tmp_path)
    save_head(torch.nn.Linear(7, 1), tmp_path)
    with pytest.raises(WeightsError, match=r"shape \(1, 16\)"):
        load_reward(tmp_path)


ENDED = "{% for m in messages %}{{ m['content'] }} [SEP] {% endfor %}"


def decoder(padding, **more):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32, num_labels=1, pad_token_id=padding,
        initializer_range=0.5, **more,
    )  # fmt: skip
    return transformers.GPT2ForSequenceClassification(config).eval()


def official(model, reader, prompt, response):
    """The model's own score of one conversation or pair, which needs no padding."""
    if reader.chat_template:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        inputs = reader.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")
    else:
        inputs = reader(prompt, response, return_tensors="pt")
    return model(**inputs).logits[0, 0].item()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("template", [ENDED, None])
@pytest.mark.parametrize(("own", "pad"), [(None, "[SEP]"), (0, "[SEP]"), (0, None), (None, None), (3, "[SEP]")])
def test_a_classifier_scores_a_batch_as_one_by_one_whatever_pads(own, pad, template, side):
    reader, model = word_tokenizer(), decoder(own)
    reader.chat_template, reader.padding_side, reader.pad_token = template, side, pad
    expected = [official(model, reader, s.prompt, r.text) for s, r in zip(SAMPLES, RESPONSES, strict=True)]
    np.testing.assert_allclose(ClassifierReward(model, reader)(SAMPLES, RESPONSES), expected, atol=1e-5)
    assert model.config.pad_token_id == own
