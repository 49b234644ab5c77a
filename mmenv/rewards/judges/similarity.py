"""The similarity of response and image in the embedding space of a model like CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmenv.data.sample import Response, Sample, distinct_contexts
from mmenv.literal import LiteralEncoder
from mmenv.rewards.judges.model_reward import ModelReward

MODELS = ("clip", "siglip", "siglip2")


class SimilarityReward(ModelReward):
    """Cosine similarity of image and response, in [-1, 1], in the embeddings of CLIP (2021) or SigLIP (2023).

    A reward for captions: the prompt is not read. Texts longer than the model's context are cut.

    Args:
        model: a ``CLIPModel``, a ``SiglipModel``, or another with ``image_embeds`` and ``text_embeds``.
        reader: its processor.
        name: name of the reward in ``info``.
        scale: multiplies the cosine; CLIP's cosines differ little between responses.
    """

    def __init__(self, model: Any, reader: Any, name: str = "similarity", scale: float = 1.0) -> None:
        super().__init__(model, name)
        self.reader = reader
        self.scale = scale
        self.literal = LiteralEncoder(reader.tokenizer)
        # The text towers were trained on rows of this width; with it a score never depends on other rows' lengths.
        self.longest = int(model.config.text_config.max_position_embeddings)

    def score_batch(self, samples: Sequence[Sample], responses: Sequence[Response]) -> Tensor:
        """Cosines times ``scale``, float32 (n,).

        Raises:
            ValueError: a sample has no image.
        """
        without_image = [s.id for s in samples if s.image is None]
        if without_image:
            raise ValueError(f"sample {without_image[0]!r} has no image to compare with: use a reward that reads text")
        firsts, contexts = distinct_contexts([Sample(s.id, s.index, "", s.image) for s in samples])
        ids = [self.literal.encode_cut(self.longest, r.text).ids for r in responses]
        padded = {"padding": "max_length", "max_length": self.longest, "return_tensors": "pt"}
        words = self.reader.tokenizer.pad({"input_ids": ids}, **padded)
        pixels = self.reader(images=[samples[i].image for i in firsts], return_tensors="pt")
        out = self.model(**words, **pixels)
        pictures, texts = (x / x.norm(dim=-1, keepdim=True) for x in (out.image_embeds, out.text_embeds))
        return (self.scale * (pictures[torch.from_numpy(contexts)] * texts).sum(-1)).float()
