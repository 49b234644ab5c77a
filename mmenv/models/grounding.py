"""Grounding: what words and image tokens tell each other by their cosines, before the decoder's first block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNRELATED = 0.2  # least cosine of an image token and a word that is about it
MATCH_GAIN = 4.0  # what is left of such a cosine, about 0.25, is brought to about 1
GATE_GAIN, GATE_BIAS = 8.0, 2.0


class Grounding(nn.Module):
    """Late interaction of words and image tokens, as in FILIP (Yao et al. 2022), as input of a decoder.

    A word gets what the image tokens that it names hold, its best match, and the sum of its matches, by which it can
    count. An image token of the context gets how well the prompt names it. In a response each position also gets what
    its words have not named yet: the coverage of See et al. (2017), so that a list names all things, and each once.

    Args:
        width: size of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mention, self.tally = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.salience, self.naming = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.fetch, self.rest = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        for vector in (self.mention, self.tally):
            nn.init.normal_(vector, std=width**-0.5)
        for linear in (self.fetch, self.rest):
            nn.init.eye_(linear.weight)

    @staticmethod
    def match(words: Tensor, image: Tensor) -> Tensor:
        """Words (B, T, width) and image tokens (B, N, width) -> (B, T, N): 0 where they have nothing to do."""
        return MATCH_GAIN * F.relu(words @ image.transpose(1, 2) - UNRELATED).float()

    def of_words(self, match: Tensor, image: Tensor) -> Tensor:
        """What words with these matches (B, T, N) get, (B, T, width)."""
        total = match.sum(2, keepdim=True)
        named = self.fetch(match @ image / (1 + total))
        return named + total * self.tally + match.amax(2, keepdim=True) * self.mention

    def of_image(self, match: Tensor) -> Tensor:
        """What image tokens get from a prompt with these matches (B, T, N), (B, N, width)."""
        return match.sum(1)[..., None] * self.mention

    def cover(self, words: Tensor, match: Tensor) -> Tensor:
        """How far words (B, T, width) with matches (B, T, N) name image tokens: a name does, a colour does not."""
        return match * torch.sigmoid(GATE_GAIN * (words @ self.naming) + GATE_BIAS).float()[..., None]

    def unsaid(self, covered: Tensor, image: Tensor) -> Tensor:
        """What the image holds besides what a response has named.

        Args:
            covered: (B, T, N) sum of ``cover`` of all words up to each position.
            image: (B, N, width)

        Returns:
            (B, T, width)
        """
        salient = torch.sigmoid(GATE_GAIN * (image @ self.salience) + GATE_BIAS)  # (B, N)
        weights = torch.exp(-covered) * salient[:, None]  # (B, T, N)
        return self.rest(weights @ image / (1 + weights.sum(2, keepdim=True)))  # no louder than a word
