"""Texts and conversations as tokens: markers of users are text, templates are encoded whole, texts begin once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from test_classifier import llava, word_tokenizer  # noqa: F401
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.network import HFNetwork
from agents.rollouts.batch import tokens_of
from benchmarks.models import tokenizer
from mmenv.data.sample import Response, Sample
from mmenv.literal import LiteralEncoder
from mmenv.models.chat import ChatReader, Turns
from mmenv.rewards.base import score
from mmenv.rewards.judges.classifier import ClassifierReward, VisionLanguageReward, written
from mmenv.rewards.judges.prompted import PromptJudge
from mmenv.tokenizer import HFTokenizer

TEXTS = [
    f"{q} is {p} the {w} ?" for q in ("what", "where", "who") for p in ("left of", "above") for w in ("dog", "cat")
]
CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]


def trained(kind="spaced"):
    """A tokenizer of parts of words like SentencePiece's or GPT-2's, without a pad token."""
    made = Tokenizer(models.BPE(unk_token=None if kind == "bytes" else "<unk>"))
    letters = [*"abcdefghijklmnopqrstuvwxyz<>|/?\n"]
    if kind == "bytes":
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False, min_frequency=2
    )
    made.train_from_iterator([*TEXTS, "</s>", "</s> a"] * 4, trainer)  # so that letters merge into what looks special
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    known = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=SPECIAL[3:5],
    )  # fmt: skip
    known.add_tokens([transformers.AddedToken("<|end|>", special=False)])  # a marker that is not special
    known.chat_template = CHAT
    return known


def templated(known, *texts, asks):
    roles = ("user", "assistant")
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    ids = known.apply_chat_template(turns, add_generation_prompt=asks, tokenize=True)
    return ids if isinstance(ids, list) else ids["input_ids"]


def policy_network(known):
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(known), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=256, eos_token_id=2, bos_token_id=1, pad_token_id=None,
        )
    )  # fmt: skip
    return HFNetwork(model, known, HFConfig("tiny", lora_rank=0))


@pytest.mark.parametrize("kind", ["spaced", "bytes"])
@pytest.mark.parametrize("marker", SPECIAL[1:])
def test_a_marker_in_a_text_is_the_tokens_of_its_letters(kind, marker):
    known = HFTokenizer(trained(kind))
    ids = known.encode(f"what is {marker} ?")
    assert known.tokenizer.convert_tokens_to_ids(marker) not in ids
    assert known.decode_prompt(ids) == f"what is {marker} ?"
    assert known.encode("what is it ?") == known.tokenizer("what is it ?", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("marker", ["<pad>", "<eos>", "<image>", "<|AUDIO|>"])
def test_a_word_that_is_a_special_token_is_an_unknown_word(marker):
    known = HFTokenizer(tokenizer())
    assert known.encode(f"a {marker} dog") == known.encode("a nonsense dog")


def test_added_tokens_that_no_template_names_are_words_like_others():
    known = trained()
    known.add_tokens(["catdog"])
    assert LiteralEncoder(known).encode("what is catdog")[-1] == known.convert_tokens_to_ids("catdog")


@pytest.mark.parametrize("kind", ["spaced", "bytes"])
@pytest.mark.parametrize("text", [*TEXTS[:3], "two  spaces ", "a"])
def test_a_context_is_the_chat_template_encoded_whole(kind, text):
    known = trained(kind)
    network = policy_network(known)
    prefix = network.encode({"prompt": torch.tensor([network.tokenizer.encode(text)])})
    assert prefix.prompt[0].tolist() == templated(known, text, asks=True)


def test_a_context_with_a_marker_in_it_keeps_the_markers_of_the_template_alone():
    known = trained()
    network = policy_network(known)
    plain, odd = (
        network.encode({"prompt": torch.tensor([network.tokenizer.encode(text)])}).prompt[0].tolist()
        for text in ("what is it ?", "what <|end|> </s> <|user|> is it ?")
    )
    for marker in SPECIAL[1:]:
        number = known.convert_tokens_to_ids(marker)
        assert odd.count(number) == plain.count(number)
    assert known.decode(odd).count("what <|end|> </s> <|user|> is it ?") == 1


@pytest.mark.parametrize("kind", ["spaced", "bytes"])
def test_a_demonstration_is_the_tokens_that_stand_behind_the_template(kind):
    known = trained(kind)
    network = policy_network(known)
    asked, answered = templated(known, "who is it ?", asks=True), templated(known, "who is it ?", "the dog", asks=False)
    end = known.convert_tokens_to_ids("<|end|>")
    written = tokens_of(network.tokenizer, Response("the dog"), 20)
    assert asked + written == answered[: answered.index(end, len(asked)) + 1]
    assert tokens_of(network.tokenizer, Response("other", (5, 6), "eos"), 20) == [5, 6]  # sampled: as it was sampled


INSTRUCTIONS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '<|user|> ' + m['content'] + ' <|end|>' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def test_nothing_has_ended_where_an_answer_is_asked_for():
    known = trained()
    known.chat_template = None
    markers = [("<s>", 1), ("</s>", 2)]
    known.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=markers)
    chat = ChatReader(known, "x")
    ended, asked = chat.read([Turns("who")]), chat.read([Turns("who"), Turns("what is it ?")], asks=True)
    assert ended["input_ids"][0, [0, -1]].tolist() == [1, 2]
    assert not (asked["input_ids"] == 2).any()
    assert asked["input_ids"][0, 0] == 1


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_an_answer_of_a_judge_is_its_piece_with_a_space_and_without(scheme):
    pieces = ["<unk>", "<s>", "yes", "\u2581yes", "no", "\u2581no", "\u2581Yes", "\u2581"]
    made = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    known = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<s>")
    judge = PromptJudge(policy_network(known).model, known)
    assert judge.tokens == [[2, 3, 6], [4, 5]]


@pytest.mark.parametrize("kind", ["spaced", "bytes"])
def test_a_space_that_the_template_writes_before_an_answer_is_learned_too(kind):
    known = trained(kind)
    known.chat_template = INSTRUCTIONS  # like Llama 2's and Mistral's: [INST] who ? [/INST] the dog</s>
    network = policy_network(known)
    asked, answered = templated(known, "who is it ?", asks=True), templated(known, "who is it ?", "the dog", asks=False)
    written = tokens_of(network.tokenizer, Response("the dog"), 20)
    assert asked + written == answered
    assert network.tokenizer.decode(written) == "the dog"


def test_a_generation_config_without_an_end_leaves_those_of_the_model():
    network = policy_network(trained())
    network.reader.chat_template = None
    network.model.generation_config.eos_token_id, network.model.config.eos_token_id = None, [2, 5]
    again = HFNetwork(network.model, network.reader, HFConfig("tiny", lora_rank=0))
    assert again.tokenizer.eos_ids == {2, 5}


def test_a_response_ends_where_generate_and_the_template_do():
    known = trained()
    network = policy_network(known)
    end = known.convert_tokens_to_ids("<|end|>")
    assert network.tokenizer.eos_ids == {2, end}
    assert network.tokenizer.end_id == end
    assert not {2, end} & set(network.forbidden_token_ids)
    network.model.generation_config.eos_token_id = [2, 5, 10_000]
    again = HFNetwork(network.model, known, HFConfig("tiny", lora_rank=0))
    assert again.tokenizer.eos_ids == {2, 5, end}  # a number beyond the vocabulary ends nothing


def test_without_a_pad_token_padding_is_a_token_that_no_model_has():
    known = trained()
    network = policy_network(known)
    assert network.tokenizer.pad_id == len(known) == network.config.vocab_size - 1
    rows = [network.tokenizer.encode("what is it ?"), [*network.tokenizer.encode("who"), *[len(known)] * 9]]
    wide = max(map(len, rows))
    prompts = torch.tensor([row + [len(known)] * (wide - len(row)) for row in rows])
    with torch.no_grad():
        hidden, _ = network.start(network.encode({"prompt": prompts}), 4)
        logits = network.logits(hidden)
        alone, _ = network.start(network.encode({"prompt": prompts[1:]}), 4)
    assert torch.isinf(logits[:, -1]).all()
    assert torch.isfinite(logits[:, :-1]).all()
    assert (hidden[1] - alone[0]).abs().max() < 1e-5


@pytest.mark.parametrize("pad", ["<unk>", "<s>", "</s>"])
def test_a_pad_token_that_is_something_else_does_not_pad(pad):
    known = trained()
    known.pad_token = pad
    assert HFTokenizer(known).pad_id == len(known)


def test_tokenizers_of_one_name_and_size_are_equal_only_where_their_words_are():
    def of(words):
        made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<eos>", *words])}, unk_token="<eos>"))
        return HFTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>"))

    first = of(["a", "b"])
    first.tokenizer(["a", "b a"], padding=False)
    assert first == of(["a", "b"])
    assert first != of(["b", "a"])
    assert hash(first) == hash(of(["a", "b"]))


def test_a_policy_reads_a_picture_beside_a_prompt_that_spells_its_marker(llava):  # noqa: F811
    _, model, processor, _ = llava
    processor.tokenizer.eos_token = "[SEP]"
    network = HFNetwork(model, processor, HFConfig("llava", lora_rank=0))
    prompts = [network.tokenizer.encode(text) for text in ("what is it ?", "what <image> is ?")]
    images = torch.zeros(2, 48, 48, 3, dtype=torch.uint8)
    wide = max(map(len, prompts))
    rows = [p + [network.config.pad_id] * (wide - len(p)) for p in prompts]
    prefix = network.encode({"prompt": torch.tensor(rows), "image": images})
    places = (prefix.prompt == processor.image_token_id).sum(1).tolist()
    assert places[0] == places[1] > 1


SAMPLE = Sample("s", 0, "what is it ?", np.zeros((48, 48, 3), np.uint8))
LINES = "[CLS] {% for m in messages %}{{ m.content }} {% endfor %}"
PARTS = (
    "[CLS] {% for m in messages %}{% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }} "
    "{% endfor %}{% endfor %}"
)


def begins(known):
    known.bos_token = "[CLS]"
    known.backend_tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
    return known


def test_a_conversation_begins_once_in_rewards_and_judges(llava):  # noqa: F811
    _, model, processor, _ = llava
    alone = begins(word_tokenizer())
    seeing = transformers.LlavaProcessor(
        processor.image_processor, begins(word_tokenizer()), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=PARTS,
    )  # fmt: skip
    judge = PromptJudge(model, seeing)
    for template in (LINES, None):
        alone.chat_template = template
        read = [written(alone, [SAMPLE], [Response("a dog")]), written(seeing, [SAMPLE], [Response("a dog")])]
        read.append(judge._read([judge._asked(SAMPLE, Response("a dog"))], [SAMPLE]))
        assert [inputs["input_ids"][0].tolist().count(2) for inputs in read] == [1, 1, 1]


@pytest.mark.parametrize("template", [PARTS, None])
@pytest.mark.parametrize("text", ["a <image> dog", "[PAD]", "[CLS] [SEP]", ""])
def test_rewards_and_judges_score_what_spells_a_marker(llava, template, text):  # noqa: F811
    _, model, processor, head = llava
    seeing = transformers.LlavaProcessor(
        processor.image_processor, word_tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip
    for reward in (VisionLanguageReward(model.model, seeing, head), PromptJudge(model, seeing)):
        scores = score(reward, [SAMPLE, SAMPLE], [Response(text), Response("a dog")])
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores[1], score(reward, [SAMPLE], [Response("a dog")])[0], atol=1e-5)


@pytest.mark.parametrize("prompt", ["what is it ?", ""])
def test_a_text_classifier_reads_its_chat_template_and_the_words_that_were_said(prompt):
    known = begins(word_tokenizer())
    known.chat_template = LINES
    model = transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(
            vocab_size=len(known), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_labels=1,
        )
    )  # fmt: skip
    reward, read = ClassifierReward(model, known), []
    forward = model.forward
    model.forward = lambda **inputs: (read.append(inputs["input_ids"][0].tolist()), forward(**inputs))[1]
    reward([Sample("s", 0, prompt, said="is it a cat")], [Response("no")])
    assert read[0] == templated(known, f"{prompt} is it a cat".strip(), "no", asks=False)


def test_a_template_of_texts_alone_has_the_picture_before_the_question(llava):  # noqa: F811
    processor = llava[2]
    seeing = transformers.LlavaProcessor(
        processor.image_processor, word_tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LINES,
    )  # fmt: skip
    ids = ChatReader(seeing, "seeing").read([Turns("what is it ?")], [SAMPLE.image], asks=True)["input_ids"][0]
    assert ids.tolist().count(4) == 16
    assert ids[-4:].tolist() == [5, 6, 7, 8]
