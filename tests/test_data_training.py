"""Training on data of one's own, by the flag of the agents' command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datafiles import captioned

from agents.__main__ import main
from agents.training import checkpoints
from agents.training.start import weights_start
from mmenv.models.checkpoints import load_pretrained, read_tensors, save_network, vocabulary_in
from mmenv.models.starting import fitted, start_network
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.tokenizer import learn_tokenizer
from mmenv.worlds.vocabulary import world_tokenizer

FAST = ("--eval-episodes", "32", "--no-pictures", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return captioned(tmp_path_factory.mktemp("pictures"), 60)


@pytest.fixture(scope="module")
def imitated(folder, tmp_path_factory, start) -> Path:
    """A run of sft on the captions, from a tiny network that knows other words."""
    out = tmp_path_factory.mktemp("sft")
    settings = ("--num-envs", "64", "--learning-rate", "3e-3", "--start", start, "--metrics", "exact", *FAST)
    data = ("--env-id", "mmenv/Captioning-v0", "--dataset", str(folder), "--reward", "rouge-l")
    assert main(["sft", *data, "--total-tokens", "9000", "--out", str(out), *settings]) == 0
    return out


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_of_imitation_falls_and_its_reward_rises(imitated):
    losses = [row["likelihood_loss"] for row in rows(imitated)]
    assert losses[-1] < 0.75 * losses[0]
    summary = json.loads((imitated / "summary.json").read_text())
    assert summary["reward"]["after"] > summary["reward"]["before"] + 0.05
    assert summary["gold"]["after"] is None
    assert summary["metrics"]["after"]["exact"] >= 0


def test_weights_bring_the_words_that_they_learned(imitated, folder):
    _, metadata = read_tensors(checkpoints.policy_of(imitated))
    words = vocabulary_in(metadata)
    assert words is not None
    assert "grünes" in words.words


def test_a_run_from_weights_speaks_their_words_whatever_the_dataset_holds(imitated, tmp_path):
    weights = checkpoints.policy_of(imitated)
    other = weights_start(weights).env_arguments(str(captioned(tmp_path / "other", 1)))
    assert other["tokenizer"] == vocabulary_in(read_tensors(weights)[1])
    assert weights_start().env_arguments() == {}
    assert weights_start("start").env_arguments() == {}


def test_ppo_goes_on_from_imitation_with_its_words_and_resumes(imitated, folder, tmp_path):
    data = ("--env-id", "mmenv/Captioning-v0", "--dataset", f"{folder}?broken=skip", "--reward", "rouge-l")
    weights = str(checkpoints.policy_of(imitated))
    more = ("--start", weights, "--num-envs", "64", "--learning-rate", "2e-3", "--kl-coef", "0")
    assert main(["ppo", *data, "--total-tokens", "6000", "--out", str(tmp_path / "run"), *more, *FAST]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["reward"]["after"] > summary["reward"]["before"]
    assert main(["--resume", str(tmp_path / "run")]) == 0


def test_stable_baselines3_trains_on_a_dataset(folder, tmp_path, start):
    data = ("--env-id", "mmenv/Captioning-v0", "--dataset", str(folder), "--reward", "rouge-l", "--start", start)
    more = ("--total-tokens", "512", "--num-envs", "8", "--eval-episodes", "8", "--no-pictures")
    assert main(["sb3-ppo", *data, *more, "--out", str(tmp_path / "run")]) == 0
    assert vocabulary_in(read_tensors(checkpoints.policy_of(tmp_path / "run"))[1]) is not None


def test_a_wrong_dataset_is_an_error_in_a_line(capsys, tmp_path):
    assert main(["sft", "--env-id", "mmenv/Captioning-v0", "--dataset", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_fitted_network_keeps_what_it_knows_and_has_room_for_more():
    world, learned = world_tokenizer(), learn_tokenizer(["the dog läuft"])
    torch.manual_seed(3)
    old = Network(NetworkConfig(world.vocab_size, width=32, layers=1, heads=2))
    new = fitted(old, world, learned, 60, 120, 40)
    assert (new.config.vocab_size, new.config.max_prompt, new.config.max_response) == (6, 60, 120)
    for word in ("the", "dog"):
        there, here = world.encode(word)[0], learned.encode(word)[0]
        assert torch.equal(new.embed.weight[here], old.embed.weight[there])
    assert torch.equal(new.prompt_position[:48], old.prompt_position)
    assert torch.equal(new.response_position[:96], old.response_position)
    assert torch.equal(new.blocks[0].qkv.weight, old.blocks[0].qkv.weight)
    again = fitted(old, world, learned, 60, 120, 40)
    assert torch.equal(new.embed.weight, again.embed.weight)
    image = np.random.default_rng(0).integers(0, 255, (2, 96, 96, 3), dtype=np.uint8)
    with torch.no_grad():
        seen = [n.encoders["image"](torch.from_numpy(image)) for n in (old, new)]
    assert torch.equal(*seen)


def test_fitting_draws_no_random_numbers_of_others():
    old = Network(NetworkConfig(world_tokenizer().vocab_size, width=32, layers=1, heads=2))
    state = torch.get_rng_state()
    fitted(old, world_tokenizer(), learn_tokenizer(["a b"]), 1, 1, 1)
    assert torch.equal(state, torch.get_rng_state())


def test_a_network_that_fits_is_given_as_it_is(tmp_path, start):
    network = start_network(start, world_tokenizer(), 16, 16)
    assert torch.equal(network.embed.weight, load_pretrained(start).embed.weight)
    save_network(network, tmp_path / "n.safetensors")
    assert start_network(tmp_path / "n.safetensors", world_tokenizer(), 64, 16).config.max_prompt == 64
