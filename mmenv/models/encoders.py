"""Media encoders: pixels and waveforms to a few tokens as wide as word embeddings."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Log-mel features: energies below the first count as silence, and the second brings speech to about [-1, 1].
QUIET, LOG_SHIFT = 1e-4, 4.0


class ImageEncoder(nn.Module):
    """A convolutional stem that reads a square image as a grid of ``grid x grid`` tokens.

    The 3 x 3 layer before the last lets a token see its neighbours, where much of a large thing lies. A vector for each
    place of the grid is added before the last layer, so that a token can say where in the image its thing is.

    Args:
        width: size of a token.
        side: pixels a side that the stem reads, ``grid * 16``; images of another side are resized by averaging areas.
        grid: tokens a side.
    """

    def __init__(self, width: int, side: int = 96, grid: int = 6) -> None:
        super().__init__()
        self.side, self.tokens = side, grid * grid
        last = side // (8 * grid)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.GELU(),
            nn.Conv2d(32, 64, 4, 2, 1), nn.GELU(),
            nn.Conv2d(64, 128, 4, 2, 1), nn.GELU(),
            nn.Conv2d(128, 192, 3, 1, 1), nn.GELU(),
            nn.Conv2d(192, 256, last + 2, last, 1), nn.GELU(),
        )  # fmt: skip
        self.place = nn.Parameter(torch.zeros(self.tokens, 256))
        self.hidden, self.out = nn.Linear(256, 256), nn.Linear(256, width)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> (B, grid * grid, width)."""
        x = image.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        if x.shape[-1] != self.side:
            x = F.adaptive_avg_pool2d(x, self.side)
        x = self.stem(x).flatten(2).transpose(1, 2)  # (B, grid * grid, 256)
        return self.out(F.gelu(self.hidden(x) + self.place))


@functools.cache
def mel_filters(bands: int, window: int, rate: int = 16_000) -> Tensor:
    """Triangular filters on the mel scale of O'Shaughnessy (1987), (window // 2 + 1, bands)."""
    mel = torch.linspace(2595 * math.log10(1 + 60 / 700), 2595 * math.log10(1 + 7600 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.linspace(0, rate / 2, window // 2 + 1)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rise, fall).clamp(min=0)


@functools.cache
def fourier(window: int) -> Tensor:
    """Cosines and sines under a Hann window, (window, 2 * (window // 2 + 1)): a short transform as one product."""
    t = torch.arange(window)[:, None] * torch.arange(window // 2 + 1) * (2 * math.pi / window)
    return torch.hann_window(window)[:, None] * torch.cat([t.cos(), t.sin()], 1)


class AudioEncoder(nn.Module):
    """Log-mel features and a convolutional stem: one token for every 0.1 s.

    Args:
        width: size of a token.
    """

    hop, window, stride, bands = 160, 256, 1600, 40

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(self.bands, 96, 5, 2, 2), nn.GELU(),
            nn.Conv1d(96, 128, 5, 1, 2), nn.GELU(),
            nn.Conv1d(128, 192, 5, 5), nn.GELU(),
            nn.Conv1d(192, 192, 5, 1, 2), nn.GELU(),
            nn.Conv1d(192, 256, 5, 1, 2), nn.GELU(),
        )  # fmt: skip
        self.out = nn.Linear(256, width)

    def log_mel(self, audio: Tensor) -> Tensor:
        """float32 (B, T) -> (B, 40, frames), ten frames a token."""
        frames = audio.shape[1] // self.stride * self.stride // self.hop
        audio = F.pad(audio, (0, self.window))
        windows = audio.unfold(1, self.window, self.hop)[:, :frames]  # (B, frames, window)
        waves = windows @ fourier(self.window).to(audio.device)
        half = self.window // 2 + 1
        power = waves[..., :half].square() + waves[..., half:].square()
        mel = (power @ mel_filters(self.bands, self.window).to(audio.device)).transpose(1, 2)
        return (mel.clamp(min=QUIET).log() + LOG_SHIFT) / LOG_SHIFT

    def forward(self, audio: Tensor) -> Tensor:
        """float32 (B, T) -> (B, T // 1600, width)."""
        return self.out(self.stem(self.log_mel(audio)).transpose(1, 2))


class PatchStem(nn.Module):
    """Square patches of an image, each through one linear layer, as in ViT (Dosovitskiy et al. 2021).

    Args:
        width: size of a token.
        side: pixels a side; other images are resized to it by averaging areas.
        patch: pixels a side of a patch; divides ``side``.
    """

    def __init__(self, width: int, side: int = 96, patch: int = 16) -> None:
        super().__init__()
        if side % patch:
            raise ValueError(f"patch={patch} does not divide side={side}: take one that does")
        self.side, self.patch, self.tokens = side, patch, (side // patch) ** 2
        self.out = nn.Linear(3 * patch * patch, width)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> (B, (side / patch)**2, width)."""
        x = image.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        if x.shape[-1] != self.side:
            x = F.adaptive_avg_pool2d(x, self.side)
        return self.out(F.unfold(x, self.patch, stride=self.patch).transpose(1, 2))
