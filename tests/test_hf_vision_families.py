"""Families of vision-language models built small from configurations, with a picture before every prompt."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers

from agents.policies.transformers.checks import check_passes
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.network import KINDS, HFNetwork
from benchmarks.models import TEMPLATE, PatchProcessor, tokenizer, words
from mmenv.models.checkpoints import WeightsError

IMAGE = 3  # the token <image>
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {
    **SMALL, "vocab_size": len(words()), "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.2,
}  # fmt: skip
VISION = {**SMALL, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
PATCHES = {
    "depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "initializer_range": 0.2,
}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
PLACES = {"image_token_id": IMAGE, "video_token_id": 8, "vision_start_token_id": 7, "vision_end_token_id": 9}


class Pictures(transformers.ProcessorMixin):
    """A processor that makes 32 by 32 pixels of a picture, and so many places in the text as a family's has."""

    attributes = ("image_processor", "tokenizer")
    image_processor_class, tokenizer_class = "CLIPImageProcessor", "PreTrainedTokenizerFast"
    image_token = "<image>"

    def __init__(self, image_processor, tokenizer, chat_template=None, places=16, kinds="", nested=False):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.places, self.kinds, self.nested = places, kinds, nested

    def __call__(self, text, images, padding, return_tensors):
        pixels = self.image_processor(images=images, return_tensors=return_tensors)["pixel_values"]
        wide = [t.replace(self.image_token, " ".join([self.image_token] * self.places)) for t in text]
        made = self.tokenizer(wide, padding=padding, return_tensors=return_tensors)
        kinds = {self.kinds: (made["input_ids"] == IMAGE).int()} if self.kinds else {}
        return {**made, **kinds, "pixel_values": pixels[:, None] if self.nested else pixels}


def pictures(**more):
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return Pictures(images, tokenizer(), TEMPLATE, **more)


def patches():
    side = {"shortest_edge": 48 * 48, "longest_edge": 48 * 48}
    images = transformers.Qwen2VLImageProcessorPil(size=side, patch_size=8, merge_size=2, temporal_patch_size=2)
    return PatchProcessor(images, tokenizer(), TEMPLATE.replace("<image>", "<|vision|> <image>"))


def with_patches(family, vision, **text):
    config = transformers.CONFIG_MAPPING[family]
    kind = {"qwen2_vl": "Qwen2VLTextConfig", "qwen2_5_vl": "Qwen2_5_VLTextConfig", "qwen3_vl": "Qwen3VLTextConfig"}
    words_config = getattr(transformers, kind[family])(**TEXT, rope_parameters=ROPE, **text).to_dict()
    return config(text_config=words_config, vision_config={**PATCHES, **vision}, **PLACES), patches()


def llava_kind(family, **more):
    vision = transformers.CLIPVisionConfig(**VISION)
    config = transformers.CONFIG_MAPPING[family](
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_index=IMAGE, **more
    )
    return config, pictures()


def siglip_kind(family, text, processor, **more):
    vision = transformers.SiglipVisionConfig(**VISION)
    return transformers.CONFIG_MAPPING[family](vision_config=vision, text_config=text, **more), processor


def internvl():
    vision = {**SMALL, "image_size": [32, 32], "patch_size": [8, 8], "initializer_range": 0.2}
    text = transformers.Qwen2Config(**TEXT)
    return transformers.InternVLConfig(vision_config=vision, text_config=text, image_token_id=IMAGE), pictures(places=4)


