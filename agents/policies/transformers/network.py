"""Language models of transformers as networks of a policy: text alone, with pictures, or with sound.

``load_transformers(folder)`` reads a model that ``save_pretrained`` wrote, with its processor or tokenizer. Its own
tokens are the actions; what was sampled is scored as it was sampled and nothing is encoded twice. A context is read
once, however many responses it has: its keys and values are shared, in rollouts and in the loss.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.policies.transformers.cache import HFCache, HFPrefix
from agents.policies.transformers.checks import check_passes, refuse_other_states
from agents.policies.transformers.reference import Unadapted
from agents.policies.transformers.vision import Eyes
from mmenv.models.chat import ChatReader, Turns, check_embedding
from mmenv.models.checkpoints import WeightsError
from mmenv.models.folders import installed, read_config, read_model, read_processor, read_tokenizer
from mmenv.tokenizer import HFTokenizer

KINDS = ("mm_token_type_ids", "token_type_ids")  # what families call the kinds of tokens, text or a medium


@dataclass(frozen=True)
class HFConfig:
    """How a model of transformers is loaded and which of its weights learn; plain values, so that it goes to JSON.

    Attributes:
        path: folder that ``save_pretrained`` wrote.
        lora_rank: rank of the adapters (Hu et al. 2022) that learn in every linear layer of the language model; the
            reference is the model without them. 0: all weights of the language model learn, and the reference is a
            copy.
        dtype: of the weights that do not learn.
        gradient_checkpointing: whether states are computed again in the backward pass, for memory.
        image_encoder: of a model that reads text alone, the network (by name or path) whose image encoder looks for it,
            through a projector that learns.
        seed: of the adapters' first weights.
        vocab_size, pad_id, max_response: what policies ask of a network; from the model.
    """

    path: str
    lora_rank: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    image_encoder: str = ""
    seed: int = 0
    vocab_size: int = 0
    pad_id: int = 0
    max_response: int = 0


class HFNetwork(nn.Module):
    """A model of transformers with a value head, as ``TokenPolicy`` asks for a network.

    Its ``state_dict`` is what training changes; the rest lies in the folder that it was loaded from.

    Args:
        model: causal language model, or one that reads pictures or sounds too; its weights are set to learn or not.
        reader: its processor, or its tokenizer where it reads text alone.
        config: what was asked for; ``vocab_size`` and the like are filled in.
    """

    def __init__(self, model: Any, reader: Any, config: HFConfig) -> None:
        super().__init__()
        refuse_other_states(model)
        self.reader, self.chat = reader, ChatReader(reader, config.path)
        self.tokenizer = tokenizer_of(model, self.chat)
        text = model.config.get_text_config()
        # Positions that are biases of attention, as in Bloom, have no end.
        positions = text.to_dict().get("max_position_embeddings") or getattr(text, "max_position_embeddings", None)
        self.config = HFConfig(
            **{**asdict(config), "vocab_size": self.tokenizer.vocab_size, "pad_id": self.tokenizer.pad_id,
               "max_response": int(positions or 1 << 30)}
        )  # fmt: skip
        self.model = model.requires_grad_(False)
        self.width, self.mrope = int(text.hidden_size), "mrope_section" in str(text.to_dict())
        self._takes = frozenset(inspect.signature(model.base_model.forward).parameters)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with torch.random.fork_rng():  # what is new is drawn from the seed, and nobody else's randomness is used up
            torch.manual_seed(config.seed)
            embed = model.get_input_embeddings()
            self.eyes = Eyes(config.image_encoder, embed, self.tokenizer) if config.image_encoder else None
            self.value_head = nn.Linear(self.width, 1)
            if config.lora_rank:
                self._add_adapters(config.lora_rank)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        if not config.lora_rank:
            model.get_decoder().requires_grad_(True)
            model.get_output_embeddings().requires_grad_(True)

    def _add_adapters(self, rank: int) -> None:
        """LoRA in every linear layer of the language model, injected in place: the model keeps its class."""
        peft = installed("peft")
        decoder = self.model.get_decoder()
        linear = (nn.Linear, installed("transformers.pytorch_utils").Conv1D)
        within = {id(m) for m in decoder.modules() if isinstance(m, linear)}
        names = [name for name, m in self.model.named_modules() if id(m) in within]
        lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0)
        peft.inject_adapter_in_model(lora, self.model)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()  # small steps are lost in bfloat16

    # Contexts.

    def encode(self, observations: Mapping[str, Tensor]) -> HFPrefix:
        """Observations of a batch -> its contexts: the chat template with the prompts in it, encoded whole.

        Args:
            observations: image uint8 (B, H, W, 3), audio float32 (B, T) at 16 kHz, prompt int64 (B, P), right-padded.
        """
        prompts, device = observations["prompt"].tolist(), self.value_head.weight.device
        given = {kind: self._perceived(observations, kind).cpu().numpy() for kind in self.chat.media}
        turns = [Turns(self.tokenizer.decode_prompt(prompt)) for prompt in prompts]
        pad = ("left", self.config.pad_id)
        inputs = self.chat.read(turns, given.get("image"), given.get("audio"), asks=True, pad=pad)
        ids, mask = inputs.pop("input_ids").to(device), inputs.pop("attention_mask").bool().to(device)
        kinds = inputs.pop("mm_token_type_ids", inputs.pop("token_type_ids", None))
        kinds = None if kinds is None else kinds.to(device)
        # Some processors lay the patches of all pictures end to end: here every context has its own.
        n = len(prompts)
        media = {k: x.to(device).reshape(n, len(x) // n, *x.shape[1:]) for k, x in inputs.items()}
        if self.eyes is not None:
            media = {"cells": self.eyes.look(self._perceived(observations, "image"))}
            cells = media["cells"].shape[1]
            ids = F.pad(ids, (cells, 0), value=self.config.pad_id)  # the places of a picture come first
            mask = torch.arange(ids.shape[1], device=device) >= (~mask).sum(1, keepdim=True)
        return HFPrefix(ids, mask, self._positions(ids, mask, media, kinds), media, kinds)

    def _perceived(self, observations: Mapping[str, Tensor], kind: str) -> Tensor:
        if kind not in observations:
            raise ValueError(f"{self.config.path} perceives {kind}, which this environment does not show: take another")
        return observations[kind]

    def _positions(self, ids: Tensor, mask: Tensor, media: Mapping[str, Tensor], kinds: Tensor | None) -> Tensor:
        """(K, S, A): counted without padding, or as a model with rotations in three directions has it."""
        if not (self.mrope and media):
            counted = (mask.long().cumsum(1) - 1).clamp(min=0)[..., None]
            return counted.expand(-1, -1, 3) if self.mrope else counted
        if kinds is None:
            raise ValueError(f"the processor of {self.config.path} gives no mm_token_type_ids: take transformers 5")
        grid = media["image_grid_thw"].flatten(0, 1)
        found, _ = self.model.base_model.get_rope_index(
            ids, mm_token_type_ids=kinds.int(), image_grid_thw=grid, attention_mask=mask.long()
        )
        return found.permute(1, 2, 0).masked_fill(~mask[..., None], 0)

    # Passes.

    def start(self, prefix: HFPrefix, budget: int) -> tuple[Tensor, HFCache]:
        """Read the contexts: hidden (B, width) that predicts the first tokens, and the cache.

        Raises:
            ValueError: contexts and responses are longer together than the model has positions.
        """
        wide = prefix.prompt.shape[1]
        if wide + budget > self.config.max_response:
            raise ValueError(
                f"a context of {wide} tokens and {budget} more exceed the {self.config.max_response} positions "
                f"of {self.config.path}: give shorter prompts, a smaller max_response_tokens, or another model"
            )
        states, past = self._run(self.inputs(prefix), prefix.mask, prefix.positions, None)
        return states[:, -1], HFCache(past, prefix.mask, prefix.next_position)

    def step(self, tokens: Tensor, cache: HFCache) -> Tensor:
        """Write ``tokens`` (B,) into the cache; hidden (B, width) predicts the next ones."""
        cache.mask = F.pad(cache.mask, (0, 1), value=True)
        states, _ = self._run({"input_ids": tokens[:, None]}, cache.mask, cache.position[:, None], cache.past)
        cache.position = cache.position + 1
        return states[:, 0]

    def forward(self, prefix: HFPrefix, responses: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Whole sequences at once: hidden[:, t] predicts responses[:, t].

        Args:
            prefix: K contexts.
            responses: int64 (B, T)
            contexts: int64 (B,), which of the K contexts each response belongs to; None: response i to context i.

        Returns:
            hidden (B, T, width)
        """
        if contexts is None:
            contexts = torch.arange(len(responses), device=responses.device)
        if self.config.gradient_checkpointing and torch.is_grad_enabled():
            return self._at_once(prefix.rows(contexts), responses)
        first, cache = self.start(prefix, responses.shape[1])
        shared, said = cache.rows(contexts), responses[:, :-1]
        if said.shape[1] == 0:
            return first[contexts][:, None]
        mask = F.pad(shared.mask, (0, said.shape[1]), value=True)
        positions = shared.position[:, None] + torch.arange(said.shape[1], device=said.device)[None, :, None]
        states, _ = self._run({"input_ids": said}, mask, positions, shared.past)
        return torch.cat([first[contexts][:, None], states], 1)

    def _at_once(self, prefix: HFPrefix, responses: Tensor) -> Tensor:
        """``forward`` without keys and values kept, which checkpoints cannot have: every response reads its context."""
        layer = importlib.import_module("transformers.modeling_layers").GradientCheckpointingLayer
        for module in self.model.get_decoder().modules():
            if isinstance(module, layer):
                module.training = True  # of the layer alone: what it holds stays without dropout
        said, wide = responses[:, :-1], prefix.prompt.shape[1]
        after = prefix.next_position[:, None] + torch.arange(said.shape[1], device=said.device)[None, :, None]
        inputs = self.inputs(prefix)
        if "inputs_embeds" in inputs:
            words = self.model.get_input_embeddings()(self._embedded(said))
            inputs = {"inputs_embeds": torch.cat([inputs["inputs_embeds"], words.to(inputs["inputs_embeds"].dtype)], 1)}
        else:
            inputs["input_ids"] = torch.cat([prefix.prompt, said], 1)
            of_text = {name: F.pad(inputs[name], (0, said.shape[1])) for name in KINDS if name in inputs}
            inputs |= of_text
        mask = F.pad(prefix.mask, (0, said.shape[1]), value=True)
        states, _ = self._run(inputs, mask, torch.cat([prefix.positions, after], 1), None, keep=False)
        return states[:, wide - 1 :]

    def inputs(self, prefix: HFPrefix) -> dict[str, Tensor]:
        """What the model is given for contexts: tokens and media, or embeddings where foreign eyes look."""
        if "cells" not in prefix.media:
            dtype = self.model.dtype
            flat = {name: x.flatten(0, 1) for name, x in prefix.media.items()}
            kinds = {} if prefix.kinds is None else {name: prefix.kinds for name in KINDS if name in self._takes}
            return {
                "input_ids": prefix.prompt,
                **kinds,
                **{k: x.to(dtype) if x.is_floating_point() else x for k, x in flat.items()},
            }
        words = self.model.get_input_embeddings()(self._embedded(prefix.prompt))
        cells = self.eyes(prefix.media["cells"])
        # The places of a picture come first; padding on the left moves them.
        at = (~prefix.mask).sum(1)[:, None] + torch.arange(cells.shape[1], device=cells.device)
        places = at[..., None].expand(-1, -1, self.width)
        return {"inputs_embeds": words.scatter(1, places, cells.to(words.dtype))}

    def _run(
        self, inputs: dict[str, Tensor], mask: Tensor, positions: Tensor, past: Any, keep: bool = True
    ) -> tuple[Tensor, Any]:
        """The model without its head: states (B, T, width), and the cache."""
        axes = positions.permute(2, 0, 1) if self.mrope else positions[..., 0]
        where = {"position_ids": axes} if "position_ids" in self._takes else {}
        if "input_ids" in inputs:
            inputs = {**inputs, "input_ids": self._embedded(inputs["input_ids"])}
        # Without the configuration a cache keeps all keys and values, and masks alone make windows of attention.
        past = installed("transformers").DynamicCache() if keep and past is None else past
        kept = {"cache": past} if keep else {}
        out = self.model.base_model(**inputs, **where, **kept, attention_mask=mask.long(), use_cache=keep)
        return out.last_hidden_state, out.get("cache")

    def _embedded(self, ids: Tensor) -> Tensor:
        """Tokens that the model embeds: padding may be none of them, and is masked."""
        return ids.masked_fill(ids == self.config.pad_id, self.tokenizer.end_id)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab_size) in float32, as the model's own forward makes them of its body's states.

        So whatever a family does to them, a scale or a soft cap, is done here too.
        """
        states = hidden.reshape(1, -1, self.width)
        model = copy.copy(self.model)  # shares every weight; its body is replaced by one that returns the states
        model._modules = {**self.model._modules, self.model.base_model_prefix: _Body(states)}
        out = model(input_ids=torch.zeros(states.shape[:2], dtype=torch.long, device=states.device), use_cache=False)
        logits = out.logits.reshape(*hidden.shape[:-1], -1)[..., : self.tokenizer.num_tokens].float()
        padding = self.config.vocab_size - self.tokenizer.num_tokens  # one token more, where none of the model's pads
        return F.pad(logits, (0, padding), value=float("-inf")) if padding else logits

    def value(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (...)."""
        return self.value_head(hidden.float())[..., 0]

    # What a policy and a trainer ask beside.

    @property
    def never(self) -> tuple[int, ...]:
        """Tokens that a policy never says: padding, places of media, special ones that do not end, numbers of none."""
        tokenizer = self.tokenizer.tokenizer
        forbidden = {*tokenizer.all_special_ids, *self.chat.place_ids, self.config.pad_id}
        forbidden |= set(range(self.tokenizer.num_tokens)) - set(tokenizer.get_vocab().values())
        return tuple(sorted(forbidden - self.tokenizer.eos_ids))

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """None: which weights learn is decided when the model is loaded."""
        return iter(())

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What training changes, by name."""
        learned = {name for name, p in self.named_parameters() if p.requires_grad}
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if k in learned}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Put a ``state_dict`` back.

        Raises:
            WeightsError: it is of another model, or of other adapters.
        """
        mine = self.state_dict()
        if mine.keys() != state_dict.keys():
            odd = sorted(mine.keys() ^ state_dict.keys())[:3]
            raise WeightsError(f"these weights are not of {self.config.path} as it learns here: {odd} are in one alone")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def frozen(self) -> HFNetwork | Unadapted:
        """The network as it is now, for good: with adapters the same weights without them, else a copy."""
        if self.config.lora_rank:
            return Unadapted(self)
        return copy.deepcopy(self).requires_grad_(False)


