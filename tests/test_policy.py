"""The policy: one distribution everywhere, sampling from its own generator alone, contexts that start at any time."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.policies.token_policy import Responses, TokenPolicy
from mmenv.models.devices import device_named
from mmenv.models.transformer import Network, NetworkConfig, Prefix

VOCAB, BUDGET = 14, 4


def policy_of(temperature=1.0, modalities=("image",)):
    torch.manual_seed(0)
    network = Network(NetworkConfig(VOCAB, modalities=modalities, width=32, layers=2, heads=2, max_prompt=24))
    return TokenPolicy(network, BUDGET, temperature, generator=torch.Generator().manual_seed(0))


def responses_of(policy, lengths=(4, 1, 2)):
    generator = torch.Generator().manual_seed(1)
    media = policy.network.encode(
        {
            "image": torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8, generator=generator),
            "prompt": torch.tensor([[3, 4, 5], [6, 0, 0], [7, 8, 0]]),
        }
    )
    mask = (torch.arange(BUDGET) < torch.tensor(lengths)[:, None]).float()
    tokens = torch.randint(1, VOCAB, (3, BUDGET), generator=generator) * mask.long()
    return Responses(Prefix(media.media.detach(), media.prompt), tokens, mask, torch.arange(3))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_loss_sees_the_distribution_that_sampling_draws_from(temperature):
    policy = policy_of(temperature)
    responses = responses_of(policy)
    with torch.no_grad():
        logits = policy.network.logits(policy.network(responses.prefix, responses.tokens)) / temperature
        logits[..., policy.network.config.pad_id] = float("-inf")
        expected = logits.log_softmax(-1).gather(-1, responses.tokens[..., None])[..., 0]
        logp, _, _ = policy.evaluate(responses)
    real = responses.mask == 1
    torch.testing.assert_close(logp[real], expected[real])
    assert (logp[~real] == 0).all()


def test_what_follows_a_response_changes_nothing_in_it():
    policy = policy_of()
    responses = responses_of(policy)
    changed = responses._replace(tokens=torch.where(responses.mask == 0, 9, responses.tokens))
    with torch.no_grad():
        a, b = policy.evaluate(responses)[0], policy.evaluate(changed)[0]
    torch.testing.assert_close(a * responses.mask, b * responses.mask)


def test_entropy_left_out_of_the_backward_pass_is_the_same_number():
    policy = policy_of()
    responses = responses_of(policy)
    with_gradient, without = (policy.evaluate(responses, entropy_gradient=g)[2] for g in (True, False))
    torch.testing.assert_close(with_gradient, without)
    assert with_gradient.requires_grad
    assert not without.requires_grad


def test_gradients_stay_finite_with_a_token_of_probability_zero():
    policy = policy_of()
    logp, values, entropy = policy.evaluate(responses_of(policy))
    (logp.sum() + values.sum() + entropy.sum()).backward()
    given = [p.grad for p in policy.parameters() if p.grad is not None]
    assert given
    assert all(torch.isfinite(g).all() for g in given)


def test_sampling_leaves_the_global_generators_alone_and_repeats_from_a_seed():
    policy = policy_of()
    hidden = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = policy.sample(hidden)[0]
    assert torch.equal(before, torch.get_rng_state())
    policy.generator.manual_seed(0)
    assert torch.equal(first, policy.sample(hidden)[0])
    assert (first != policy.network.config.pad_id).all()


def test_a_new_policy_values_everything_at_zero():
    policy = policy_of()
    assert (policy.evaluate(responses_of(policy))[1] == 0).all()


def test_lanes_that_start_anew_at_any_time_forget_what_they_had():
    """Under SAME_STEP lanes restart one by one; each must answer as a policy that sees nothing but its new context."""
    policy = policy_of()
    policy.logit_bias[1] = 3.0  # ends come early and at different steps
    env = gym.make_vec("toy/Colours-v0", num_envs=6)
    observations, _ = env.reset(seed=0)
    starts, state = np.ones(6, bool), None
    checked = 0
    for _ in range(12):
        actions, logp, _, state = policy.act(observations, state, starts)
        if starts.any() and not starts.all():
            rows = np.flatnonzero(starts)
            with torch.no_grad():
                hidden, _ = policy.network.start(policy.encode(observations, rows), BUDGET)
                expected = policy.log_probs(hidden)[torch.arange(len(rows)), torch.from_numpy(actions[rows])]
            np.testing.assert_allclose(logp[rows], expected, atol=1e-5)
            checked += len(rows)
        observations, _, terminated, truncated, _ = env.step(actions)
        starts = terminated | truncated
    assert checked > 3


def test_a_budget_beyond_the_network_is_named():
    with pytest.raises(ValueError, match="budget 99"):
        TokenPolicy(policy_of().network, 99)


@pytest.mark.parametrize("name", ["", "nope", "meta", "cuda:99", "cuda:-5"])
def test_a_device_that_holds_no_network_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^device='{name}'.* 'cpu'"):
        device_named(name)
