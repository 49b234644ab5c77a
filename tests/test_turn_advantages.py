"""Advantages over turns against loops over episodes, and their gradients against exact enumeration of two turns."""

import numpy as np
import pytest
import torch
from test_exact_references import BETA, flat
from two_turns import LatePair, Pair, exact_gradient, learner, several, world

from agents.algorithms.grpo import DAPOConfig, GRPOConfig
from agents.maths.turns import last_turns, turn_gae, turn_groups, turn_numbers, turn_returns
from agents.rollouts.rollout import rollout
from agents.settings.bounds import offered

KINDS = [Pair, LatePair]


def data_of(algorithm, batch):
    with torch.no_grad():
        ref_logp = algorithm.reference.evaluate(batch.responses()).logp
        return ref_logp.double().numpy(), algorithm.data(batch, ref_logp)


def episodes_of(batch):
    """The rows of each episode, in order, found by what the user repeats: samples of a lane follow each other."""
    rows = [[i] for i, sample in enumerate(batch.samples) if sample.turn == 0]
    for i, sample in enumerate(batch.samples):
        if sample.turn:
            (owner,) = [r for r in rows if int(batch.episodes[r[0]]) == int(batch.episodes[i])]
            assert batch.texts[owner[0]] == sample.prompt
            owner.append(i)
    return rows


def earned(batch, ref_logp, kind):
    """What each reply earned by itself, minus the KL of its tokens."""
    logp, mask = batch.logp.double().numpy(), batch.mask.numpy()
    paid = batch.scores.double().numpy().copy()
    for rows in episodes_of(batch):
        if kind is LatePair:
            paid[rows[:-1]] = 0.0
    return paid - BETA * ((logp - ref_logp) * mask).sum(1)


