"""Language models of transformers as networks of a policy: text alone, with pictures, or with sound.

The model's own tokens are the actions; sampled tokens are scored as they were sampled and never encoded again. A
context is read once, however many responses it has: its keys and values are shared, in rollouts and in the loss.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.policies.transformers.adapters import add_adapters
from agents.policies.transformers.cache import HFCache, HFPrefix
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.head import head_logits
from agents.policies.transformers.reference import Unadapted
from agents.policies.transformers.tokenizer import tokenizer_of
from agents.policies.transformers.vision import Vision
from mmenv.models.chat import ChatReader, Turns
from mmenv.models.checkpoints import WeightsError
from mmenv.models.folders import installed

KINDS = ("mm_token_type_ids", "token_type_ids")  # names that families give to the kind of a token, text or a medium
ATTENTION = {"full_attention", "sliding_attention"}


class HFNetwork(nn.Module):
    """A model of transformers with a value head: a ``PolicyNetwork``.

    Its ``trained_state`` is what training changes; the other weights are in the folder that it was loaded from.

    Args:
        model: causal language model, with or without other modalities. It becomes part of this network: its
            ``requires_grad`` is set, and adapters are added.
        reader: its processor, or its tokenizer if it reads only text.
        config: which weights learn; ``vocab_size`` and the like are filled in.

    Raises:
        WeightsError: the model cannot be read token by token, or its tokenizer ends no response.
    """

    def __init__(self, model: Any, reader: Any, config: HFConfig) -> None:
        super().__init__()
        refuse_other_states(model)
        self.reader = reader
        self.chat = ChatReader(reader, config.path)
        self.tokenizer = tokenizer_of(model, self.chat)
        text = model.config.get_text_config()
        # Bloom's positions are biases of attention, which have no end.
        positions = text.to_dict().get("max_position_embeddings") or getattr(text, "max_position_embeddings", None)
        self.config = replace(
            config,
            vocab_size=self.tokenizer.vocab_size,
            pad_id=self.tokenizer.pad_id,
            max_response=int(positions or 1 << 30),
        )
        self.model = model.requires_grad_(False)
        self.width = int(text.hidden_size)
        self.mrope = "mrope_section" in str(text.to_dict())
        self._forward_arguments = frozenset(inspect.signature(model.base_model.forward).parameters)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with torch.random.fork_rng():  # new weights depend on the seed alone and leave the global generator as it was
            torch.manual_seed(config.seed)
            embed = model.get_input_embeddings()
            self.vision = Vision(config.image_encoder, embed, self.tokenizer) if config.image_encoder else None
            self.value_head = nn.Linear(self.width, 1)
            if config.lora_rank:
                add_adapters(model, config.lora_rank)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        if not config.lora_rank:
            model.get_decoder().requires_grad_(True)
            model.get_output_embeddings().requires_grad_(True)

    # Contexts.

    def encode(self, observations: Mapping[str, Tensor]) -> HFPrefix:
        """Encode K contexts: the prompts in the chat template, tokenized as one text each.

        Args:
            observations: image uint8 (K, H, W, 3), audio float32 (K, T) at 16 kHz, prompt int64 (K, P), right-padded.

        Raises:
            ValueError: the model reads a medium that is not among the observations.
        """
        prompts, device = observations["prompt"].tolist(), self.value_head.weight.device
        raw: dict[str, Any] = {kind: self._medium(observations, kind).cpu().numpy() for kind in self.chat.media}
        turns = [Turns(self.tokenizer.decode_prompt(prompt)) for prompt in prompts]
        inputs = self.chat.read(turns, raw.get("image"), raw.get("audio"), asks=True, pad=("left", self.config.pad_id))
        ids = inputs.pop("input_ids").to(device)
        mask = inputs.pop("attention_mask").bool().to(device)
        kinds = inputs.pop("mm_token_type_ids", inputs.pop("token_type_ids", None))
        kinds = None if kinds is None else kinds.to(device)
        # Some processors lay the patches of all pictures end to end; here each context has its own.
        n = len(prompts)
        media = {k: x.to(device).reshape(n, len(x) // n, *x.shape[1:]) for k, x in inputs.items()}
        if self.vision is not None:
            media = {"cells": self.vision.encode(self._medium(observations, "image"))}
            cells = media["cells"].shape[1]
            ids = F.pad(ids, (cells, 0), value=self.config.pad_id)  # image tokens come first
            mask = torch.arange(ids.shape[1], device=device) >= (~mask).sum(1, keepdim=True)
        return HFPrefix(ids, mask, self._positions(ids, mask, media, kinds), media, kinds)

    def _medium(self, observations: Mapping[str, Tensor], kind: str) -> Tensor:
        if kind not in observations:
            raise ValueError(
                f"{self.config.path} reads {kind}, and this environment has none: take another model or environment"
            )
        return observations[kind]

    def _positions(self, ids: Tensor, mask: Tensor, media: Mapping[str, Tensor], kinds: Tensor | None) -> Tensor:
        """Positions (K, S, A): counted without padding, or by the model if it rotates along three axes."""
        if not (self.mrope and media):
            counted = (mask.long().cumsum(1) - 1).clamp(min=0)[..., None]
            return counted.expand(-1, -1, 3) if self.mrope else counted
        if kinds is None:
            raise ValueError(f"the processor of {self.config.path} gives no mm_token_type_ids: take transformers 5")
        grid = media["image_grid_thw"].flatten(0, 1)
        positions, _ = self.model.base_model.get_rope_index(
            ids, mm_token_type_ids=kinds.int(), image_grid_thw=grid, attention_mask=mask.long()
        )
        return positions.permute(1, 2, 0).masked_fill(~mask[..., None], 0)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """None: which weights learn is decided when the model is loaded."""
        return iter(())

    # Passes.

    def start(self, prefix: HFPrefix, budget: int) -> tuple[Tensor, HFCache]:
        """Read K contexts: hidden states (K, width) that predict the first tokens, and the cache.

        Raises:
            ValueError: a context and ``budget`` tokens exceed the model's positions.
        """
        longest = prefix.prompt.shape[1]
        if longest + budget > self.config.max_response:
            raise ValueError(
                f"a context of {longest} tokens and {budget} more exceed the {self.config.max_response} positions "
                f"of {self.config.path}: give shorter prompts, a smaller max_response_tokens, or another model"
            )
        states, past = self._run(self.inputs(prefix), prefix.mask, prefix.positions, None)
        return states[:, -1], HFCache(past, prefix.mask, prefix.next_position)

    def step(self, tokens: Tensor, cache: HFCache) -> Tensor:
        """Write ``tokens`` (B,) into the cache; hidden states (B, width) predict the next ones."""
        cache.mask = F.pad(cache.mask, (0, 1), value=True)
        states, _ = self._run({"input_ids": tokens[:, None]}, cache.mask, cache.position[:, None], cache.past)
        cache.position = cache.position + 1
        return states[:, 0]

    def forward(self, prefix: HFPrefix, responses: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Read complete responses in one pass: hidden states [:, t] predict responses[:, t].

        Args:
            prefix: K contexts.
            responses: int64 (B, T)
            contexts: int64 (B,), the context of each response; None: response i answers context i.

        Returns:
            hidden states (B, T, width)
        """
        if contexts is None:
            contexts = torch.arange(len(responses), device=responses.device)
        if self.config.gradient_checkpointing and torch.is_grad_enabled():
            return self._forward_without_cache(prefix.select(contexts), responses)
        first, cache = self.start(prefix, responses.shape[1])
        shared = cache.select(contexts)
        written = responses[:, :-1]
        if written.shape[1] == 0:
            return first[contexts][:, None]
        mask = F.pad(shared.mask, (0, written.shape[1]), value=True)
        positions = shared.position[:, None] + torch.arange(written.shape[1], device=written.device)[None, :, None]
        states, _ = self._run({"input_ids": written}, mask, positions, shared.past)
        return torch.cat([first[contexts][:, None], states], 1)

    def _forward_without_cache(self, prefix: HFPrefix, responses: Tensor) -> Tensor:
        """``forward`` for gradient checkpointing, which excludes a cache: each response reads its own context."""
        layer = importlib.import_module("transformers.modeling_layers").GradientCheckpointingLayer
        for module in self.model.get_decoder().modules():
            if isinstance(module, layer):
                module.training = True  # checkpoints need it; modules inside of the layer stay without dropout
        written = responses[:, :-1]
        n = written.shape[1]
        following = prefix.next_position[:, None] + torch.arange(n, device=written.device)[None, :, None]
        inputs = self.inputs(prefix)
        if "inputs_embeds" in inputs:
            words = self.model.get_input_embeddings()(self._embeddable(written))
            inputs = {"inputs_embeds": torch.cat([inputs["inputs_embeds"], words.to(inputs["inputs_embeds"].dtype)], 1)}
        else:
            inputs["input_ids"] = torch.cat([prefix.prompt, written], 1)
            inputs |= {name: F.pad(inputs[name], (0, n)) for name in KINDS if name in inputs}
        mask = F.pad(prefix.mask, (0, n), value=True)
        positions = torch.cat([prefix.positions, following], 1)
        states, _ = self._run(inputs, mask, positions, None, use_cache=False)
        return states[:, prefix.prompt.shape[1] - 1 :]

    def inputs(self, prefix: HFPrefix) -> dict[str, Tensor]:
        """Arguments of the model for contexts: tokens and media, or embeddings where ``vision`` made some of them."""
        if self.vision is None or "cells" not in prefix.media:
            dtype = self.model.dtype
            inputs = {"input_ids": prefix.prompt}
            if prefix.kinds is not None:
                inputs |= {name: prefix.kinds for name in KINDS if name in self._forward_arguments}
            for name, x in prefix.media.items():
                flat = x.flatten(0, 1)
                inputs[name] = flat.to(dtype) if flat.is_floating_point() else flat
            return inputs
        words = self.model.get_input_embeddings()(self._embeddable(prefix.prompt))
        cells = self.vision(prefix.media["cells"])
        # Image tokens come first, after the padding on the left.
        at = (~prefix.mask).sum(1)[:, None] + torch.arange(cells.shape[1], device=cells.device)
        index = at[..., None].expand(-1, -1, self.width)
        return {"inputs_embeds": words.scatter(1, index, cells.to(words.dtype))}

    def _run(
        self, inputs: dict[str, Tensor], mask: Tensor, positions: Tensor, past: Any, use_cache: bool = True
    ) -> tuple[Tensor, Any]:
        """The model without its head: states (B, T, width), and the cache."""
        axes = positions.permute(2, 0, 1) if self.mrope else positions[..., 0]
        arguments: dict[str, Any] = {"position_ids": axes} if "position_ids" in self._forward_arguments else {}
        if "input_ids" in inputs:
            inputs = {**inputs, "input_ids": self._embeddable(inputs["input_ids"])}
        if use_cache:
            # Without a configuration a cache keeps all keys and values, and masks alone make windows of attention.
            arguments["cache"] = installed("transformers").DynamicCache() if past is None else past
        out = self.model.base_model(**inputs, **arguments, attention_mask=mask.long(), use_cache=use_cache)
        return out.last_hidden_state, out.get("cache")

    def _embeddable(self, ids: Tensor) -> Tensor:
        """Padding, which the model may not embed, becomes an end token; it is masked."""
        return ids.masked_fill(ids == self.config.pad_id, self.tokenizer.end_id)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab_size) in float32, as the model's own forward makes them."""
        logits = head_logits(self.model, hidden.reshape(1, -1, self.width))
        logits = logits.reshape(*hidden.shape[:-1], -1)[..., : self.tokenizer.num_tokens].float()
        extra = self.config.vocab_size - self.tokenizer.num_tokens  # 1 if the padding token is not one of the model's
        return F.pad(logits, (0, extra), value=float("-inf")) if extra else logits

    def value(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (...)."""
        values: Tensor = self.value_head(hidden.float())
        return values[..., 0]

    @property
    def forbidden_token_ids(self) -> tuple[int, ...]:
        """Padding, placeholders of media, special tokens that end nothing, and ids without a token."""
        tokenizer = self.tokenizer.tokenizer
        forbidden = {*tokenizer.all_special_ids, *self.chat.place_ids, self.config.pad_id}
        forbidden |= set(range(self.tokenizer.num_tokens)) - set(tokenizer.get_vocab().values())
        return tuple(sorted(forbidden - self.tokenizer.eos_ids))

    # Weights.

    def trained_state(self) -> dict[str, Tensor]:
        """The weights that training changes, by name."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        return {name: x for name, x in self.state_dict().items() if name in trained}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put a ``trained_state`` back.

        Raises:
            WeightsError: it is of another model, or of other adapters.
        """
        different = sorted(self.trained_state().keys() ^ state.keys())[:3]
        if different:
            raise WeightsError(
                f"these weights are not of {self.config.path} with these settings: only one of them has {different}"
            )
        self.load_state_dict(dict(state), strict=False)

    def frozen(self) -> HFNetwork | Unadapted:
        """The network as it is now, without gradients: a view without adapters, or a copy if it has none."""
        if self.config.lora_rank:
            return Unadapted(self)
        return copy.deepcopy(self).requires_grad_(False)


def refuse_other_states(model: Any) -> None:
    """Refuse a model whose cache is not keys and values of all tokens: rows of a cache are replaced here.

    Raises:
        WeightsError: it is an encoder-decoder, or some of its layers keep other states.
    """
    text = model.config.get_text_config().to_dict()
    kinds = set(text.get("layer_types") or ["full_attention"]) | ({"stateful"} if model._is_stateful else set())
    if model.config.is_encoder_decoder or not kinds <= ATTENTION:
        raise WeightsError(
            f"a {model.config.model_type} with {sorted(kinds)} layers keeps other states than keys and values of all "
            "tokens: take a decoder with attention in every layer"
        )
    if model.base_model is model or model.get_output_embeddings() is None:
        raise WeightsError(
            f"a {model.config.model_type} has no body and head of its own to take apart: take another language model"
        )
