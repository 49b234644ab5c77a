"""Alignment: where words lie, what a batch says about its pictures, and what its losses prefer."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mmenv.models.representation.word_alignment import (
    PARTS,
    PLACE_LENGTH,
    alignment_loss,
    audio_batch,
    image_batch,
    image_loss,
    place_basis,
    place_code,
    word_vectors,
)
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.worlds.scenes import held_out
from mmenv.worlds.things import categories, concepts
from mmenv.worlds.vocabulary import world_tokenizer

WIDTH = 128


def vector_of(word: str) -> torch.Tensor:
    return word_vectors(WIDTH)[world_tokenizer().encode(word)[0]]


def test_concepts_are_nearest_to_their_own_category() -> None:
    vectors, kinds = word_vectors(WIDTH), list(categories())
    encode = world_tokenizer().encode
    columns = vectors[[encode(kind)[0] for kind in kinds]]
    rows = vectors[[encode(concept.name)[0] for concept in concepts()]]
    assert [kinds[i] for i in (rows @ columns.T).argmax(1)] == [concept.category for concept in concepts()]


def test_plurals_lie_close_to_their_singulars_and_numbers_to_their_neighbours() -> None:
    assert vector_of("dogs") @ vector_of("dog") > 0.8
    assert vector_of("animals") @ vector_of("animal") > 0.8
    assert vector_of("three") @ vector_of("four") > vector_of("three") @ vector_of("seven")


def test_words_say_nothing_about_places_but_for_those_that_name_one() -> None:
    others = [i for i, word in enumerate(world_tokenizer().words) if word not in PARTS]
    assert (word_vectors(WIDTH)[others] @ place_basis(WIDTH).T).abs().max() < 1e-5


def test_a_word_for_a_part_of_the_picture_is_nearest_to_tokens_there() -> None:
    centres = {"left": (12, 48), "right": (84, 48), "top": (48, 12), "bottom": (48, 84), "middle": (48, 48)}
    tokens = place_code(torch.tensor(list(centres.values()))) @ place_basis(WIDTH)
    words = torch.stack([vector_of(word) for word in centres])
    assert (words @ tokens.T).argmax(1).tolist() == [0, 1, 2, 3, 4]


def test_the_product_of_two_places_depends_on_the_way_between_them_alone() -> None:
    centres = torch.tensor([[10, 20], [40, 25], [50, 60], [80, 65]])
    codes = place_code(centres)
    torch.testing.assert_close(codes[0] @ codes[1], codes[2] @ codes[3])
    torch.testing.assert_close(codes.norm(dim=1), torch.full((4,), PLACE_LENGTH))
    assert codes[0] @ codes[0] > codes[0] @ codes[1] > codes[0] @ codes[2]


def test_a_batch_is_a_function_of_its_key() -> None:
    first, again, other = image_batch(3, 0, 7), image_batch(3, 0, 7), image_batch(3, 0, 8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)
    assert torch.equal(audio_batch(2, 0, 7).audio, audio_batch(2, 0, 7).audio)


def test_the_token_of_a_thing_holds_its_centre_and_no_plate_is_held_out() -> None:
    batch = image_batch(50, "test")
    column, row = batch.token % 6, batch.token // 6
    assert (batch.centres[:, 0] // 16 == column).all()
    assert (batch.centres[:, 1] // 16 == row).all()
    plated = [(int(name), int(colour)) for name, colour in batch.labels[:, :2] if colour < 8]
    assert len(plated) > 50
    assert not any(held_out(name, colour) for name, colour in plated)


def test_words_of_an_utterance_are_where_it_sounds() -> None:
    batch = audio_batch(20, "test")
    loud = batch.audio.view(20, -1, 1600).square().mean(-1).sqrt()
    spoken = batch.words != world_tokenizer().encode("nothing")[0]
    assert loud[spoken].median() > 5 * loud[~spoken].median()
    assert spoken.float().mean() > 0.3


class Oracle(Network):
    """A network whose image tokens are what they should be, or those of other things."""

    answer: torch.Tensor
    turned = 0

    def read(self, modality: str, x: torch.Tensor) -> torch.Tensor:
        return self.answer.roll(self.turned, 1)


def test_image_loss_is_less_for_tokens_of_the_right_things() -> None:
    network = Oracle(NetworkConfig(world_tokenizer().vocab_size))
    words, basis = word_vectors(WIDTH), place_basis(WIDTH)
    network.embed.weight.data.copy_(words)
    batch, encode = image_batch(4, "test"), world_tokenizer().encode
    network.answer = words[encode("nothing")].expand(4, 36, WIDTH).clone()
    names = torch.tensor([encode(concept.name)[0] for concept in concepts()])
    network.answer[batch.owner, batch.token] = words[names[batch.labels[:, 0]]] + place_code(batch.centres) @ basis
    network.answer = F.normalize(network.answer, dim=-1)
    right, metrics = image_loss(network, batch, basis)
    network.turned = 1
    wrong, turned = image_loss(network, batch, basis)
    assert right < wrong - 1
    assert metrics["name"] > 0.9 > 0.1 > turned["name"]


def test_alignment_loss_is_least_for_the_right_words() -> None:
    words = torch.eye(6)
    targets = torch.tensor([[1, 4]])
    right = alignment_loss(words[targets], words, targets)
    assert right < 1e-3 < alignment_loss(words[targets.flip(1)], words, targets)