def returns_of(batch, rewards):
    """For each row the rewards from it on, and for each episode those from each turn on."""
    found = np.zeros(len(rewards))
    for rows in episodes_of(batch):
        for k, row in enumerate(rows):
            found[row] = sum(rewards[later] for later in rows[k:])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_turn_is_compared_with_the_same_turn_of_the_other_episodes_of_its_group(name, kind):
    env = world(several(kind))
    settings = {"kl_in": "reward"} if name == "grpo" else {}
    algorithm = learner(name, env, advantage_level="turn", responses_per_context=4, **settings)
    batch = algorithm.collect(env)
    ref_logp, data = data_of(algorithm, batch)
    returns = returns_of(batch, earned(batch, ref_logp, kind))
    episodes = episodes_of(batch)
    expected = np.zeros(len(returns))
    for rows in episodes:
        group = [other for other in episodes if batch.samples[other[0]].index == batch.samples[rows[0]].index]
        for k, row in enumerate(rows):
            same_turn = [returns[other[min(k, len(other) - 1)]] for other in group]
            if name == "rloo":
                expected[row] = returns[row] - (sum(same_turn) - returns[row]) / (len(group) - 1)
            else:
                expected[row] = (returns[row] - np.mean(same_turn)) / np.sqrt(np.var(same_turn) + 1e-6)
    assert {len(rows) for rows in episodes} == {1, 2}
    np.testing.assert_allclose(data.advantages[:, 0].numpy(), expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_gae_runs_over_turns_with_the_value_at_the_start_of_each(name, kind):
    env = world(kind)
    algorithm = learner(name, env, advantage_level="turn", gamma=0.9, gae_lambda=0.8)
    batch = algorithm.collect(env)
    ref_logp, data = data_of(algorithm, batch)
    rewards, values = earned(batch, ref_logp, kind), batch.values.double().numpy()[:, 0]
    expected = np.zeros(len(rewards))
    for rows in episodes_of(batch):
        following = 0.0
        for k in reversed(range(len(rows))):
            next_value = values[rows[k + 1]] if k + 1 < len(rows) else 0.0
            following = rewards[rows[k]] + 0.9 * next_value - values[rows[k]] + 0.9 * 0.8 * following
            expected[rows[k]] = following
    mask = batch.mask.numpy()
    np.testing.assert_allclose(data.returns.numpy(), (expected + values)[:, None] * mask, rtol=1e-4, atol=1e-5)
    tokens = (expected[:, None] * np.ones_like(mask))[mask == 1]
    whitened = (expected[:, None] - tokens.mean()) / tokens.std() * mask
    np.testing.assert_allclose(data.advantages.numpy(), whitened, rtol=1e-3, atol=1e-4)
    new = algorithm.policy.evaluate(batch.responses())
    shifted = new._replace(values=new.values + torch.tensor([0.05, 7.0]))  # at the second token: it has no value
    _, logs = algorithm.loss(shifted, data)
    errors = np.repeat((values + 0.05 - (expected + values)) ** 2, mask.sum(1).astype(int))
    assert logs["value_loss"].value.item() == pytest.approx(0.5 * errors.mean(), rel=1e-3)


def estimated_gradient(algorithm, env, batches):
    head = {id(algorithm.policy.network.value_head.weight), id(algorithm.policy.network.value_head.bias)}
    used = [p for p in algorithm.stepper.parameters if id(p) not in head]
    found = []
    for _ in range(batches):
        batch = algorithm.collect(env)
        _, data = data_of(algorithm, batch)
        loss, _ = algorithm.loss(algorithm.policy.evaluate(batch.responses()), data)
        found.append(flat(torch.autograd.grad(-loss.value, used, allow_unused=True)))
    return torch.stack(found).mean(0)


EXACT = {
    "ppo": {"gae_lambda": 1.0, "value_coef": 0.0},
    "a2c": {"gae_lambda": 1.0, "value_coef": 0.0},
    "rloo": {"responses_per_context": 1024},
    "vineppo": {},
    "grpo": {"responses_per_context": 1024, "kl_in": "reward", "scale": "none", "normalisation": "dr-grpo"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXACT)
def test_the_gradient_over_turns_is_the_exact_one_of_the_episode(name, kind):
    env = world(kind, 1024)
    level = {} if name == "vineppo" else {"advantage_level": "turn"}
    algorithm = learner(name, env, **level, **EXACT[name])
    exact = exact_gradient(algorithm, kind is LatePair)
    similarity = torch.nn.functional.cosine_similarity(estimated_gradient(algorithm, env, 8), exact, dim=0).item()
    print(name, kind.__name__, similarity)
    assert similarity > 0.98


def test_without_turns_a_reply_does_not_answer_for_later_ones():
    env = world(Pair, 1024)
    algorithm = learner("rloo", env, **EXACT["rloo"])
    found = estimated_gradient(algorithm, env, 8)
    similarity = torch.nn.functional.cosine_similarity(found, exact_gradient(algorithm), dim=0).item()
    print(similarity)
    assert similarity < 0.8


def test_replies_of_an_episode_need_not_be_neighbours():
    episodes = torch.tensor([0, 1, 2, 0, 2, 0])
    rewards, values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), torch.zeros(6)
    assert turn_numbers(episodes).tolist() == [0, 0, 0, 1, 1, 2]
    assert last_turns(episodes).tolist() == [False, True, False, False, True, True]
    assert turn_returns(rewards, episodes).tolist() == [41.0, 2.0, 20.0, 40.0, 16.0, 32.0]
    assert turn_gae(rewards, values, episodes, 1.0, 1.0).tolist() == [41.0, 2.0, 20.0, 40.0, 16.0, 32.0]
    assert turn_gae(rewards, values, episodes, 0.5, 1.0).tolist() == [13.0, 2.0, 12.0, 24.0, 16.0, 32.0]
    contexts = torch.tensor([5, 5, 6, 7, 8, 9])
    returns, groups, rows = turn_groups(rewards, contexts, episodes)
    assert returns.tolist() == [1.0, 8.0, 32.0, 2.0, 2.0, 2.0, 4.0, 16.0, 16.0]
    assert groups.tolist() == [15, 16, 17, 15, 16, 17, 18, 19, 20]
    assert rows.tolist() == [0, 3, 6, 1, 7, 2]


def test_joined_and_selected_batches_keep_their_episodes_apart():
    env = world(LatePair, 16)
    policy = learner("rloo", env).policy
    one, two = rollout(policy, env), rollout(policy, env)
    both = one.join([two], env.tokenizer.pad_id)
    assert both.pays_at_end
    assert both.episodes.tolist() == [*one.episodes.tolist(), *(two.episodes + 16).tolist()]
    part = both.select(np.arange(int(one.contexts.max()) + 1, int(both.contexts.max()) + 1))
    assert part.pays_at_end
    assert sorted(part.episodes.tolist()) == sorted(two.episodes.tolist())
    assert [part.texts[rows[0]] for rows in episodes_of(part) if len(rows) > 1]


def test_dynamic_sampling_over_turns_is_refused():
    with pytest.raises(ValueError, match=r"advantage_level='turn'.*leave out --dynamic-sampling"):
        GRPOConfig(advantage_level="turn", dynamic_sampling=True)
    assert "advantage_level" not in offered(DAPOConfig)