class _States(dict):  # type: ignore[type-arg]
    """What a body returns, its last states and nothing else."""

    def __init__(self, states: Tensor) -> None:
        super().__init__(last_hidden_state=states)
        self.states = states

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        return self.states if key == 0 else super().__getitem__(key)


class _Body(nn.Module):
    """In place of a model's body: returns states that are there already."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    @property
    def decoder(self) -> _Body:
        """Itself: some families call the decoder within their body."""
        return self

    def forward(self, *_: Any, **__: Any) -> Any:
        return _States(self.states)


def tokenizer_of(model: Any, chat: ChatReader) -> HFTokenizer:
    """The tokenizer as an environment asks for one: it ends where ``generate`` would, and where the template does.

    Raises:
        WeightsError: nothing ends a response, or the model embeds fewer tokens than the tokenizer has.
    """
    check_embedding(model, chat)
    tokenizer, named = chat.tokenizer, model.generation_config.eos_token_id
    if named is None:  # a generation_config.json of other settings alone
        named = model.config.get_text_config().eos_token_id
    known = set(tokenizer.get_vocab().values())
    ends = {tokenizer.eos_token_id, chat.turn_end, *(named if isinstance(named, list) else [named])}
    ends = {i for i in ends if i in known}  # a default configuration names a token that the vocabulary may lack
    if not ends:
        raise WeightsError(
            f"{chat.name} has no end token: set tokenizer.eos_token, or eos_token_id of its generation_config.json"
        )
    return HFTokenizer(
        tokenizer, eos_ids=ends, end_id=chat.turn_end, lead=chat.lead, gap=chat.gap, literal=chat.literal
    )


def load_transformers(config: HFConfig, device: str = "cpu") -> HFNetwork:
    """A model and its reader from a folder that ``save_pretrained`` wrote; no code of the folder is run.

    Raises:
        WeightsError: the folder holds no language model, or one whose cache cannot be shared.
        ModuleNotFoundError: transformers or peft is missing; the message has the command that installs it.
    """
    hf, folder = installed("transformers"), Path(config.path)
    own = read_config(folder)
    kinds = {
        hf.AutoModelForMultimodalLM: hf.MODEL_FOR_MULTIMODAL_LM_MAPPING,
        hf.AutoModelForCausalLM: hf.MODEL_FOR_CAUSAL_LM_MAPPING,
    }
    kind = next((auto for auto, known in kinds.items() if type(own) in known), None)
    if kind is None:
        raise WeightsError(f"{folder} holds a {own.model_type}, which writes no text: give a language model")
    reader = read_processor(folder) if kind is hf.AutoModelForMultimodalLM else read_tokenizer(folder)
    model = read_model(kind, folder, dtype=getattr(torch, config.dtype))
    network = HFNetwork(model.to(device), reader, config).to(device)
    check_passes(network)
    return network


def merged(network: HFNetwork, config: HFConfig) -> HFNetwork:
    """A network whose adapters are written into the weights below, and that learns as ``config`` has it."""
    model, dtype = network.model, getattr(torch, config.dtype)
    if dtype == torch.float32:
        model.to(dtype)  # before, or what is added would be rounded to fewer bits
    for name, layer in list(model.named_modules()):
        if isinstance(layer, installed("peft").tuners.tuners_utils.BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    if network.config.lora_rank:
        del model.peft_config  # of the adapters that are gone
    fresh = HFNetwork(model.to(dtype), network.reader, config)
    fresh.value_head.load_state_dict(network.value_head.state_dict())
    if network.eyes is not None and fresh.eyes is not None:
        fresh.eyes.load_state_dict(network.eyes.state_dict())
    return fresh.to(model.device).eval()
