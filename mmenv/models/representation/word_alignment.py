"""Alignment of encoders with word embeddings: a token moves to the words that name what it holds.

An image token is near the words of the thing whose centre it holds: its name, its plate's colour, its mark and its
size, and tells the exact place of that centre. An audio token is near the word that is spoken at its time.
"""

from __future__ import annotations

import functools
import random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mmenv.models.transformer import Network
from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.layout import WIDTH
from mmenv.worlds.painter import paint
from mmenv.worlds.scenes import draw_scene, seed_of
from mmenv.worlds.speech import VOICES, recorded_words, speak_aligned
from mmenv.worlds.things import COLOURS, DIGITS, LETTERS, SIZES, categories, concepts, mark_word
from mmenv.worlds.vocabulary import world_tokenizer

NOTHING = "nothing"  # what a token without a thing, and a pause, are near to
THINGS = (4, 12)  # of a picture: crowded, so that many tokens are taught
PLACE_WAVES = (1, 2, 3, 4)  # waves a double width of the picture
# Thirds of the picture that a word tells, along x and y; None: it does not tell that axis.
PARTS = {"left": (0, None), "right": (2, None), "top": (None, 0), "bottom": (None, 2), "middle": (1, 1)}
PART_SHARE = 0.8  # of a such a word's embedding that tells it; with the rest words such as "left of" are told apart
PLACE_LENGTH = 0.45  # of the part of an image token that says where its thing is
SCALE = 20.0  # inverse temperature of cosines
ABSENT = 0.15  # greatest cosine of an image token and a word that is not about it
NONE_LOGIT = 0.2 * SCALE  # of "no plate" and "no mark"
WORDS_SPOKEN = (3, 9)  # least and greatest number of words of an utterance


# Word embeddings.


def _unit(*key: str | int, width: int) -> Tensor:
    """A random vector of length about 1 that depends on the key alone."""
    rng = torch.Generator().manual_seed(seed_of("word", *key) >> 1)
    return torch.randn(width, generator=rng) / width**0.5


def place_basis(width: int, seed: int = 0) -> Tensor:
    """Orthonormal rows, (4 * len(PLACE_WAVES), width): the part of an image token that says where its thing is."""
    rows = torch.stack([_unit("place", seed, i, width=width) for i in range(4 * len(PLACE_WAVES))])
    return torch.linalg.qr(rows.T)[0].T


def word_vectors(width: int, seed: int = 0) -> Tensor:
    """Initial word embeddings, (vocabulary, width) of length 1.

    A concept lies close to the word of its category, a plural close to its singular, a number to its neighbours. The
    words of ``PARTS`` lie in the direction that ``place_code`` has there, the others at right angles to
    ``place_basis``. A word's vector does not depend on the other words of the vocabulary.
    """
    words = world_tokenizer().words
    vectors = {word: _unit(seed, word, width=width) for word in words}
    for concept in concepts():
        vectors[concept.name] = vectors[concept.name] + 0.85 * vectors[concept.category]
    for singular, plural in [*((c.name, c.plural) for c in concepts()), *categories().items()]:
        vectors[plural] = 0.5 * vectors[plural] + vectors[singular]
    for value, word in enumerate(NUMBER_WORDS):
        for wave, period in enumerate((15, 45)):
            angle = torch.tensor(2 * torch.pi * value / period)
            sine, cosine = (_unit("number", seed, wave, i, width=width) for i in range(2))
            vectors[word] = vectors[word] + 0.6 * (sine * angle.sin() + cosine * angle.cos())
    table = torch.stack([vectors[word] for word in words])
    basis = place_basis(width, seed)
    table = F.normalize(table - table @ basis.T @ basis, dim=-1)
    parts = [words.index(part) for part in PARTS]
    table[parts] = (1 - PART_SHARE**2) ** 0.5 * table[parts] + PART_SHARE * _part_codes() @ basis
    return table


