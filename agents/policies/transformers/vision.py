"""Eyes for a language model that reads text alone: an aligned image encoder, and a projector into its embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenv.models.checkpoints import WeightsError, load_pretrained
from mmenv.tokenizer import HFTokenizer
from mmenv.worlds.scenes import world_tokenizer


class Eyes(nn.Module):
    """The image encoder of one of our networks, and a projector into the embeddings of a language model.

    The encoder is aligned with words that the language model knows too. So the projector begins as a dictionary: how
    much a cell looks like each word, softly, and the words' embeddings weighted by that. Both tables learn.

    Args:
        name: of the network, shipped or a path; its words are those of the embedded world.
        embed: the language model's embeddings.
        tokenizer: its tokens.

    Raises:
        WeightsError: the network has no image encoder, or other words.
    """

    SHARPNESS = 16.0  # of the cosines, as the encoder was aligned (mmenv.models.representation.word_alignment)

    def __init__(self, name: str, embed: nn.Embedding, tokenizer: HFTokenizer) -> None:
        super().__init__()
        network, known = load_pretrained(name), world_tokenizer()
        if "image" not in network.encoders or network.config.vocab_size != known.vocab_size:
            raise WeightsError(f"image_encoder={name!r} has no eyes, or other words than the world's: take base")
        self.encoder = network.encoders["image"].requires_grad_(False).eval()
        like = nn.Linear(network.config.width, known.vocab_size, bias=False)
        means = nn.Linear(known.vocab_size, embed.embedding_dim, bias=False)
        like.weight.data = self.SHARPNESS * F.normalize(network.embed.weight.detach(), dim=-1)
        ids = [torch.tensor(tokenizer.encode(f" {word}")) for word in known.words]
        means.weight.data = torch.stack([embed.weight.detach()[i].mean(0).float() for i in ids], 1).contiguous()
        self.projector = nn.Sequential(like, nn.Softmax(-1), means)

    @torch.no_grad()
    def look(self, images: Tensor) -> Tensor:
        """Images uint8 (B, H, W, 3) -> cells (B, M, width of the encoder), row by row."""
        return F.normalize(self.encoder(images), dim=-1)

    def forward(self, cells: Tensor) -> Tensor:
        """(B, M, width of the encoder) -> (B, M, width of the language model)"""
        return self.projector(cells)
