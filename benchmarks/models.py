"""Models of transformers built from configurations, with random weights and the world's words: for tests and speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from mmenv.worlds.vocabulary import world_tokenizer

SPECIAL = ("<pad>", "<eos>", "<unk>", "<image>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|vision|>", "<video>")
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% elif part['type'] == 'audio' %}"
    "<|audio_bos|><|AUDIO|><|audio_eos|> {% else %}{{ part['text'] }}{% endif %}{% endfor %} : {% endfor %}"
)


def words() -> list[str]:
    """The tokens: special ones, the world's words, a colon, and some that nobody says."""
    return [*SPECIAL, *world_tokenizer().words[3:], ":", *(f"spare{i}" for i in range(40))]


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token a word; its pad token is no end token."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words())}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[3:]), padding_side="left",
    )  # fmt: skip


def _text(kind: type = transformers.LlamaConfig, **more: Any) -> Any:
    # Random weights of a usual scale make nearly equal logits, in which a mistake would not show.
    return kind(
        **{
            **TINY, "vocab_size": len(words()), "num_key_value_heads": 1, "pad_token_id": 0, "eos_token_id": 1,
            "bos_token_id": None, "initializer_range": 0.2, "max_position_embeddings": 512, **more,
        }
    )  # fmt: skip


def llama(folder: Path, **text: Any) -> Path:
    """A language model that reads text alone.

    Args:
        folder: where it goes, with its tokenizer.
        **text: fields of the language model's configuration; the others make it tiny.
    """
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(_text(**text)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def llava(folder: Path, **text: Any) -> Path:
    """A model of pictures and text, with a CLIP tower; arguments as for ``llama``."""
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(**TINY, image_size=32, patch_size=8, initializer_range=0.2)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=_text(**text), image_token_index=3, vision_feature_layer=-1
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.LlavaProcessor(
        images, tokenizer(), patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def qwen2_audio(folder: Path, seconds: int = 30, **text: Any) -> Path:
    """A model of sounds and text, with an encoder like Whisper's.

    Args:
        folder, **text: as for ``llama``.
        seconds: what the encoder reads at once; shorter sounds are padded to it.
    """
    torch.manual_seed(0)
    audio = transformers.Qwen2AudioEncoderConfig(
        d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64, max_source_positions=50 * seconds,
        num_mel_bins=16, init_std=0.2,
    )  # fmt: skip
    config = transformers.Qwen2AudioConfig(
        audio_config=audio, text_config=_text(transformers.Qwen2Config, **text), audio_token_index=4
    )
    transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    features = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=seconds)
    transformers.Qwen2AudioProcessor(features, tokenizer(), chat_template=TEMPLATE).save_pretrained(folder)
    return folder


class PatchProcessor(transformers.ProcessorMixin):
    """Qwen2-VL's processor without its part for videos, which needs torchvision."""

    attributes = ("image_processor", "tokenizer")
    image_processor_class, tokenizer_class = "Qwen2VLImageProcessorPil", "PreTrainedTokenizerFast"
    image_token = "<image>"

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, text: list[str], images: list[Any], padding: bool, return_tensors: str) -> dict[str, Any]:
        seen = self.image_processor(images=images, return_tensors=return_tensors)
        patches = int(seen["image_grid_thw"][0].prod()) // self.image_processor.merge_size**2
        wide = [t.replace(self.image_token, " ".join([self.image_token] * patches)) for t in text]
        told = self.tokenizer(wide, padding=padding, return_tensors=return_tensors)
        return {**told, **seen, "mm_token_type_ids": (told["input_ids"] == 3).int()}


def qwen2_vl() -> tuple[transformers.Qwen2VLForConditionalGeneration, PatchProcessor]:
    """A model of pictures and text whose positions have a time, a row and a column."""
    torch.manual_seed(0)
    vision = {
        "depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.2,
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    text = _text(transformers.Qwen2VLTextConfig, rope_parameters=rope).to_dict()
    places = {"image_token_id": 3, "video_token_id": 8, "vision_start_token_id": 7, "vision_end_token_id": 9}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **places)
    side = {"shortest_edge": 48 * 48, "longest_edge": 48 * 48}
    images = transformers.Qwen2VLImageProcessorPil(size=side, patch_size=8, merge_size=2, temporal_patch_size=2)
    template = TEMPLATE.replace("<image>", "<|vision|> <image>")
    return transformers.Qwen2VLForConditionalGeneration(config).eval(), PatchProcessor(images, tokenizer(), template)


KINDS = {"llama": llama, "llava": llava, "qwen2-audio": qwen2_audio}
