"""Vision for a language model that reads only text: an aligned image encoder and a projector into its embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenv.models.checkpoints import WeightsError, load_pretrained
from mmenv.models.representation.word_alignment import SCALE
from mmenv.tokenizer import HFTokenizer
from mmenv.worlds.vocabulary import world_tokenizer


class Vision(nn.Module):
    """The image encoder of one of our networks, frozen, and a projector into a language model's embeddings.

    The encoder is aligned with words that the language model has too. So the projector begins as a dictionary: the
    softmax of an image token's cosines with all words weights the language model's embeddings of those words, at
    the temperature at which the encoder was aligned. Both tables learn.

    Args:
        name: the network that has the encoder, shipped or a path; its words are those of the scene world.
        embed: the language model's embeddings.
        tokenizer: the language model's.

    Raises:
        WeightsError: the network has no image encoder, or another vocabulary.
    """

    def __init__(self, name: str, embed: nn.Embedding, tokenizer: HFTokenizer) -> None:
        super().__init__()
        network, world = load_pretrained(name), world_tokenizer()
        if "image" not in network.encoders or network.config.vocab_size != world.vocab_size:
            raise WeightsError(
                f"image_encoder={name!r} has no image encoder, or other words than the scene world: take encoders"
            )
        self.encoder = network.encoders["image"].requires_grad_(False).eval()
        cosines = nn.Linear(network.config.width, world.vocab_size, bias=False)
        embeddings = nn.Linear(world.vocab_size, embed.embedding_dim, bias=False)
        cosines.weight.data = SCALE * F.normalize(network.embed.weight.detach(), dim=-1)
        ids = [torch.tensor(tokenizer.encode(f" {word}")) for word in world.words]
        embeddings.weight.data = torch.stack([embed.weight.detach()[i].mean(0).float() for i in ids], 1).contiguous()
        self.projector = nn.Sequential(cosines, nn.Softmax(-1), embeddings)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images uint8 (B, H, W, 3) -> image tokens (B, M, width of the encoder), row by row."""
        return F.normalize(self.encoder(images), dim=-1)

    def forward(self, cells: Tensor) -> Tensor:
        """Image tokens (B, M, width of the encoder) -> embeddings (B, M, width of the language model)."""
        embeddings: Tensor = self.projector(cells)
        return embeddings
