"""How near a response is to the picture in the space of a model like CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmenv.data.sample import Response, Sample, distinct_contexts
from mmenv.literal import LiteralEncoder

MODELS = ("clip", "siglip", "siglip2")
BATCH = 32


class SimilarityReward:
    """Cosine of picture and response, in [-1, 1], as CLIP (2021) and SigLIP (2023) embed them.

    The prompt is not read: it is a reward of captions. A longer text than the model reads is cut.

    Args:
        model: a ``CLIPModel``, ``SiglipModel`` or another that embeds both alike.
        reader: its processor.
        name: name of the reward in ``info``.
        scale: scores are so many times the cosine; cosines of CLIP differ little between responses.
    """

    def __init__(self, model: Any, reader: Any, name: str = "similarity", scale: float = 1.0) -> None:
        self.model, self.reader = model.eval().requires_grad_(False), reader
        self.name, self.scale = name, scale
        self.literal = LiteralEncoder(reader.tokenizer)
        # Their text towers were trained on rows of one width; a row then never depends on its neighbours' lengths.
        self.longest = int(model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Cosines times ``scale``, float32 (n,).

        Raises:
            ValueError: a sample has no image.
        """
        blind = [s.id for s in samples if s.image is None]
        if blind:
            raise ValueError(f"{blind[0]!r} has no image to compare with: take a reward that reads text")
        cuts = [slice(i, i + BATCH) for i in range(0, len(samples), BATCH)]
        return np.concatenate([self._cosines(samples[c], responses[c]) for c in cuts])

    def _cosines(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        firsts, contexts = distinct_contexts([Sample(s.id, s.index, "", s.image) for s in samples])
        ids = [self.literal.encode_cut(self.longest, r.text).ids for r in responses]
        padded = {"padding": "max_length", "max_length": self.longest, "return_tensors": "pt"}
        words = self.reader.tokenizer.pad({"input_ids": ids}, **padded)
        seen = self.reader(images=[samples[i].image for i in firsts], return_tensors="pt")
        out = self.model(**words, **seen)
        pictures, texts = (x / x.norm(dim=-1, keepdim=True) for x in (out.image_embeds, out.text_embeds))
        return (self.scale * (pictures[torch.from_numpy(contexts)] * texts).sum(-1)).float().numpy()