def _part_codes() -> Tensor:
    """Mean ``place_code`` of each part of the picture in ``PARTS``, of length 1, without the axis it does not tell."""
    codes = []
    for axes in PARTS.values():
        thirds = [0 if third is None else third for third in axes]
        line = torch.arange(WIDTH // 3)
        code = place_code(torch.stack([line + third * WIDTH // 3 for third in thirds], 1)).mean(0).view(2, -1)
        told = torch.tensor([[0.0 if third is None else 1.0] for third in axes])
        codes.append(F.normalize((code * told).flatten(), dim=0))
    return torch.stack(codes)


def place_code(centres: Tensor) -> Tensor:
    """Centres in pixels (n, 2) -> sines and cosines (n, 4 * len(PLACE_WAVES)) of length ``PLACE_LENGTH``.

    The product of two codes is a smooth function of the way from one centre to the other, which attention can learn.
    """
    angles = centres[:, :, None].float() * torch.tensor(PLACE_WAVES) * (torch.pi / WIDTH)  # (n, 2, waves)
    waves = torch.cat([angles.sin(), angles.cos()], 2).flatten(1)
    return waves * (PLACE_LENGTH / (2 * len(PLACE_WAVES)) ** 0.5)


@functools.cache
def _ids(words: tuple[str, ...]) -> Tensor:
    tokenizer = world_tokenizer()
    return torch.tensor([tokenizer.encode(word)[0] for word in words])


def _candidates() -> dict[str, Tensor]:
    """Ids of the words that an attribute of a thing can have, in the order of its indices."""
    return {
        "name": _ids((*(c.name for c in concepts()), NOTHING)),
        "colour": _ids(COLOURS),
        "mark": _ids((*LETTERS, *(mark_word(digit) for digit in DIGITS))),
        "size": _ids(SIZES),
    }


# Batches, each drawn from the number of its step.


class ImageBatch(NamedTuple):
    """Pictures uint8 (B, 96, 96, 3) and n things in them.

    Attributes:
        images: the pictures.
        owner: (n,) the picture of each thing.
        token: (n,) the image token that holds its centre.
        labels: (n, 4) index of name, colour, mark and size; colour and mark are one past the last where it has none.
        centres: (n, 2) x and y in pixels.
    """

    images: Tensor
    owner: Tensor
    token: Tensor
    labels: Tensor
    centres: Tensor


def image_batch(n: int, *key: str | int, split: str = "train", grid: int = 6) -> ImageBatch:
    """Crowded scenes, a function of ``key`` alone."""
    rng = random.Random(seed_of("alignment", "image", *key))
    images, rows, cell = np.empty((n, WIDTH, WIDTH, 3), np.uint8), [], WIDTH // grid
    marks = LETTERS + DIGITS
    for i in range(n):
        scene = draw_scene(rng, THINGS, split)
        images[i] = paint(scene)
        for t in scene.things:
            token = t.y // cell * grid + t.x // cell
            colour = len(COLOURS) if t.colour is None else t.colour
            mark = len(marks) if t.mark is None else marks.index(t.mark)
            rows.append((i, token, t.concept, colour, mark, t.size, t.x, t.y))
    table = torch.tensor(rows)
    return ImageBatch(torch.from_numpy(images), table[:, 0], table[:, 1], table[:, 2:6], table[:, 6:])


class AudioBatch(NamedTuple):
    """Utterances float32 (B, T) and the word at the middle of each tenth of a second (B, T // 1600)."""

    audio: Tensor
    words: Tensor


def audio_batch(n: int, *key: str | int, longest: int = 80_000) -> AudioBatch:
    """Random spoken words by the voices of training, a function of ``key`` alone; as long as the longest of them."""
    rng = random.Random(seed_of("alignment", "audio", *key))
    tokenizer, recorded = world_tokenizer(), sorted(recorded_words())
    audio = np.zeros((n, longest), np.float32)
    words = np.full((n, longest // 1600), tokenizer.encode(NOTHING)[0])
    middles, end_of_all = np.arange(longest // 1600) * 1600 + 800, 0
    for i in range(n):
        count = rng.randint(*WORDS_SPOKEN)
        text = [rng.choice(recorded) for _ in range(count)]
        wave, spans = speak_aligned(" ".join(text), rng.choice(VOICES), rng, longest)
        audio[i, : len(wave)] = wave
        end_of_all = max(end_of_all, len(wave))
        for word, (start, end) in zip(text, spans, strict=True):
            words[i, (middles >= start) & (middles < end)] = tokenizer.encode(word)[0]
    used = -(-end_of_all // 1600)
    return AudioBatch(torch.from_numpy(audio[:, : used * 1600]), torch.from_numpy(words[:, :used]))


class AlignmentBatches(Dataset[ImageBatch | AudioBatch]):
    """The batch of each step, drawn from its number: a training that goes on sees what one without a stop sees.

    Args:
        modality: ``"image"`` or ``"audio"``.
        seed: of the training.
        batch: pictures or utterances of a step.
    """

    def __init__(self, modality: str, seed: int, batch: int) -> None:
        self.modality, self.seed, self.batch = modality, seed, batch

    def __getitem__(self, step: int) -> ImageBatch | AudioBatch:
        draw = image_batch if self.modality == "image" else audio_batch
        return draw(self.batch, self.seed, step)


# Losses.


def _named(tokens: Tensor, words: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of colour, mark and size of things from their tokens (n, width), and which are right."""
    loss, hits = tokens.new_zeros(()), {}
    for at, (name, candidates) in enumerate(_candidates().items()):
        logits = SCALE * tokens @ words[candidates].T
        if name in ("colour", "mark"):
            logits = F.pad(logits, (0, 1), value=NONE_LOGIT)
        hits[name] = logits.argmax(1) == labels[:, at]
        if name != "name":
            loss = loss + 0.5 * F.cross_entropy(logits, labels[:, at])
    return loss, hits


def _unrelated(cosines: Tensor, words: Tensor, batch: ImageBatch) -> Tensor:
    """Penalty on cosines (B, M, V) above ``ABSENT`` with words that are not about a token's things."""
    related = words @ words.T > 0.3  # (V, V)
    about = related[_ids((NOTHING, *PARTS))].any(0).expand(cosines.shape).clone()
    for at, candidates in enumerate(_candidates().values()):
        padded = F.pad(candidates, (0, 1), value=0)  # a thing without plate or mark
        about[batch.owner, batch.token] |= related[padded[batch.labels[:, at]]]
    return (F.relu(cosines - ABSENT).square() * ~about).sum(-1).mean()


def image_loss(network: Network, batch: ImageBatch, basis: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The loss of image tokens against the network's words, and the share of right attributes.

    Args:
        network: its word embeddings are not trained.
        batch: pictures and their things.
        basis: ``place_basis``.

    Returns:
        the loss, and by name the accuracy of each attribute and the mean error of a place in pixels squared.
    """
    words = F.normalize(network.embed.weight.detach(), dim=-1)
    tokens = network.read("image", batch.images).float()  # (B, M, width)
    cosines = tokens @ words.T
    names = _candidates()["name"]
    thing = torch.full(tokens.shape[:2], len(names) - 1)
    thing[batch.owner, batch.token] = batch.labels[:, 0]
    weight = torch.ones(len(names))
    weight[-1] = 0.1  # most tokens hold nothing
    loss = F.cross_entropy(SCALE * cosines[..., names].flatten(0, 1), thing.flatten(), weight)
    holding = tokens[batch.owner, batch.token]  # (n, width)
    attributes, hits = _named(holding, words, batch.labels)
    where = (holding @ basis.T - place_code(batch.centres)).square().sum(1).mean()
    loss = loss + attributes + 10 * where + 0.5 * _unrelated(cosines, words, batch)
    return loss, {name: hit.float().mean().item() for name, hit in hits.items()} | {"place": where.item()}


def alignment_loss(tokens: Tensor, words: Tensor, targets: Tensor) -> Tensor:
    """InfoNCE on cosines over the whole vocabulary, plus one less the cosine with the right word.

    The first term alone separates words without bringing tokens close to them (docs/learning.md).

    Args:
        tokens: (B, M, width), of length 1.
        words: (V, width), of length 1.
        targets: (B, M) the word that each token shows.
    """
    cosines = (tokens @ words.T).flatten(0, 1)  # (B * M, V)
    right = cosines.gather(1, targets.reshape(-1, 1))
    return F.cross_entropy(SCALE * cosines, targets.flatten()) + (1 - right).mean()


def audio_loss(network: Network, batch: AudioBatch) -> tuple[Tensor, dict[str, float]]:
    """``alignment_loss`` of audio tokens with the network's words, and the share of right words."""
    words = F.normalize(network.embed.weight.detach(), dim=-1)
    tokens = network.read("audio", batch.audio).float()
    right = (tokens.detach() @ words.T).argmax(-1) == batch.words
    spoken = batch.words != _ids((NOTHING,))
    return alignment_loss(tokens, words, batch.words), {"word": right[spoken].float().mean().item()}
