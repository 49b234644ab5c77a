"""The network of this project as a language model of transformers, for trainers that take texts alone.

A prompt is one word, ``image17``: the model looks up the encoded picture and question of context 17 in ``ENCODED``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from mmenv.models.transformer import Network, NetworkConfig, Prefix
from mmenv.tokenizer import Tokenizer

ENCODED: dict[str, Prefix] = {}  # "contexts": the encoded pictures and questions that words stand for


def context_word(index: int) -> str:
    """The word that stands for a context."""
    return f"image{index}"


class PolicyConfig(PretrainedConfig):
    """Configuration of the network: the fields of its dataclass."""

    model_type = "mmenv-policy"
    auto_map: ClassVar[dict[str, str]] = {}  # TRL reads this attribute; there is no remote code

    def __init__(self, network: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**{"tie_word_embeddings": False, "use_cache": False, **kwargs})
        self.network = network or {}


class Body(torch.nn.Module):
    """Hidden states after the word that stands for the context, and after each following token."""

    def __init__(self, network: dict[str, Any]) -> None:
        super().__init__()
        self.network = Network(NetworkConfig(**network))
        for parameter in self.network.encoder_parameters():
            parameter.requires_grad_(False)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> BaseModelOutput:
        words, tokens = input_ids[:, 0] - self.network.config.vocab_size, input_ids[:, 1:]
        contexts, rows = words.unique(return_inverse=True)
        padded = torch.nn.functional.pad(tokens, (0, 1))  # (B, T + 1): one more state, which predicts the next token
        return BaseModelOutput(self.network(ENCODED["contexts"].select(contexts), padded, rows))


class Policy(PreTrainedModel, GenerationMixin):
    """The network as a transformers language model."""

    config_class = PolicyConfig
    base_model_prefix = "body"

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.body = Body(config.network)
        bias = torch.zeros(self.body.network.config.vocab_size)
        bias[self.body.network.config.pad_id] = -1e9  # padding is masked
        self.bias = torch.nn.Parameter(bias, requires_grad=False)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing to do: weights are loaded, not initialised."""

    def get_output_embeddings(self) -> Any:
        return SimpleNamespace(weight=self.body.network.embed.weight, bias=self.bias)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.body.network.logits(self.body(input_ids).last_hidden_state) + self.bias)


def word_tokenizer(tokenizer: Tokenizer, contexts: int) -> PreTrainedTokenizerFast:
    """The environment's words, and behind them a word for each of so many contexts."""
    words = {tokenizer.decode([i]) or f"<{i}>": i for i in range(tokenizer.vocab_size)}
    words |= {context_word(k): len(words) + k for k in range(contexts)}
    level = FastTokenizer(WordLevel(words, unk_token=context_word(0)))
    level.pre_tokenizer = WhitespaceSplit()
    names = {i: word for word, i in words.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=level, pad_token=names[tokenizer.pad_id], eos_token=names[tokenizer.end_id]
    )


def save_start(network: Network, folder: str) -> None:
    """Write a network as a model of transformers: TRL reads policy and reference from a folder."""
    AutoConfig.register("mmenv-policy", PolicyConfig, exist_ok=True)
    AutoModelForCausalLM.register(PolicyConfig, Policy, exist_ok=True)
    model = Policy(PolicyConfig(network=vars(network.config)))
    model.body.network.load_state_dict(network.state_dict())
    model.save_pretrained(folder)
