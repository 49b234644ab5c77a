"""The shipped encoders: aligned with word embeddings, under a decoder that is not trained yet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mmenv.models.checkpoints import save_network
from mmenv.models.representation.word_alignment import (
    NOTHING,
    THINGS,
    AlignmentBatches,
    AudioBatch,
    ImageBatch,
    audio_batch,
    audio_loss,
    image_batch,
    image_loss,
    place_basis,
    word_vectors,
)
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.worlds.vocabulary import world_tokenizer
from scripts.resumable import Schedule, train

SCHEDULES = {"image": Schedule(4000, 2e-3, warm=0.1), "audio": Schedule(1600, 2e-3, warm=0.1)}
BATCH = {"image": 64, "audio": 48}
SHARPNESS = 3.0  # of the first predictions: a token's cosine with its word is about 0.5
HELD_OUT = 500  # pictures and utterances


def new_network(seed: int) -> Network:
    """A network of the world's words, with their initial embeddings, that reads as many image tokens as things."""
    torch.manual_seed(seed)
    network = Network(NetworkConfig(world_tokenizer().vocab_size, image_tokens=THINGS[1]))
    words = word_vectors(network.config.width, seed)
    network.embed.weight.data.copy_(words)
    # An image token that holds nothing is nothing to speak of.
    network.nothing.copy_(words[world_tokenizer().encode(NOTHING)[0]])
    network.grounding.salience.data.copy_(-network.nothing)
    network.norm.weight.data.fill_(SHARPNESS)
    basis = place_basis(network.config.width, seed)
    network.place_basis.copy_(basis.view_as(network.place_basis))
    network.media_position["image"].data.zero_()  # tokens tell their places themselves
    return network


def make_encoders(seed: int, out: Path, states: Path) -> None:
    """Align both encoders and write ``encoders.safetensors``.

    Args:
        seed: of everything random.
        out: folder of the weights.
        states: folder of the training's files: run again to go on.
    """
    network = new_network(seed)
    basis = place_basis(network.config.width, seed)
    losses: dict[str, Callable[..., tuple[Tensor, dict[str, float]]]] = {
        "image": partial(image_loss, network, basis=basis),
        "audio": partial(audio_loss, network),
    }
    for modality, loss_of in losses.items():
        encoder = network.encoders[modality]
        batches = AlignmentBatches(modality, seed, BATCH[modality])
        groups = [{"params": list(encoder.parameters()), "scale": 1.0}]
        train(encoder, groups, batches, loss_of, SCHEDULES[modality], states / f"{modality}.pt", modality)
    accuracy = accuracies(network, basis)
    print(accuracy)
    save_network(network, out / "encoders.safetensors", {name: f"{x:.4f}" for name, x in accuracy.items()})


@torch.no_grad()
def accuracies(network: Network, basis: Tensor) -> dict[str, float]:
    """Share of right attributes of things in pictures of the validation split, and of right words in new utterances."""
    images: ImageBatch = image_batch(HELD_OUT, "held out", split="validation")
    sounds: AudioBatch = audio_batch(HELD_OUT, "held out")
    return image_loss(network, images, basis)[1] | audio_loss(network, sounds)[1]
