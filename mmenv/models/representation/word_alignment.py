"""Alignment of encoders with word embeddings: the token of a cell or a spoken word moves to the word that names it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenv.models.transformer import Network
from mmenv.worlds.grid import categories, concepts, draw_scene, generator, paint, world_tokenizer
from mmenv.worlds.grid_speech import clips, speak_aligned


def word_vectors(width: int, seed: int = 0) -> Tensor:
    """Initial word embeddings, (vocabulary, width) of length 1: a concept is close to the word of its category.

    The categories are those of Unicode CLDR; plurals lie close to their singular.
    """
    tokenizer, rng = world_tokenizer(), torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(tokenizer.vocab_size, width, generator=rng), dim=-1)
    index = {word: i for i, word in enumerate(tokenizer.words)}
    for concept in concepts():
        vectors[index[concept.name]] += 0.7 * vectors[index[concept.category]]
    for singular, plural in categories().items():
        vectors[index[plural]] = 0.5 * vectors[index[plural]] + vectors[index[singular]]
    return F.normalize(vectors, dim=-1)


def alignment_loss(media: Tensor, words: Tensor, targets: Tensor, scale: float = 16.0) -> Tensor:
    """InfoNCE on cosines over the whole vocabulary, and the distance to the right word itself.

    The first term alone separates words without bringing tokens close to them (docs/learning.md).

    Args:
        media: (B, M, width)
        words: (V, width), of length 1.
        targets: (B, M) the word that each token shows
        scale: inverse temperature of the cosines
    """
    cosines = (F.normalize(media, dim=-1) @ words.T).flatten(0, 1)  # (B * M, V)
    right = cosines.gather(1, targets.reshape(-1, 1))
    return F.cross_entropy(scale * cosines, targets.flatten()) + (1 - right).mean()


def image_batch(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Crowded scenes (n, 48, 48, 3) and the word in each of their nine cells (n, 9)."""
    tokenizer = world_tokenizer()
    nothing = tokenizer.encode("nothing")[0]
    images = np.empty((n, 48, 48, 3), np.uint8)
    targets = np.full((n, 9), nothing)
    for i in range(n):
        scene = draw_scene(rng, (4, 8))
        images[i] = paint(scene)
        for thing in scene.things:
            targets[i, 3 * thing.row + thing.column] = tokenizer.encode(thing.name)[0]
    return torch.from_numpy(images), torch.from_numpy(targets)


def audio_batch(rng: np.random.Generator, n: int, longest: int) -> tuple[Tensor, Tensor]:
    """Random spoken words (n, longest) and the word in the middle of each tenth of a second (n, longest / 1600)."""
    tokenizer = world_tokenizer()
    recorded = sorted(clips("slt"))
    audio = np.zeros((n, longest), np.float32)
    targets = np.full((n, longest // 1600), tokenizer.encode("nothing")[0])
    middles = np.arange(longest // 1600) * 1600 + 800
    for i in range(n):
        words = [recorded[int(k)] for k in rng.integers(len(recorded), size=int(rng.integers(3, 8)))]
        wave, spans = speak_aligned(" ".join(words), rng, longest)
        audio[i, : len(wave)] = wave
        for word, (start, end) in zip(words, spans, strict=True):
            targets[i, (middles >= start) & (middles < end)] = tokenizer.encode(word)[0]
    return torch.from_numpy(audio), torch.from_numpy(targets)


def align_words(
    network: Network, modality: str, steps: int, seed: int = 0, batch: int = 128, longest: int = 40_000
) -> Iterator[tuple[int, float, float]]:
    """Train the encoder of ``modality`` against the network's own, fixed word embeddings.

    Yields:
        (step, loss, accuracy) of each step.
    """
    rng = generator(7, seed, len(modality))
    encoder, words = network.encoders[modality], F.normalize(network.embed.weight.detach(), dim=-1)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        x, targets = image_batch(rng, batch) if modality == "image" else audio_batch(rng, batch, longest)
        tokens = encoder(x)
        loss = alignment_loss(tokens, words, targets)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        right = (F.normalize(tokens.detach(), dim=-1) @ words.T).argmax(-1) == targets
        nothing = world_tokenizer().encode("nothing")[0]
        yield step, loss.item(), right[targets != nothing].float().mean().item()
