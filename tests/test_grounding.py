"""Grounding: words get what the image holds of them, and a response knows what it has not named."""

from __future__ import annotations

import pytest
import torch

from mmenv.models.grounding import Grounding

WIDTH = 8
DOG, CAT, BIRD = torch.eye(WIDTH)[:3]


@pytest.fixture
def grounding() -> Grounding:
    torch.manual_seed(0)
    return Grounding(WIDTH)


def image_of(*tokens: torch.Tensor) -> torch.Tensor:
    return torch.stack(tokens)[None]


@torch.no_grad()
def test_a_word_gets_the_token_that_it_names_and_no_other(grounding: Grounding) -> None:
    red = torch.eye(WIDTH)[5]
    image = image_of(0.6 * DOG + 0.8 * red, CAT)
    match = grounding.match(DOG[None, None], image)
    assert match[0, 0, 0] > 1 > 0 == match[0, 0, 1]
    grounding.mention.zero_()
    grounding.tally.zero_()
    fetched = grounding.of_words(match, image)[0, 0]
    assert fetched @ red > 0.4
    assert fetched @ CAT == 0


@torch.no_grad()
def test_a_word_that_the_image_does_not_show_gets_nothing(grounding: Grounding) -> None:
    image = image_of(DOG, CAT)
    assert (grounding.of_words(grounding.match(BIRD[None, None], image), image) == 0).all()


@torch.no_grad()
def test_a_word_is_tallied_once_for_each_token(grounding: Grounding) -> None:
    grounding.mention.zero_()
    grounding.fetch.weight.zero_()
    one, three = (
        grounding.of_words(grounding.match(DOG[None, None], image), image)
        for image in (image_of(DOG, CAT, CAT), image_of(DOG, DOG, DOG))
    )
    torch.testing.assert_close(three, 3 * one)


@torch.no_grad()
def test_what_a_response_has_named_is_no_longer_unsaid(grounding: Grounding) -> None:
    image, words = image_of(DOG, CAT, BIRD), torch.stack([DOG, CAT])[None]
    covered = grounding.cover(words, grounding.match(words, image)).cumsum(1)
    before = grounding.unsaid(torch.zeros(1, 1, 3), image)[0, 0]
    after_dog, after_both = grounding.unsaid(covered, image)[0]
    assert after_dog @ DOG < 0.1 * (before @ DOG)
    assert after_dog @ CAT > 0.9 * (before @ CAT)
    assert max(after_both @ DOG, after_both @ CAT) < 0.1 * (after_both @ BIRD)
    assert after_both @ BIRD > 0.9 * (before @ BIRD)


@torch.no_grad()
def test_what_is_not_named_yet_is_no_louder_than_a_word(grounding: Grounding) -> None:
    image = DOG.expand(1, 36, WIDTH)
    assert 0.9 < grounding.unsaid(torch.zeros(1, 1, 36), image).norm() < 1
