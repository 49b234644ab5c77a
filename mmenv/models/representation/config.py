"""The one home of every default of representation learning: a frozen dataclass that the command line is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MODALITIES = ("image", "audio", "text")
NONE = "none"


def _option(default: Any, text: str, *choices: str) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices or None})


@dataclass(frozen=True)
class AlignConfig:
    """Encoders f_m, fusion g, projection h, and how they are trained."""

    strategy: str = _option("separate", "one transformer for all modalities, or one each", "shared", "separate")
    fusion: str = _option("concat", "how modalities are joined", "concat", "gated", "cross")
    loss: str = _option("infonce", "what is learned from", "infonce", "sigmoid", "reconstruction")
    reconstruction_weight: float = _option(0.0, "above 0 adds this much reconstruction to a contrastive loss")
    matching_weight: float = _option(1.0, "weight of telling a caption from its hard negative after fusion")
    image: str = _option("conv", "conv, patch, none, or the path of a transformers vision model")
    audio: str = _option(NONE, "none, logmel, or the path of a transformers audio model")
    text: str = _option("transformer", "transformer, or the path of a transformers text model")
    frozen: bool = _option(False, "keep the weights of transformers models as they are")
    interaction: str = _option("late", "compare token by token, or one vector each", "late", "global")
    width: int = _option(128, "size of a token")
    layers: int = _option(2, "blocks of a transformer")
    heads: int = _option(4, "attention heads")
    dim: int = _option(64, "size of the shared space")
    steps: int = _option(700, "gradient steps")
    warm_up: float = _option(0.5, "share of the steps in which a contrastive loss learns things one by one")
    batch: int = _option(64, "scenes of a step")
    lr: float = _option(2e-3, "peak learning rate; models by path learn at a tenth of it")
    mask_share: float = _option(0.4, "share of patches, frames and words that reconstruction hides")
    missing: float = _option(0.0, "share of scenes that come without their image, and of those without their audio")
    probe_scenes: int = _option(3000, "scenes that the linear probes learn from")
    seed: int = _option(0, "seed of everything random")

    def __post_init__(self) -> None:
        for name, option in self.__dataclass_fields__.items():
            value, choices = getattr(self, name), option.metadata["choices"]
            if choices and value not in choices:
                raise ValueError(f"{name}={value!r} is none of {', '.join(choices)}")
        for name in ("steps", "width", "layers", "heads", "dim", "probe_scenes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.batch < 2:
            raise ValueError(f"batch={self.batch} gives nothing to tell apart: take at least 2")
        for name in ("warm_up", "mask_share", "missing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a share: take a number from 0 to 1")
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}: take a number that does")
        if self.image == NONE and self.audio == NONE:
            raise ValueError("text alone cannot be aligned: give an image or an audio encoder")

    @property
    def encoders(self) -> dict[str, str]:
        """Modality -> its encoder, without the modalities that are left out."""
        return {m: str(getattr(self, m)) for m in MODALITIES if getattr(self, m) != NONE}
