"""TRL's GRPO on a text-only Llama of the same shape: it has no PPO for images. Runs in an environment of its own."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from shape import read_shape, report
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

SHAPE = read_shape()
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}


def tokenizer() -> PreTrainedTokenizerFast:
    """As many words as the shape asks for."""
    words = [*SPECIAL.values(), *(f"w{i}" for i in range(SHAPE.vocab - len(SPECIAL)))]
    by_word = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    by_word.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=by_word, padding_side="left", **SPECIAL)


def llama(folder: str) -> LlamaForCausalLM:
    """A random Llama, loaded from disk: the trainer asks for the path of its model."""
    config = LlamaConfig(
        vocab_size=SHAPE.vocab, hidden_size=SHAPE.width, intermediate_size=4 * SHAPE.width,
        num_hidden_layers=SHAPE.layers, num_attention_heads=SHAPE.heads, num_key_value_heads=SHAPE.heads,
        max_position_embeddings=256, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)


def points(completions: list[str], **_: Any) -> list[float]:
    """One word is worth a point."""
    return [float(c.count("w3")) for c in completions]


class Stopwatch(TrainerCallback):
    """Starts after the first batch, so that warming up is not timed."""

    begun = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == SHAPE.epochs:
            self.begun = time.perf_counter()


def main() -> None:
    torch.set_num_threads(SHAPE.threads)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=llama(folder),
            reward_funcs=points,
            args=GRPOConfig(
                output_dir=folder, per_device_train_batch_size=SHAPE.batch, num_generations=8, beta=0.05,
                max_completion_length=SHAPE.response, steps_per_generation=1, num_iterations=SHAPE.epochs,
                max_steps=(SHAPE.updates + 1) * SHAPE.epochs, report_to=[], use_cpu=True, bf16=False,
                save_strategy="no", disable_tqdm=True, logging_steps=SHAPE.epochs, gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": [" ".join(["w1"] * SHAPE.prefix)] * 4096}),
            processing_class=tokenizer(),
            callbacks=[watch],
        )  # fmt: skip
        trainer.train()
        seconds = time.perf_counter() - watch.begun
    # Responses that end early hold fewer tokens; the first batch is not counted.
    lengths = [log["completions/mean_length"] for log in trainer.state.log_history if "completions/mean_length" in log]
    report(int(SHAPE.batch * sum(lengths[1 : SHAPE.updates + 1])), seconds)


if __name__ == "__main__":
    main()
