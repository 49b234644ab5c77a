"""TRL reads the dataset, and pays completions what the environment pays the same words."""

import importlib
import os

import gymnasium as gym
import numpy as np
import pytest

import mmenv

if os.environ.get("MMENV_REQUIRE_ALL") != "1":
    pytest.importorskip("trl")
ours = importlib.import_module("mmenv.integrations.trl")
data_utils = importlib.import_module("trl.data_utils")

TEXTS = ["yes", "two", "no no no no no no no no no no no no no no no no no no", "", "a nonsenseword"]


def message(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("reward", ["gold", "preference"])
def test_a_completion_pays_what_the_environment_pays_its_words(reward):
    paid = ours.reward_function("mmenv/VQA-v0", reward, split="validation")
    env = gym.make("mmenv/VQA-v0", split="validation", reward=reward).unwrapped
    expected = []
    for text in TEXTS:
        env.reset(options={"sample_index": 4})
        for token in (*env.tokenizer.encode(text), 1):
            _, pay, over, *_ = env.step(token)
            if over:
                break
        expected.append(pay)
    assert paid(completions=TEXTS, index=[4] * len(TEXTS), prompts=None) == pytest.approx(expected, abs=1e-4)
    assert paid([message(t) for t in TEXTS], [4] * len(TEXTS)) == pytest.approx(expected, abs=1e-4)
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": t}]}] for t in TEXTS]
    assert paid(parts, [4] * len(TEXTS)) == pytest.approx(expected, abs=1e-4)


def test_dataset_and_reward_are_of_one_split_where_none_is_given():
    shifted = ours.dataset("mmenv/VQAShifted-v0", n=1)
    sample = gym.make("mmenv/VQAShifted-v0", reward="gold").unwrapped.task.sample("test", 0)
    np.testing.assert_array_equal(np.asarray(shifted[0]["images"][0]), sample.image)
    assert ours.reward_function("mmenv/VQAShifted-v0", "gold")([sample.references[0]], [0]) == [1.0]
    with pytest.raises(mmenv.ArgumentError, match="n=9999999 is too many: test has"):
        ours.dataset("mmenv/VQAShifted-v0", n=9999999)


def test_the_reward_is_the_ids_own_where_none_is_given():
    assert ours.reward_function("toy/Colours-v0")(["red", "green"], [0, 0]) == [1.0, 0.0]


def test_nothing_that_trl_is_given_holds_the_answer():
    assert set(ours.dataset("mmenv/VQA-v0", n=1).column_names) == {"prompt", "index", "images"}


def test_what_did_not_end_is_charged():
    plain, charged = (ours.reward_function("mmenv/VQA-v0", "gold", missing_eos_penalty=p) for p in (0.0, 2.0))
    index = [0] * len(TEXTS)
    difference = np.array(plain(TEXTS, index)) - charged(TEXTS, index)
    assert difference.tolist() == [0, 0, 2, 0, 0]


def test_the_dataset_is_a_conversation_with_pictures_as_trl_reads_them():
    data = ours.dataset("mmenv/VQA-v0", "validation", 6, seed=1)
    task = gym.make("mmenv/VQA-v0", reward="gold").unwrapped.task
    assert data.column_names == ["prompt", "index", "images"]
    assert len(set(data["index"])) == 6
    for row in data:
        sample = task.sample("validation", row["index"])
        assert data_utils.is_conversational(row)
        assert row["prompt"] == [{"role": "user", "content": sample.prompt}]
        np.testing.assert_array_equal(np.asarray(row["images"][0]), sample.image)
        (said,) = data_utils.prepare_multimodal_messages(row["prompt"], images=row["images"])
        assert [part["type"] for part in said["content"]] == ["image", "text"]
        assert said["content"][0]["image"] is row["images"][0]


def test_what_trl_cannot_hear_and_more_than_there_is_are_refused():
    with pytest.raises(ValueError, match="turns"):
        ours.dataset("mmenv/SpokenDialogue-v0")
    with pytest.raises(ValueError, match="take at most"):
        ours.dataset("mmenv/VQA-v0", "test", 10**9)


def test_grpo_trains_a_language_model_on_it(tmp_path):
    """A model of text cannot see the pictures; what it says is paid all the same, by each sample's own truth."""
    tokenizers, transformers, trl = (importlib.import_module(n) for n in ("tokenizers", "transformers", "trl"))
    words = gym.make("mmenv/VQA-v0", reward="gold").unwrapped.tokenizer.words
    level = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    level.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=level, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=len(words), pad_token_id=0, eos_token_id=1, bos_token_id=1, **shape)
    )
    calls = []
    paid = ours.reward_function("mmenv/VQA-v0", "gold", missing_eos_penalty=1.0)

    def reward(completions, index, **columns):
        calls.append((completions, index))
        return paid(completions=completions, index=index, **columns)

    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=reward, processing_class=tokenizer,
        train_dataset=ours.dataset("mmenv/VQA-v0", n=8).remove_columns("images"),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=8, num_generations=4, use_cpu=True,
            bf16=False, max_completion_length=6, report_to=[], save_strategy="no", disable_tqdm=True,
        ),
    )  # fmt: skip
    trainer.train()
    assert len(calls) == 2
    completions, index = calls[0]
    assert completions[0][0]["role"] == "assistant"
    assert len(set(index)) == 2
    assert trainer.state.global_step == 2
