"""Every family of language models that builds small from a configuration: its own probabilities, or a refusal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers

from agents.policies.transformers.checks import check_passes
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.network import HFNetwork
from benchmarks.models import tokenizer, words
from mmenv.models.checkpoints import WeightsError

VOCABULARY = len(words())
TINY = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.2,
    "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "n_layers": 2, "n_heads": 2, "d_model": 32,
    "ffn_dim": 32, "word_embed_proj_dim": 32, "num_layers": 2, "moe_intermediate_size": 16, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
WINDOW = {"sliding_window": 4}  # shorter than contexts and responses are
FULL_HEADS = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "apertus": {}, "arcee": {}, "biogpt": {}, "bloom": {}, "codegen": {"rotary_dim": 8},
    "cohere": {"logit_scale": 0.0625}, "cohere2": {"logit_scale": 0.25, **WINDOW}, "deepseek_v3": FULL_HEADS,
    "ernie4_5": {}, "exaone4": WINDOW, "falcon": {"head_dim": None}, "gemma": {},
    "gemma2": {"final_logit_softcapping": 3.0, **WINDOW}, "gemma3_text": WINDOW, "glm": {}, "glm4": {}, "gpt2": {},
    "gpt_bigcode": {}, "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gpt_neox": {}, "gpt_oss": WINDOW, "gptj": {"rotary_dim": 8}, "granite": {"logits_scaling": 8.0}, "granitemoe": {},
    "helium": {}, "llama": {}, "mistral": WINDOW, "mixtral": {}, "mpt": {}, "nemotron": {}, "olmo": {}, "olmo2": {},
    "olmo3": WINDOW, "olmoe": {}, "opt": {}, "persimmon": {}, "phi": {}, "phi3": WINDOW, "phimoe": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, **WINDOW}, "qwen2_moe": {}, "qwen3": {},
    "qwen3_moe": {}, "seed_oss": {}, "smollm3": {}, "stablelm": {}, "starcoder2": WINDOW, "xglm": {},
}  # fmt: skip
REFUSED = {
    "bart": "token by token differ", "blenderbot": "token by token differ",  # positions without a look at padding
    "bert": "token by token",  # no decoder unless its configuration says so
    "falcon_mamba": "stateful", "jamba": "stateful", "mamba": "stateful", "rwkv": "stateful",
    "llama4_text": "chunked_attention", "minimax": "linear_attention", "openai-gpt": "token by token",
    "qwen3_next": "linear_attention",
}  # fmt: skip


def model_of(family, more):
    torch.manual_seed(0)
    given = {k: v for k, v in {**TINY, **more}.items() if not (k == "head_dim" and v is None)}
    config = transformers.CONFIG_MAPPING[family](**given)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def contexts_of(network):
    """Three contexts of several lengths: padding on the left."""
    rows = [torch.tensor([20, 21, 22, 23, 24, 25]), torch.tensor([30, 31]), torch.tensor([26, 40, 41, 42])]
    pad = network.config.pad_id
    return network.encode({"prompt": torch.stack([F.pad(row, (0, 6 - len(row)), value=pad) for row in rows])})


@torch.no_grad()
def log_probabilities(network, prefix, responses, contexts):
    """Of responses (B, T) to contexts (B,): token by token with a cache, at once, and by the model's own forward."""
    hidden, cache = network.start(prefix, responses.shape[1])
    hidden, cache = hidden[contexts], cache.select(contexts)
    states = [hidden] + [network.step(tokens, cache) for tokens in responses[:, :-1].T]
    passes = [torch.stack(states, 1), network(prefix, responses, contexts)]
    ours = [network.logits(states).log_softmax(-1).gather(-1, responses[..., None])[..., 0] for states in passes]
    theirs = []
    for row, context in zip(responses, contexts.tolist(), strict=True):
        ids = torch.cat([prefix.prompt[context][prefix.mask[context]], row])[None]
        media = {k: x[context].flatten(0, 0) for k, x in prefix.media.items()}
        logits = network.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **media).logits
        logits = logits[0, -len(row) - 1 : -1, : network.tokenizer.num_tokens].float().log_softmax(-1)
        theirs.append(logits.gather(-1, row[:, None])[:, 0])
    return [*ours, torch.stack(theirs)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_its_own_probabilities_token_by_token_and_at_once(family):
    network = HFNetwork(model_of(family, FAMILIES[family]), tokenizer(), HFConfig(family, lora_rank=0))
    check_passes(network)
    responses = torch.randint(20, 60, (4, 6), generator=torch.Generator().manual_seed(0))
    cached, at_once, own = log_probabilities(network, contexts_of(network), responses, torch.tensor([0, 0, 1, 2]))
    assert own.std() > 0.01
    assert (cached - own).abs().max() < 1e-4
    assert (at_once - own).abs().max() < 1e-4


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_a_policy_is_refused_in_a_sentence(family):
    model = model_of(family, {})
    with pytest.raises(WeightsError, match=REFUSED[family]):
        check_passes(HFNetwork(model, tokenizer(), HFConfig(family, lora_rank=0)))
