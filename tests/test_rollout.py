"""Rollouts: every row holds the context it answered, what was sampled, and nothing of lanes that had ended."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import Talk

import mmenv
from agents.policies.token_policy import Responses, TokenPolicy
from agents.rollouts.rollout import rollout
from mmenv.models.transformer import Network, NetworkConfig


class Asked(Talk):
    """A dialogue whose first turn has a prompt of words."""

    name = "asked"
    modalities = ("image",)

    def sample(self, split, index):
        return self.turn(index, 0, "what colour is it ?" if index % 2 else "red ?")

    def turn(self, index, turn, prompt):
        return dataclasses.replace(super().turn(index, turn, prompt), audio=None)


mmenv.register("toy/Asked-v0", Asked, reward="gold")


def setting(env_id="toy/Asked-v0", num_envs=16, **arguments):
    env = gym.make_vec(env_id, num_envs=num_envs, autoreset_mode="Disabled", copy=False, **arguments).unwrapped
    env.reset(seed=0)
    torch.manual_seed(0)
    config = NetworkConfig(env.tokenizer.vocab_size, modalities=env.task.modalities, width=32, layers=2, heads=2)
    policy = TokenPolicy(Network(config), 4, generator=torch.Generator().manual_seed(0))
    policy.logit_bias[1] = 1.5  # ends come early and at different steps
    return env, policy


def test_every_row_keeps_the_prompt_that_it_answered():
    env, policy = setting()
    batch = rollout(policy, env)
    assert len(batch.samples) > env.num_envs
    for row, sample in zip(batch.prefix.prompt[batch.contexts].tolist(), batch.samples, strict=True):
        assert [t for t in row if t != env.tokenizer.pad_id] == env.tokenizer.encode(sample.prompt)


def test_replies_that_start_and_end_at_any_time_are_evaluated_as_they_were_sampled():
    env, policy = setting(num_envs=32)
    batch = rollout(policy, env)
    with torch.no_grad():
        logp, values, _ = policy.evaluate(batch.responses())
    torch.testing.assert_close(logp * batch.mask, batch.logp, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(values * batch.mask, batch.values, atol=1e-5, rtol=1e-4)


def test_tokens_are_the_actions_of_live_lanes():
    env, policy = setting()
    taken = []
    step = env.step

    def counted(actions):
        taken.append(env.num_envs - int(env._over.sum()))
        return step(actions)

    env.step = counted
    assert rollout(policy, env).num_tokens == sum(taken)


def test_a_batch_may_go_through_a_backward_pass():
    env, policy = setting()
    batch = rollout(policy, env)
    tensors = (*batch.prefix, batch.tokens, batch.mask, batch.logp, batch.values, batch.scores)
    assert not any(t.is_inference() or t.requires_grad for t in tensors)
    policy.evaluate(batch.responses())[0].sum().backward()


def test_rows_are_cut_to_their_longest():
    env, policy = setting()
    batch = rollout(policy, env)
    shortest = batch.mask.sum(1).argmin()[None]
    assert batch.responses().select(shortest).tokens.shape == (1, int(batch.mask[shortest].sum()))


@pytest.mark.parametrize(("argument", "value"), [("autoreset_mode", "SameStep"), ("max_episode_steps", 2)])
def test_an_env_that_cuts_responses_off_is_refused(argument, value):
    _, policy = setting()
    arguments = {"autoreset_mode": "Disabled", argument: value}
    env = gym.make_vec("toy/Colours-v0", num_envs=2, **arguments).unwrapped
    with pytest.raises(ValueError, match=argument):
        rollout(policy, env)


def test_picked_samples_are_played():
    env, policy = setting("toy/Colours-v0")
    indices = np.arange(16)[::-1].copy()
    assert [s.index for s in rollout(policy, env, {"sample_index": indices}).samples] == indices.tolist()


def test_a_context_with_several_responses_is_read_once_and_changes_nothing():
    env, policy = setting(num_envs=32)
    batch = rollout(policy, env, {"sample_index": np.repeat(np.arange(8), 4)})
    assert len(batch.prefix.prompt) < len(batch.samples)
    rows = torch.arange(len(batch.samples))[::3]
    apart = Responses(batch.prefix.select(batch.contexts), batch.tokens, batch.mask, torch.arange(len(batch.samples)))
    with torch.no_grad():
        logp, values, _ = policy.evaluate(batch.responses())
        expected, _, _ = policy.evaluate(apart)
        some, _, _ = policy.evaluate(batch.responses().select(rows))
    torch.testing.assert_close(logp, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logp * batch.mask, batch.logp, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(some, expected[rows, : some.shape[1]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(values * batch.mask, batch.values, atol=1e-5, rtol=1e-4)