FAMILIES = {
    "llava": lambda: llava_kind("llava", vision_feature_layer=-1),
    "vipllava": lambda: llava_kind("vipllava", vision_feature_layers=[-1, -2]),
    "qwen2_vl": lambda: with_patches("qwen2_vl", {"mlp_ratio": 2}),
    "qwen2_5_vl": lambda: with_patches(
        "qwen2_5_vl", {"intermediate_size": 32, "out_hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [0]}
    ),
    "qwen3_vl": lambda: with_patches(
        "qwen3_vl", {"intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 36,
                     "deepstack_visual_indexes": [0]},
    ),
    "idefics3": lambda: siglip_like_idefics("idefics3"),
    "smolvlm": lambda: siglip_like_idefics("smolvlm"),
    "internvl": internvl,
    "aya_vision": lambda: siglip_kind(
        "aya_vision", transformers.Cohere2Config(**TEXT, sliding_window=4, logit_scale=0.25), pictures(places=4),
        image_token_index=IMAGE, downsample_factor=2, alignment_intermediate_size=32, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    ),
    "gemma3": lambda: siglip_kind(
        "gemma3", transformers.Gemma3TextConfig(**TEXT, sliding_window=4), pictures(places=4, kinds="token_type_ids"),
        mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=7, eoi_token_index=9,
    ),
}  # fmt: skip


def paligemma():
    text = transformers.GemmaConfig(**TEXT)
    return siglip_kind("paligemma", text, pictures(), image_token_index=IMAGE, projection_dim=32)


def siglip_like_idefics(family):
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = transformers.CONFIG_MAPPING[family](
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT).to_dict(), image_token_id=IMAGE,
        scale_factor=2,
    )  # fmt: skip
    return config, pictures(places=4, nested=True)


def network_of(made):
    torch.manual_seed(0)
    config, processor = made()
    model = transformers.AutoModelForMultimodalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if not parameter.any() and "proj" in name:
            torch.nn.init.normal_(parameter, std=0.2)  # Gemma 3's projector begins with zeros
    return HFNetwork(model, processor, HFConfig(config.model_type, lora_rank=0))


def observations_of(network):
    """Three prompts of several lengths, each with a picture of its own."""
    rows = [torch.tensor([20, 21, 22, 23, 24, 25]), torch.tensor([30, 31]), torch.tensor([26, 40, 41, 42])]
    pad = network.config.pad_id
    images = torch.randint(0, 256, (3, 48, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return {"image": images, "prompt": torch.stack([F.pad(row, (0, 6 - len(row)), value=pad) for row in rows])}


@torch.no_grad()
def own_log_probabilities(network, prefix, row, context):
    """Of one response (T,) to one context, by the model's own forward."""
    alone = prefix.select(torch.tensor([context]))
    real = alone.mask[0]
    ids = torch.cat([alone.prompt[:, real], row[None]], 1)
    media = {k: x.flatten(0, 1) for k, x in alone.media.items()}
    if alone.kinds is not None:
        kinds = F.pad(alone.kinds[:, real], (0, len(row)))
        media |= {name: kinds for name in KINDS if name in network._forward_arguments}
    logits = network.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **media).logits
    logits = logits[0, -len(row) - 1 : -1, : network.tokenizer.num_tokens].float().log_softmax(-1)
    return logits.gather(-1, row[:, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_sees_has_its_own_probabilities_token_by_token_and_at_once(family):
    network = network_of(FAMILIES[family])
    check_passes(network)
    prefix, contexts = network.encode(observations_of(network)), torch.tensor([0, 0, 1, 2])
    responses = torch.randint(20, 60, (4, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden, cache = network.start(prefix, 6)
        hidden, cache = hidden[contexts], cache.select(contexts)
        steps = [hidden] + [network.step(tokens, cache) for tokens in responses[:, :-1].T]
        passes = [torch.stack(steps, 1), network(prefix, responses, contexts)]
        ours = [network.logits(s).log_softmax(-1).gather(-1, responses[..., None])[..., 0] for s in passes]
    own = torch.stack([own_log_probabilities(network, prefix, r, c) for r, c in zip(responses, contexts.tolist())])
    for logp in ours:
        assert (logp - own).abs().max() < 1e-4
    other = network.encode({**observations_of(network), "image": 255 - observations_of(network)["image"]})
    with torch.no_grad():
        assert (network.start(other, 6)[0] - network.start(prefix, 6)[0]).abs().max() > 1e-4  # it sees


def test_a_family_whose_prefix_attends_to_all_of_a_text_is_refused_in_a_sentence():
    with pytest.raises(WeightsError, match="this paligemma token by token differ from its own forward"):
        check_passes(network_of(paligemma))
