"""Models like CLIP and judges by prompt as rewards: tiny ones built from a configuration, saved, loaded by folder."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch

from mmenv.data.sample import Response, Sample
from mmenv.models.checkpoints import WeightsError

if os.environ.get("MMENV_REQUIRE_ALL") != "1":
    pytest.importorskip(
        "transformers", reason='transformers models as rewards: pip install -c constraints.txt -e ".[hf]"'
    )
import transformers
from test_classifier import SAMPLES, WORDS, llava, pictures, word_tokenizer  # noqa: F401

from mmenv.rewards.judges.prompted import PromptJudge, load_judge
from mmenv.rewards.judges.similarity import SimilarityReward
from mmenv.rewards.loading import load_reward

RESPONSES = [Response("a dog"), Response("a"), Response("cat dog cat")]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
ASK = "{prompt} {response}"


def clip(folder, kind):
    """A tiny CLIP or SigLIP in a folder."""
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 8, "eos_token_id": 3, "pad_token_id": 0}
    sized = {"size": {"height": 32, "width": 32}}
    images = getattr(transformers, f"{kind}ImageProcessor")(do_center_crop=False, **sized)
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8}
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    model.save_pretrained(folder)
    getattr(transformers, f"{kind}Processor")(images, word_tokenizer()).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_a_model_like_clip_scores_the_cosine_of_picture_and_response(kind, tmp_path):
    clip(tmp_path, kind)
    reward = load_reward(tmp_path)
    assert isinstance(reward, SimilarityReward)
    scores = reward(SAMPLES, RESPONSES)
    assert scores.dtype == np.float32
    assert (np.abs(scores) <= 1).all()
    assert scores.std() > 1e-4
    alone = [reward([s], [r])[0] for s, r in zip(SAMPLES, RESPONSES, strict=True)]
    np.testing.assert_allclose(scores, alone, atol=1e-5)
    shared = reward([SAMPLES[0], SAMPLES[1], SAMPLES[0]], RESPONSES)
    np.testing.assert_allclose(shared[2], reward(SAMPLES[:1], RESPONSES[2:])[0], atol=1e-5)
    other = [Sample(s.id, s.index, s.prompt, x) for s, x in zip(SAMPLES, pictures(3, seed=9), strict=True)]
    assert not np.allclose(reward(other, RESPONSES), scores, atol=1e-5)
    assert np.isfinite(reward(SAMPLES[:1], [Response("dog " * 50)])).all()  # longer than it reads
    with pytest.raises(ValueError, match="'s' has no image"):
        reward([Sample("s", 0, "what ?")], RESPONSES[:1])


def test_the_cosine_is_that_of_the_model_s_own_embeddings(tmp_path):
    model = clip(tmp_path, "CLIP")
    reward = load_reward(tmp_path)
    inputs = reward.reader(text=["a dog"], images=[SAMPLES[0].image], padding="max_length", max_length=8,
                           return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.item()
    expected = logits / model.logit_scale.exp().item()
    assert reward(SAMPLES[:1], RESPONSES[:1])[0] == pytest.approx(expected, abs=1e-5)


def test_a_caption_that_spells_the_end_is_read_to_its_end(tmp_path):
    clip(tmp_path, "CLIP")
    reward = load_reward(tmp_path)
    reward.reader.tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    odd, unknown = (SimilarityReward(reward.model, reward.reader)(SAMPLES[:1], [Response(f"a {w} dog")])[0]
                    for w in ("[SEP]", "nonsense"))  # fmt: skip
    assert odd == pytest.approx(unknown, abs=1e-6)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A folder with a tiny causal language model."""
    folder = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, vocab_size=len(WORDS), num_key_value_heads=2, initializer_range=0.5)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder, model


def test_a_judge_scores_the_expected_value_of_its_answer(language_model):
    folder, model = language_model
    judge = load_judge(folder, question=ASK, values={"yes": 3.0, "no": -1.0})
    ids = torch.tensor([[WORDS.index(w) for w in "what is it ? a dog".split()]])
    with torch.no_grad():
        yes, no = model(ids).logits[0, -1, [WORDS.index("yes"), WORDS.index("no")]].softmax(0).tolist()
    assert judge(SAMPLES[:1], RESPONSES[:1])[0] == pytest.approx(3 * yes - no, abs=1e-5)
    np.testing.assert_allclose(judge.probabilities(SAMPLES[:1], RESPONSES[:1]), [[yes, no]], atol=1e-5)
    assert 0.02 < yes < 0.98


def test_a_judgement_does_not_depend_on_its_neighbours(tmp_path):
    torch.manual_seed(0)
    # Its positions are absolute: with rotary ones it would not matter where the padding stands.
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=64, initializer_range=0.5
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    judge = load_judge(tmp_path, question=ASK)
    together = judge(SAMPLES, RESPONSES)
    alone = [judge([s], [r])[0] for s, r in zip(SAMPLES, RESPONSES, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together.std() > 1e-3
    assert ((together >= 0) & (together <= 1)).all()


def test_a_vision_language_model_judges_what_it_sees(llava):  # noqa: F811
    judge = load_judge(llava[0], question=ASK)
    assert "image" in judge.chat.media
    scores = judge(SAMPLES, RESPONSES)
    other = [Sample(s.id, s.index, s.prompt, x) for s, x in zip(SAMPLES, pictures(3, seed=9), strict=True)]
    assert not np.allclose(judge(other, RESPONSES), scores, atol=1e-6)
    alone = [judge([s], [r])[0] for s, r in zip(SAMPLES, RESPONSES, strict=True)]
    np.testing.assert_allclose(scores, alone, atol=1e-4)
    with pytest.raises(ValueError, match="'s' has no image"):
        judge([Sample("s", 0, "what ?")], RESPONSES[:1])


def test_a_chat_template_asks_for_the_answer(language_model):
    _, model = language_model
    tokenizer = word_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} is{% endif %}"
    )
    judge = PromptJudge(model, tokenizer, ASK)
    with torch.no_grad():
        ids = torch.tensor([[WORDS.index(w) for w in "what is it ? a dog is".split()]])
        expected = model(ids).logits[0, -1, [WORDS.index("yes"), WORDS.index("no")]].softmax(0)[0].item()
    assert judge(SAMPLES[:1], RESPONSES[:1])[0] == pytest.approx(expected, abs=1e-5)


def test_an_answer_that_is_no_single_token_and_a_folder_without_a_model_are_refused(language_model, tmp_path):
    with pytest.raises(WeightsError, match="'perhaps' is not a single token"):
        load_judge(language_model[0], values={"perhaps": 1.0, "no": 0.0})
    with pytest.raises(WeightsError, match="the same token"):
        load_judge(language_model[0], values={"no": 1.0, " no": 0.0})
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        load_judge(tmp_path)


def test_a_missing_extra_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install -c constraints.txt -e "\.\[hf\]"'):
        load_judge(tmp_path)
