"""How a model of transformers is loaded, and which of its weights learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class HFConfig:
    """How a model of transformers is loaded and which of its weights learn; plain values, stored as JSON.

    Attributes:
        kind: what a file of its trained state holds, in the file's metadata.
        path: folder that ``save_pretrained`` wrote.
        lora_rank: rank of the adapters (Hu et al. 2022) in every linear layer of the language model; the reference is
            the model without them. 0: all weights of the language model learn, and the reference is a copy.
        dtype: of the weights that do not learn.
        gradient_checkpointing: recompute activations in the backward pass, which saves memory.
        image_encoder: for a model that reads only text: the network (name or path) whose image encoder it gets,
            through a projector that learns.
        seed: of the adapters' initial weights.
        vocab_size, pad_id, max_response: as ``protocol.Shape`` has them; filled in from the model.
    """

    kind: ClassVar[str] = "what a transformers model learned"

    path: str
    lora_rank: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    image_encoder: str | None = None
    seed: int = 0
    vocab_size: int = 0
    pad_id: int = 0
    max_response: int = 0
