"""The reference's log-probability is paid per token, the same in the scalar and the vector environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import mmenv
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.worlds.vocabulary import world_tokenizer
from mmenv.wrappers import ReferenceLogProb, VectorReferenceLogProb, reference_beta

BETA = 0.5


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    network = Network(NetworkConfig(world_tokenizer().vocab_size, width=16, layers=2, heads=2)).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def words(steps: int, lanes: int) -> np.ndarray:
    tokens = np.random.default_rng(1).integers(3, 300, (steps, lanes))
    tokens[np.random.default_rng(2).random(tokens.shape) < 0.2] = 1
    return tokens


@torch.no_grad()
def expected(network: Network, observation: dict, tokens: list[int], temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities of a whole response in one pass, padding masked."""
    prefix = network.encode({k: torch.from_numpy(v[None]) for k, v in observation.items() if k != "response"})
    response = torch.tensor([tokens])
    logits = network.logits(network(prefix, response)) / temperature
    logits[..., network.config.pad_id] = -torch.inf
    return logits.log_softmax(-1).gather(-1, response[..., None])[0, :, 0].numpy()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_token_is_paid_beta_times_its_log_probability(network, temperature):
    env = ReferenceLogProb(gym.make("mmenv/VQA-v0", reward="gold"), network, BETA, temperature)
    observation, _ = env.reset(seed=0)
    tokens = [5, 9, 40, 1]
    steps = [env.step(t) for t in tokens]
    logp = expected(network, observation, tokens, temperature)
    assert [s[4]["reference_logp"] for s in steps] == pytest.approx(logp, abs=1e-4)
    assert [s[1] for s in steps[:-1]] == pytest.approx(BETA * logp[:-1], abs=1e-4)
    assert steps[-1][1] == pytest.approx(steps[-1][4]["gold"] + BETA * logp[-1], abs=1e-4)


@pytest.mark.parametrize("env_id", ["mmenv/VQA-v0", "mmenv/SpokenDialogue-v0"])
def test_a_lane_is_paid_as_the_scalar_env_is(network, env_id):
    venv = VectorReferenceLogProb(gym.make_vec(env_id, num_envs=3, reward="gold"), network, BETA)
    env = ReferenceLogProb(gym.make(env_id, reward="gold"), network, BETA)
    venv.reset(seed=0)
    env.reset(seed=1)
    for action in words(60, 3):
        rewards = venv.step(action)[1]
        _, reward, terminated, _, _ = env.step(action[1])
        assert reward == pytest.approx(rewards[1], abs=1e-4)
        if terminated:
            env.reset()


def test_waiting_lanes_are_paid_nothing_and_masked_resets_start_a_new_context(network):
    venv = gym.make_vec("mmenv/VQA-v0", num_envs=2, reward="gold", autoreset_mode="Disabled")
    venv = VectorReferenceLogProb(venv, network, BETA)
    venv.reset(seed=0)
    venv.step([1, 5])
    _, rewards, _, _, infos = venv.step([-9, 6])
    assert rewards[0] == 0.0
    assert infos["_reference_logp"].tolist() == [False, True]
    observations, _ = venv.reset(options={"reset_mask": np.array([True, False])})
    _, _, _, _, infos = venv.step([7, 8])
    logp = expected(network, {k: v[0] for k, v in observations.items()}, [7])
    assert infos["reference_logp"][0] == pytest.approx(logp[0], abs=1e-4)


class Stricter(Network):
    """A network that gives another token than padding no probability either."""

    forbidden_token_ids = (0, 5)


def test_a_forbidden_token_is_paid_nothing_rather_than_minus_infinity(network):
    stricter = Stricter(network.config)
    env = ReferenceLogProb(gym.make("mmenv/VQA-v0", reward="gold"), stricter, BETA)
    env.reset(seed=0)
    assert env.step(5)[4]["reference_logp"] == 0.0
    assert env.step(6)[4]["reference_logp"] < 0.0


def test_paying_twice_is_refused_and_the_coefficient_can_be_asked_for(network):
    env = gym.make("mmenv/VQA-v0", reward="gold")
    assert reference_beta(env) == 0.0
    once = ReferenceLogProb(env, network, BETA)
    assert reference_beta(gym.wrappers.TimeLimit(once, 5)) == BETA
    with pytest.raises(mmenv.ArgumentError, match="twice"):
        ReferenceLogProb(once, network, BETA)
    venv = VectorReferenceLogProb(gym.make_vec("mmenv/VQA-v0", num_envs=2, reward="gold"), network, BETA)
    assert reference_beta(venv) == BETA
    with pytest.raises(mmenv.ArgumentError, match="twice"):
        VectorReferenceLogProb(venv, network, BETA)


def test_what_does_not_fit_is_refused(network):
    with pytest.raises(mmenv.ArgumentError, match="tokens"):
        ReferenceLogProb(gym.make("toy/Colours-v0"), network)
    with pytest.raises(mmenv.ArgumentError, match="token environment"):
        ReferenceLogProb(gym.make("CartPole-v1"), network)
    with pytest.raises(mmenv.ArgumentError, match="beta"):
        ReferenceLogProb(gym.make("mmenv/VQA-v0", reward="gold"), network, beta=0.0)
    with pytest.raises(mmenv.ArgumentError, match="longest response"):
        ReferenceLogProb(gym.make("mmenv/VQA-v0", reward="gold", max_response_tokens=99), network)
