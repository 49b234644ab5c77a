"""Fusion: absent modalities change nothing, padding changes nothing, present ones do."""

from __future__ import annotations

import pytest
import torch

from mmenv.models.representation.fusion import CrossAttention, GatedFusion, Pool, Tokens, build_fusion, run_blocks
from mmenv.models.transformer import Block

WIDTH = 16


def tokens(n: int, s: int, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return Tokens(torch.randn(n, s, WIDTH, generator=generator), torch.ones(n, s, dtype=torch.bool))


def absent(like: Tokens) -> Tokens:
    return Tokens(torch.zeros_like(like.states), torch.zeros_like(like.mask))


def pooled(fused: Tokens) -> torch.Tensor:
    return (fused.states * fused.mask[..., None]).sum(1) / fused.mask.sum(1, keepdim=True).clamp(min=1)


@pytest.fixture(params=("concat", "gated", "cross"))
def fusion(request):
    torch.manual_seed(0)
    return build_fusion(request.param, ("image", "audio", "text"), WIDTH, 4)


def test_a_masked_modality_is_as_if_it_had_not_been_given(fusion):
    image, text = tokens(3, 9), tokens(3, 5, 1)
    with_nothing = fusion({"image": image, "audio": absent(tokens(3, 4)), "text": text})
    without = fusion({"image": image, "text": text})
    torch.testing.assert_close(pooled(with_nothing), pooled(without))


def test_what_stands_under_a_mask_never_matters(fusion):
    image, text = tokens(3, 9), tokens(3, 5, 1)
    mask = text.mask.clone()
    mask[:, 3:] = False
    other = text.states.clone()
    other[:, 3:] = 7.0
    a, b = (fusion({"image": image, "text": Tokens(x, mask)}) for x in (text.states, other))
    torch.testing.assert_close(pooled(a), pooled(b))


@pytest.mark.parametrize("changed", ["image", "text"])
def test_every_modality_that_is_there_matters(fusion, changed):
    parts = {"image": tokens(3, 9), "text": tokens(3, 5, 1)}
    # Noise, since the fusions look at a state's direction: scaling it may rightly change nothing.
    other = {**parts, changed: tokens(3, parts[changed].mask.shape[1], 2)}
    assert (pooled(fusion(parts)) - pooled(fusion(other))).abs().max() > 1e-3


def test_rows_without_any_modality_are_finite_and_masked_and_so_are_their_gradients(fusion):
    image = tokens(2, 9)
    image.states.requires_grad_(True)
    mask = image.mask.clone()
    mask[0] = False
    fused = fusion({"image": Tokens(image.states, mask), "text": absent(tokens(2, 5))})
    assert fused.states.isfinite().all()
    assert not fused.mask[0].any()
    pooled(fused).sum().backward()
    assert image.states.grad.isfinite().all()


def test_a_batch_may_lack_a_modality_in_some_rows_only(fusion):
    image, text = tokens(2, 9), tokens(2, 5, 1)
    mask = image.mask.clone()
    mask[0] = False
    mixed = pooled(fusion({"image": Tokens(image.states, mask), "text": text}))
    alone = pooled(fusion({"text": Tokens(text.states[:1], text.mask[:1])}))
    both = pooled(fusion({"image": Tokens(image.states[1:], mask[1:]), "text": Tokens(text.states[1:], text.mask[1:])}))
    torch.testing.assert_close(mixed, torch.cat([alone, both]))


def test_gates_of_the_modalities_that_are_there_add_up_to_one():
    torch.manual_seed(0)
    fusion = GatedFusion(("image", "text"), WIDTH)
    for change in fusion.changes.values():  # every modality says the same: the gates' sum is all that is left
        torch.nn.init.zeros_(change[0].weight)
        torch.nn.init.constant_(change[0].bias, 0.5)
    torch.nn.init.zeros_(fusion.mix[2].weight)
    torch.nn.init.zeros_(fusion.mix[2].bias)
    text = tokens(2, 5)
    for parts in ({"image": tokens(2, 9, 3), "text": text}, {"image": absent(tokens(2, 9)), "text": text}):
        said = fusion(parts).states
        torch.testing.assert_close(said, torch.full_like(said, torch.tensor(0.5).tanh().item()))


def test_cross_attention_keeps_its_queries_apart():
    torch.manual_seed(0)
    layer, x, memory = CrossAttention(WIDTH, 4), torch.randn(2, 3, WIDTH), tokens(2, 6)
    torch.testing.assert_close(layer(x, memory)[:, 1:2], layer(x[:, 1:2], memory))


def test_pooling_weights_add_up_to_one_and_leave_padding_out():
    pool, mask = Pool(WIDTH), torch.tensor([[True, True, False], [True, False, False]])
    weights = pool.weights(Tokens(tokens(2, 3).states, mask))
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert (weights[~mask] == 0).all()


def test_blocks_do_not_see_padding():
    torch.manual_seed(0)
    block, x = Block(WIDTH, 4), tokens(1, 4)
    mask = torch.tensor([[True, True, True, False]])
    whole = run_blocks([block], Tokens(x.states, mask)).states[:, :3]
    short = run_blocks([block], Tokens(x.states[:, :3], mask[:, :3])).states
    torch.testing.assert_close(whole, short)
