"""Language models of transformers as networks of a policy: text alone, with pictures, or with sound.

``load_transformers(folder)`` reads a model that ``save_pretrained`` wrote, with its processor or tokenizer. Its own
tokens are the actions; what was sampled is scored as it was sampled and nothing is encoded twice. A context is read
once, however many responses it has: its keys and values are shared, in rollouts and in the loss.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.hf_cache import HFCache, HFPrefix
from agents.hf_eyes import Eyes
from mmenv.data.media import RATE
from mmenv.models.checkpoints import WeightsError
from mmenv.rewards.classifier import installed
from mmenv.tokenizer import HFTokenizer

QUESTION = "<<question>>"  # stands for the prompt while a chat template is taken apart
PARTS = {"image": "image_processor", "audio": "feature_extractor"}


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
        _refuse_other_caches(model)
        self.reader = reader
        # A processor names its parts; a tokenizer has none.
        self.parts = reader.get_attributes() if isinstance(reader, installed("transformers").ProcessorMixin) else []
        self.tokenizer = HFTokenizer(reader.tokenizer if self.parts else reader)
        text = model.config.get_text_config()
        self.config = HFConfig(
            **{**asdict(config), "vocab_size": self.tokenizer.vocab_size, "pad_id": self.tokenizer.pad_id,
               "max_response": int(text.max_position_embeddings)}
        )  # fmt: skip
        self.model = model.requires_grad_(False)
        self.width, self.mrope = int(text.hidden_size), "mrope_section" in str(text.to_dict())
        self.before, self.after = self._layout()
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
        within = {id(m) for m in decoder.modules() if isinstance(m, nn.Linear)}
        names = [name for name, m in self.model.named_modules() if id(m) in within]
        lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0)
        peft.inject_adapter_in_model(lora, self.model)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()  # small steps are lost in bfloat16

    # Contexts.

    def _layout(self) -> tuple[str, list[int]]:
        """Text before the prompt, media included, and the tokens after it, by the model's chat template."""
        media = [kind for kind, part in PARTS.items() if part in self.parts]
        words: Any = [*({"type": kind} for kind in media), {"type": "text", "text": QUESTION}] if media else QUESTION
        if self.reader.chat_template:
            turns = [{"role": "user", "content": words}]
            whole = str(self.reader.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        else:
            places = {"image": lambda: self.reader.image_token, "audio": lambda: self.reader.audio_token}
            whole = "\n".join([*(str(places[kind]()) for kind in media), QUESTION, ""])
        before, found, after = whole.partition(QUESTION)
        if not found:
            raise WeightsError(f"the chat template of {self.config.path} leaves out what the user says: mend it")
        return before, self.tokenizer.encode(after)

    def encode(self, observations: Mapping[str, Tensor]) -> HFPrefix:
        """Observations of a batch -> its contexts.

        Args:
            observations: image uint8 (B, H, W, 3), audio float32 (B, T) at 16 kHz, prompt int64 (B, P), right-padded.
        """
        prompt, device = observations["prompt"], self.value_head.weight.device
        media, ids, kinds = self._media(observations, len(prompt))
        after = torch.tensor(self.after, dtype=torch.long)
        real = prompt.cpu() != self.config.pad_id
        rows = [torch.cat([ids[i], prompt[i].cpu()[real[i]], after]) for i in range(len(prompt))]
        wide = max(map(len, rows))
        left = torch.stack([F.pad(row, (wide - len(row), 0), value=self.config.pad_id) for row in rows])
        mask = torch.stack([torch.arange(wide) >= wide - len(row) for row in rows])
        media = {name: x.to(device) for name, x in media.items()}
        left, mask = left.to(device), mask.to(device)
        return HFPrefix(left, mask, self._positions(left, mask, media, kinds), media)

    def _media(self, observations: Mapping[str, Tensor], n: int) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """What is perceived, each (n, ...); tokens (n, S) before the prompt; and which of these stand for a picture."""
        if self.eyes is not None:
            seen = {"cells": self.eyes.look(self._perceived(observations, "image"))}
            places = [self.tokenizer.pad_id] * seen["cells"].shape[1]
            return seen, torch.tensor([places + self.tokenizer.encode(self.before)] * n), None
        given: dict[str, Any] = {}
        if PARTS["image"] in self.parts:
            given["images"] = list(self._perceived(observations, "image").cpu().numpy())
        if PARTS["audio"] in self.parts:
            given |= {"audio": list(self._perceived(observations, "audio").cpu().numpy()), "sampling_rate": RATE}
        # As transformers does it: where the template writes the token that texts begin with, the tokenizer must not.
        begins = self.tokenizer.tokenizer.bos_token
        once = {"add_special_tokens": False} if begins and self.before.startswith(begins) else {}
        if not given:
            ids = self.reader(self.before, **once)["input_ids"]
            return {}, torch.tensor([ids] * n, dtype=torch.long).reshape(n, -1), None
        made = dict(self.reader(text=[self.before] * n, padding=True, return_tensors="pt", **given, **once))
        ids, _, kinds = made.pop("input_ids"), made.pop("attention_mask"), made.pop("mm_token_type_ids", None)
        # Some processors lay the patches of all pictures end to end: here every context has its own.
        return {name: x.reshape(n, len(x) // n, *x.shape[1:]) for name, x in made.items()}, ids, kinds

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
        whole = ids.new_zeros(ids.shape)
        for row, start in enumerate((~mask).sum(1).tolist()):
            whole[row, start : start + kinds.shape[1]] = kinds[row].to(ids.device)
        grid = media["image_grid_thw"].flatten(0, 1)
        found, _ = self.model.base_model.get_rope_index(
            ids, mm_token_type_ids=whole.int(), image_grid_thw=grid, attention_mask=mask.long()
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
            words = self.model.get_input_embeddings()(said)
            inputs = {"inputs_embeds": torch.cat([inputs["inputs_embeds"], words.to(inputs["inputs_embeds"].dtype)], 1)}
        else:
            inputs["input_ids"] = torch.cat([prefix.prompt, said], 1)
        mask = F.pad(prefix.mask, (0, said.shape[1]), value=True)
        states, _ = self._run(inputs, mask, torch.cat([prefix.positions, after], 1), None, keep=False)
        return states[:, wide - 1 :]

    def inputs(self, prefix: HFPrefix) -> dict[str, Tensor]:
        """What the model is given for contexts: tokens and media, or embeddings where foreign eyes look."""
        if self.eyes is None:
            dtype = self.model.dtype
            flat = {name: x.flatten(0, 1) for name, x in prefix.media.items()}
            return {
                "input_ids": prefix.prompt,
                **{k: x.to(dtype) if x.is_floating_point() else x for k, x in flat.items()},
            }
        words, cells = self.model.get_input_embeddings()(prefix.prompt), self.eyes(prefix.media["cells"])
        # The places of a picture come first; padding on the left moves them.
        at = (~prefix.mask).sum(1)[:, None] + torch.arange(cells.shape[1], device=cells.device)
        places = at[..., None].expand(-1, -1, self.width)
        return {"inputs_embeds": words.scatter(1, places, cells.to(words.dtype))}

    def _run(
        self, inputs: dict[str, Tensor], mask: Tensor, positions: Tensor, past: Any, keep: bool = True
    ) -> tuple[Tensor, Any]:
        """The model without its head: states (B, T, width), and the cache."""
        axes = positions.permute(2, 0, 1) if self.mrope else positions[..., 0]
        kept = {} if past is None else {"cache": past}
        out = self.model.base_model(**inputs, attention_mask=mask.long(), position_ids=axes, use_cache=keep, **kept)
        return out.last_hidden_state, out.cache if keep else None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocab_size) in float32."""
        head = self.model.get_output_embeddings()
        return head(hidden)[..., : self.config.vocab_size].float()

    def value(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (...)."""
        return self.value_head(hidden.float())[..., 0]

    # What a policy and a trainer ask beside.

    @property
    def never(self) -> tuple[int, ...]:
        """Tokens that a policy never says: padding, and special ones that do not end, places of media among them."""
        special = set(self.tokenizer.tokenizer.all_special_ids) | {self.config.pad_id}
        return tuple(sorted(i for i in special - self.tokenizer.eos_ids if i < self.config.vocab_size))

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


class Unadapted(nn.Module):
    """A network as it was before training: adapters off, and the few other weights that learn as copies.

    It shares the model, and has no parameters that a device or an optimiser should see twice.
    """

    def __init__(self, network: HFNetwork) -> None:
        super().__init__()
        self._shared, self.config = (network,), network.config  # in a tuple: no submodule of this one
        self.projector = None if network.eyes is None else copy.deepcopy(network.eyes.projector).requires_grad_(False)
        self.value_head = copy.deepcopy(network.value_head).requires_grad_(False)

    @property
    def never(self) -> tuple[int, ...]:
        return self._shared[0].never

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """None."""
        return iter(())

    def frozen(self) -> Unadapted:
        """Itself: nothing changes it."""
        return self

    def encode(self, observations: Mapping[str, Tensor]) -> HFPrefix:
        return self._shared[0].encode(observations)

    def start(self, prefix: HFPrefix, budget: int) -> tuple[Tensor, HFCache]:
        with self._before_training() as network:
            return network.start(prefix, budget)

    def step(self, tokens: Tensor, cache: HFCache) -> Tensor:
        with self._before_training() as network:
            return network.step(tokens, cache)

    def forward(self, prefix: HFPrefix, responses: Tensor, contexts: Tensor | None = None) -> Tensor:
        with self._before_training() as network:
            return network(prefix, responses, contexts)

    def logits(self, hidden: Tensor) -> Tensor:
        with self._before_training() as network:
            return network.logits(hidden)

    def value(self, hidden: Tensor) -> Tensor:
        return self.value_head(hidden.float())[..., 0]

    @contextlib.contextmanager
    def _before_training(self) -> Iterator[HFNetwork]:
        """The shared network with its adapters off, for no gradient's sake."""
        network = self._shared[0]
        layers = [
            m for m in network.model.modules() if isinstance(m, installed("peft").tuners.tuners_utils.BaseTunerLayer)
        ]
        eyes = network.eyes
        now = None if eyes is None else eyes.projector
        for layer in layers:
            layer.enable_adapters(False)
        if eyes is not None:
            eyes.projector = self.projector
        try:
            with torch.no_grad():
                yield network
        finally:
            for layer in layers:
                layer.enable_adapters(True)
            if eyes is not None:
                eyes.projector = now


def load_transformers(config: HFConfig, device: str = "cpu") -> HFNetwork:
    """A model and its reader from a folder that ``save_pretrained`` wrote; no code of the folder is run.

    Raises:
        WeightsError: the folder holds no language model, or one whose cache cannot be shared.
        ModuleNotFoundError: transformers or peft is missing; the message has the command that installs it.
    """
    hf, folder = installed("transformers"), Path(config.path)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} has no config.json: give a folder that save_pretrained wrote")
    try:
        told = hf.AutoConfig.from_pretrained(folder, local_files_only=True)
        kinds = {
            hf.AutoModelForMultimodalLM: hf.MODEL_FOR_MULTIMODAL_LM_MAPPING,
            hf.AutoModelForCausalLM: hf.MODEL_FOR_CAUSAL_LM_MAPPING,
        }
        kind = next((auto for auto, known in kinds.items() if type(told) in known), None)
        if kind is None:
            raise WeightsError(f"{folder} holds a {told.model_type}, which writes no text: give a language model")
        reader = (hf.AutoProcessor if kind is hf.AutoModelForMultimodalLM else hf.AutoTokenizer).from_pretrained(
            folder, local_files_only=True
        )
        model = kind.from_pretrained(folder, local_files_only=True, dtype=getattr(torch, config.dtype))
    except OSError as error:
        raise WeightsError(f"{folder} cannot be read ({str(error).splitlines()[0]}): save it again") from error
    return HFNetwork(model.to(device).eval(), reader, config).to(device)


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


def _refuse_other_caches(model: Any) -> None:
    """Rows of a cache are chosen and replaced here: that is written for layers that keep every key and value."""
    text = model.config.get_text_config().to_dict()
    kinds = set(text.get("layer_types") or ["full_attention"])
    if model.config.is_encoder_decoder or kinds != {"full_attention"}:
        raise WeightsError(
            f"a {model.config.model_type} with {sorted(kinds)} layers keeps other states than keys and values of all "
            "tokens: take a decoder with full attention in every layer"
        )
