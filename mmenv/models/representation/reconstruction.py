"""Reconstruction: patches, tenths of a second and words are masked, and predicted from the fusion of the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmenv.models.encoders import AudioEncoder
from mmenv.models.representation.fusion import CrossAttention, Tokens
from mmenv.models.representation.pairings import Examples
from mmenv.worlds.vocabulary import world_tokenizer

SIDE, PATCH, FRAMES, WORDS = 96, 16, 10, 48  # pixels, pixels, log-mel frames a window, words
WINDOW = AudioEncoder.stride


def hide(
    examples: Examples, share: float, rng: np.random.Generator, mask_word: str
) -> tuple[Examples, dict[str, Tensor]]:
    """Examples with a share of patches, windows and words hidden.

    Args:
        examples: without masks.
        share: of places that are masked.
        rng: source of randomness.
        mask_word: stands for a hidden word.

    Returns:
        the rest, and for each modality what is hidden: bool (n, patches), (n, windows), (n, words).
    """
    n, hidden, parts = len(examples), {}, {}
    if examples.image is not None:
        grid = SIDE // PATCH
        hidden["image"] = torch.from_numpy(rng.random((n, grid * grid)) < share)
        cover = hidden["image"].view(n, 1, grid, grid).float()
        cover = F.interpolate(cover, tuple(examples.image.shape[1:3]))[:, 0, :, :, None] > 0
        parts["image"] = examples.image.masked_fill(cover, 128)
    if examples.audio is not None:
        hidden["audio"] = torch.from_numpy(rng.random((n, examples.audio.shape[1] // WINDOW)) < share)
        keep = (~hidden["audio"]).float().repeat_interleave(WINDOW, 1)
        # Faint, not silent: the encoder takes zeros for padding, and masked audio is no padding.
        parts["audio"] = (examples.audio[:, : keep.shape[1]] * keep) + 1e-5 * (1 - keep) * (examples.audio != 0)
    if examples.text is not None:
        hidden["text"] = torch.from_numpy(rng.random((n, WORDS)) < share)
        parts["text"] = [  # type: ignore[assignment]
            " ".join(mask_word if gone else word for word, gone in zip(text.split(), row))
            for text, row in zip(examples.text, hidden["text"].tolist())
        ]
    return dataclasses.replace(examples, **parts), hidden  # type: ignore[arg-type]


def targets_of(modality: str, inputs: Tensor | Sequence[str], log_mel: nn.Module) -> Tensor:
    """What is to be predicted: pixels (n, patches, 3 * PATCH**2), log-mel (n, windows, 10 * bands), ids (n, words)."""
    if modality == "text":
        ids = torch.zeros(len(inputs), WORDS, dtype=torch.long)
        for i, text in enumerate(inputs):
            row = world_tokenizer().encode(str(text))[:WORDS]
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        return ids
    assert isinstance(inputs, Tensor)
    if modality == "image":
        x = F.adaptive_avg_pool2d(inputs.permute(0, 3, 1, 2).float() / 127.5 - 1.0, SIDE)
        return F.unfold(x, PATCH, stride=PATCH).transpose(1, 2)
    assert isinstance(log_mel, AudioEncoder)
    mel = log_mel.log_mel(inputs).transpose(1, 2)  # (n, frames, bands)
    return mel.reshape(len(mel), -1, FRAMES * mel.shape[2])


class Reconstruction(nn.Module):
    """Learned queries for each place attend to the fused tokens; a linear layer predicts what was masked.

    Args:
        modalities: those to reconstruct.
        width: size of a token.
        heads: attention heads.
        windows: most tenths of a second.
    """

    def __init__(self, modalities: Sequence[str], width: int, heads: int, windows: int = 40) -> None:
        super().__init__()
        places = {"image": (SIDE // PATCH) ** 2, "audio": windows, "text": WORDS}
        sizes = {"image": 3 * PATCH**2, "audio": FRAMES * AudioEncoder.bands, "text": world_tokenizer().vocab_size}
        self.queries = nn.ParameterDict({m: nn.Parameter(0.1 * torch.randn(places[m], width)) for m in modalities})
        self.readers = nn.ModuleDict({m: CrossAttention(width, heads) for m in modalities})
        self.outs = nn.ModuleDict({m: nn.Linear(width, sizes[m]) for m in modalities})
        self.mel = AudioEncoder(8).requires_grad_(False)  # for its log-mel features alone

    def forward(self, fused: Tokens, full: Examples, hidden: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss of each modality on its masked places: mean squared error, or cross-entropy of words."""
        losses = {}
        for modality, inputs in full.inputs().items():
            goal = targets_of(modality, inputs, self.mel).to(fused.states.device)
            queries = self.queries[modality][: goal.shape[1]]
            predicted = self.outs[modality](self.readers[modality](queries.expand(len(goal), -1, -1), fused))
            scored = (hidden[modality][:, : goal.shape[1]] & full.has(modality)[:, None]).to(goal.device)
            if modality == "text":
                scored = scored & (goal != world_tokenizer().pad_id)
            if scored.any():
                loss = F.cross_entropy if modality == "text" else F.mse_loss
                losses[modality] = loss(predicted[scored], goal[scored])
        return losses
