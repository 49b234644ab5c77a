"""The network: the cache, padding and rows change nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmenv.models.blocks import Turn
from mmenv.models.checkpoints import WeightsError, load_pretrained, save_network
from mmenv.models.encoders import AudioEncoder, ImageEncoder
from mmenv.models.representation.word_alignment import alignment_loss, image_batch
from mmenv.models.transformer import Network, NetworkConfig, Prefix


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network(NetworkConfig(vocab_size=50, width=32, layers=2, max_prompt=16, max_response=12)).eval()


@pytest.fixture
def observations():
    torch.manual_seed(1)
    prompt = torch.randint(3, 50, (5, 9))
    prompt[0, 4:] = 0
    prompt[3, 1:] = 0
    image = torch.randint(0, 255, (5, 96, 96, 3), dtype=torch.uint8)
    return {"image": image, "audio": 0.1 * torch.randn(5, 16_000), "prompt": prompt}


def cached(network, prefix, tokens):
    hidden, cache = network.start(prefix, tokens.shape[1] + 1)
    states = [hidden]
    for t in range(tokens.shape[1] - 1):
        states.append(network.step(tokens[:, t], cache))
    return torch.stack(states, 1)


@torch.no_grad()
def test_cached_states_equal_parallel_ones(network, observations):
    tokens = torch.randint(3, 50, (5, 7))
    prefix = network.encode(observations)
    torch.testing.assert_close(cached(network, prefix, tokens), network(prefix, tokens), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours_or_on_padding(network, observations):
    tokens = torch.randint(3, 50, (5, 4))
    together = network(network.encode(observations), tokens)
    for i in range(5):
        alone = network(network.encode({k: v[i : i + 1] for k, v in observations.items()}), tokens[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_replaced_row_begins_anew_while_others_go_on(network, observations):
    tokens = torch.randint(3, 50, (5, 4))
    prefix = network.encode(observations)
    _, cache = network.start(prefix, 6)
    network.step(tokens[:, 0], cache)
    fresh = network.encode({k: v[[3]] for k, v in observations.items()})  # a shorter prompt than the others'
    _, other = network.start(fresh, 6)
    cache.replace(torch.tensor([1]), other)
    hidden = network.step(tokens[:, 1], cache)
    expected = network(prefix.select(torch.tensor([3])), torch.stack([tokens[1, 1], tokens[1, 2]])[None])[0, 1]
    torch.testing.assert_close(hidden[1], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hidden[0], network(prefix, tokens)[0, 2], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_rows_of_a_cache_go_on_alone(network, observations):
    tokens = torch.randint(3, 50, (5, 4))
    prefix = network.encode(observations)
    _, cache = network.start(prefix, 6)
    network.step(tokens[:, 0], cache)
    kept = torch.tensor([4, 2])
    hidden = network.step(tokens[kept, 1], cache.select(kept))
    torch.testing.assert_close(hidden, network(prefix, tokens)[kept, 2], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_decoder_reads_the_image_tokens_least_like_nothing(observations):
    torch.manual_seed(0)
    network = Network(NetworkConfig(vocab_size=50, width=32, layers=2, image_tokens=5)).eval()
    network.nothing.copy_(torch.randn(32))
    tokens = network.read("image", observations["image"])
    every = tokens + network.media_position["image"]
    media = network.encode({k: v for k, v in observations.items() if k != "audio"}).media
    assert media.shape == (5, 5, 32)
    likeness = tokens @ network.nothing
    for row in range(5):
        expected = every[row][likeness[row].argsort()[:5]]
        torch.testing.assert_close(media[row], expected)


@torch.no_grad()
def test_turned_queries_and_keys_meet_by_their_distance_alone():
    q, k = torch.randn(2, 1, 4, 6, 16).unbind()
    at = torch.tensor([[0, 3, 4, 9, 11, 20], [1.5, 0, 4, 5.2, 2, 3], [0, 0, 6, 1, 2.5, 3]]).T[None]  # (1, 6, 3)
    straight = q @ k.transpose(2, 3)
    for shift in torch.tensor([[-7.0, 0, 0], [0, 1.3, 0], [0, 0, -2]]):
        products = [Turn.to(at + s, 8).of(q) @ Turn.to(at + s, 8).of(k).transpose(2, 3) for s in (0, shift)]
        torch.testing.assert_close(products[0], products[1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(products[0][:, :2], straight[:, :2])  # the heads that see content alone
        moved = at.clone()
        moved[0, 0] += shift  # one of them alone
        assert (Turn.to(moved, 8).of(q) @ Turn.to(at, 8).of(k).transpose(2, 3) - products[0])[
            0, 2:, 0
        ].abs().max() > 0.1


@torch.no_grad()
def test_image_tokens_are_where_they_say_that_they_are():
    network = load_pretrained("encoders")
    batch = image_batch(16, "places", split="validation")
    places = network._places(network.read("image", batch.images)) * (96 / network.config.image_grid)  # pixels
    assert (places[batch.owner, batch.token] - batch.centres).abs().mean() < 2
    silent = Network(NetworkConfig(vocab_size=50, width=32, layers=1))
    assert not silent._places(silent.read("image", batch.images)).any()  # no encoder was taught to tell a place


@torch.no_grad()
def test_what_comes_later_changes_nothing_before(network, observations):
    prefix, tokens = network.encode(observations), torch.randint(3, 50, (5, 6))
    changed = tokens.clone()
    changed[:, 4:] = 7
    torch.testing.assert_close(network(prefix, tokens)[:, :5], network(prefix, changed)[:, :5])


def test_the_value_head_begins_at_zero(network):
    assert (network.value(torch.randn(3, 32)) == 0).all()


@torch.no_grad()
def test_encoders_give_their_tokens_for_any_size():
    assert ImageEncoder(16)(torch.zeros(2, 192, 192, 3, dtype=torch.uint8)).shape == (2, 36, 16)
    assert AudioEncoder(16)(torch.zeros(2, 40_000)).shape == (2, 25, 16)


@torch.no_grad()
def test_louder_speech_has_larger_features():
    quiet = torch.sin(torch.arange(16_000) * 0.3)[None] * 0.01
    encoder = AudioEncoder(16)
    assert (encoder.log_mel(10 * quiet) >= encoder.log_mel(quiet) - 1e-5).all()


def test_alignment_loss_is_least_for_the_right_words():
    words = torch.eye(6)
    targets = torch.tensor([[1, 4]])
    assert (
        alignment_loss(words[targets], words, targets) < 1e-3 < alignment_loss(words[targets.flip(1)], words, targets)
    )


def test_a_medium_that_the_network_cannot_read_is_named(observations):
    network = Network(NetworkConfig(vocab_size=50, width=32, layers=1, modalities=("image",)))
    with pytest.raises(ValueError, match="audio"):
        network.encode(observations)


@torch.no_grad()
def test_saved_weights_come_back_in_half_precision(network, observations, tmp_path):
    save_network(network, tmp_path / "net.safetensors")
    again = load_pretrained(tmp_path / "net.safetensors")
    assert again.config == network.config
    tokens = torch.randint(3, 50, (5, 4))
    a, b = (n.logits(n(n.encode(observations), tokens)) for n in (network, again))
    assert (a - b).abs().max() < 0.05


def test_weights_that_are_missing_broken_or_of_another_kind_are_named(network, tmp_path):
    with pytest.raises(WeightsError, match="no weights 'nowhere'"):
        load_pretrained("nowhere")
    save_network(network, tmp_path / "net.safetensors")
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"cut\.safetensors"):
        load_pretrained(tmp_path / "cut.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"kind": "preference"})
    with pytest.raises(WeightsError, match="preference"):
        load_pretrained(tmp_path / "other.safetensors")
    config = json.dumps({"vocab_size": 9, "modalities": ["image"]})
    save_file({"x": torch.zeros(1)}, tmp_path / "odd.safetensors", {"kind": "network", "config": config})
    with pytest.raises(WeightsError, match="vocab_size=9 in its configuration"):
        load_pretrained(tmp_path / "odd.safetensors")


def test_a_prefix_keeps_its_rows():
    prefix = Prefix(torch.arange(6.0).view(3, 1, 2), torch.tensor(np.array([[1], [2], [3]])))
    assert prefix.select(torch.tensor([2, 0])).prompt.flatten().tolist() == [3, 1]
