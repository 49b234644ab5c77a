"""Settings of representation learning and their defaults; the command line is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

MODALITIES = ("image", "audio", "text")
NONE = "none"


@dataclass(frozen=True)
class AlignConfig:
    """Encoders f_m, fusion g, projection h, and how they are trained.

    Attributes:
        strategy: one transformer for all modalities, or one each.
        fusion: how modalities are joined.
        loss: objective: contrastive (infonce, sigmoid) or reconstruction of masked inputs.
        reconstruction_weight: weight of a reconstruction loss that is added to a contrastive one.
        matching_weight: weight of telling a caption from its hard negative after fusion.
        image: conv, patch, none, or the path of a transformers vision model.
        audio: none, logmel, or the path of a transformers audio model.
        text: transformer, or the path of a transformers text model.
        frozen: do not train the weights of transformers models.
        interaction: compare token by token, or one vector each.
        width: size of a token.
        layers: blocks of a transformer.
        heads: attention heads.
        dim: size of the shared space.
        steps: gradient steps.
        warm_up: share of the steps in which a contrastive loss sees scenes of one thing.
        batch: scenes of a step.
        lr: peak learning rate; models by path learn at a tenth of it.
        mask_share: share of patches, frames and words that reconstruction hides.
        missing: share of scenes without their image, and share of scenes without their audio.
        probe_scenes: scenes that the linear probes are fitted to.
        seed: seed of everything random.

    Raises:
        ValueError: names the field, its value and the remedy.
    """

    strategy: Literal["shared", "separate"] = "separate"
    fusion: Literal["concat", "gated", "cross"] = "concat"
    loss: Literal["infonce", "sigmoid", "reconstruction"] = "infonce"
    reconstruction_weight: float = 0.0
    matching_weight: float = 1.0
    image: str = "conv"
    audio: str = NONE
    text: str = "transformer"
    frozen: bool = False
    interaction: Literal["late", "global"] = "late"
    width: int = 128
    layers: int = 2
    heads: int = 4
    dim: int = 64
    steps: int = 700
    warm_up: float = 0.5
    batch: int = 64
    lr: float = 2e-3
    mask_share: float = 0.4
    missing: float = 0.0
    probe_scenes: int = 3000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(AlignConfig).items():
            value, choices = getattr(self, name), get_args(kind)
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
