"""VinePPO: values from branches against exact enumeration, advantages against loops, tokens, and dialogues."""

import numpy as np
import pytest
import torch
from test_algorithms import trainer
from test_exact_references import BETA, LENGTH, PAD, SEQUENCES, WORTH, learner, world
from test_return_baselines import moved
from two_turns import LatePair, Pair
from two_turns import learner as turn_learner
from two_turns import world as turn_world

from agents.policies.token_policy import Responses
from agents.rollouts.branching import states_of


def token_log_probabilities(policy, env):
    """Of the tokens of every sequence, (40, 3), 0 on padding."""
    env.reset(options={"sample_index": np.zeros(env.num_envs, int)})
    observations = {k: v[:1] for k, v in env.reset()[0].items()}
    tokens = torch.tensor([[*s, *[PAD] * (LENGTH - len(s))] for s in SEQUENCES])
    mask = (tokens != PAD).float()
    with torch.no_grad():
        responses = Responses(policy.encode(observations), tokens, mask, torch.zeros(len(tokens), dtype=torch.long))
        return (policy.evaluate(responses).logp * mask).double().numpy()


def exact_values(algorithm, env):
    """Mean and variance of score minus KL cost from each prefix on, by summing over the sequences that begin so."""
    logp, ref_logp = (token_log_probabilities(p, env) for p in (algorithm.policy, algorithm.reference))
    moments = {}
    for prefix in {s[:n] for s in SEQUENCES for n in range(len(s))}:
        n = len(prefix)
        rows = [i for i, s in enumerate(SEQUENCES) if s[:n] == prefix and len(s) > n]
        p = np.exp(logp[rows, n:].sum(1))
        returns = np.array([WORTH[SEQUENCES[i]] for i in rows]) - BETA * (logp - ref_logp)[rows, n:].sum(1)
        assert p.sum() == pytest.approx(1, abs=1e-4)
        mean = (p * returns).sum()
        moments[prefix] = mean, (p * (returns - mean) ** 2).sum()
    return moments


def estimates_of(batch, every=1):
    """The value of each prefix that a batch's responses passed through."""
    return {
        state.response: batch.values[row, k * every].item()
        for row, states in enumerate(states_of(batch, every))
        for k, state in enumerate(states)
    }


def test_values_of_branches_are_unbiased():
    """The mean of 2,000 branches lies within 4.5 standard errors of the exact value, at each of 13 states."""
    env = world(256)
    algorithm = learner("vineppo", env, kl_coef=BETA, branches=2000)
    moved(algorithm, 0.1)
    found = estimates_of(algorithm.collect(env))
    exact = exact_values(algorithm, env)
    assert found.keys() == exact.keys()
    assert len(found) == 13
    for prefix, (mean, variance) in exact.items():
        assert abs(found[prefix] - mean) < 4.5 * (variance / 2000) ** 0.5 + 1e-5, prefix
    spread = np.std([mean for mean, _ in exact.values()])
    assert spread > 10 * max(variance / 2000 for _, variance in exact.values()) ** 0.5  # so that the bound says much


def test_where_the_policy_is_certain_one_branch_is_exact_and_no_token_has_an_advantage():
    env = world(8)
    algorithm = learner("vineppo", env, kl_coef=BETA, branches=1, temperature=1e-6)
    batch = algorithm.collect(env)
    exact = exact_values(algorithm, env)
    for prefix, value in estimates_of(batch).items():
        assert value == pytest.approx(exact[prefix][0], abs=1e-5)
    with torch.no_grad():
        ref_logp = algorithm.reference.evaluate(batch.responses()).logp
        data = algorithm.data(batch, ref_logp)
    assert data.advantages.abs().max() < 0.1  # differences of rounding, divided by at least 1e-4
    length = int(batch.mask[0].sum())
    assert len(set(map(tuple, batch.tokens.tolist()))) == 1
    # Eight lanes are filled by one branch from each of a few states: further lanes take the first ones again.
    branches = [length - k for k in range(length)]
    assert batch.extra_tokens == np.resize(branches, 8).sum()


@pytest.mark.parametrize("every", [1, 2])
def test_an_advantage_is_what_was_paid_plus_the_next_value_minus_this_one(every):
    env = world(64)
    algorithm = learner("vineppo", env, kl_coef=BETA, branches=2, branch_every=every)
    moved(algorithm, 0.1)
    batch = algorithm.collect(env)
    with torch.no_grad():
        ref_logp = algorithm.reference.evaluate(batch.responses()).logp
        data = algorithm.data(batch, ref_logp)
    kl = (batch.logp - ref_logp).double().numpy()
    values = batch.values.double().numpy()
    expected = np.full(kl.shape, np.nan)
    for i, row in enumerate(batch.tokens.tolist()):
        tokens = tuple(t for t in row if t != PAD)
        for t in range(len(tokens)):
            start = t - t % every
            end = min(start + every, len(tokens))
            over = end == len(tokens)
            reward = (WORTH[tokens] if over else 0.0) - BETA * kl[i, start:end].sum()
            expected[i, t] = reward + (0.0 if over else values[i, end]) - values[i, start]
    whitened = (expected - np.nanmean(expected)) / np.nanstd(expected)
    np.testing.assert_allclose(data.advantages.numpy(), np.nan_to_num(whitened), atol=1e-5)
    assert set(np.unique(batch.values[:, 1] != 0)) == ({False} if every == 2 else {False, True})

    moved(algorithm, 0.05)
    new = algorithm.policy.evaluate(batch.responses())
    loss, _ = algorithm.loss(new, data)
    real = batch.mask.numpy() == 1
    ratio = np.exp(new.logp.detach().double().numpy() - batch.logp.double().numpy())[real]
    a = whitened[real]
    assert loss.value.item() == pytest.approx(-np.minimum(a * ratio, a * ratio.clip(0.8, 1.2)).mean(), abs=1e-5)


def test_tokens_of_branches_count_towards_the_budget(tmp_path):
    run = trainer("vineppo", tmp_path / "run", branches=2)
    run.policy.eval()
    sampled = []
    collect = run.algorithm.collect

    def counted(env):
        sampled.append(collect(env))
        return sampled[-1]

    run.algorithm.collect = counted
    row = run._update()
    assert row["branch_tokens"] > sampled[0].num_tokens
    assert run.tokens == sampled[0].num_tokens + row["branch_tokens"]


@pytest.mark.parametrize("kind", [Pair, LatePair])
def test_in_a_dialogue_a_branch_begins_after_the_replies_that_were_said(kind):
    """Of a policy that is certain one branch is exact: what is paid from the state on. No token has an advantage."""
    env = turn_world(kind, 8)
    algorithm = turn_learner("vineppo", env, branches=1, temperature=1e-6, kl_coef=0.0)
    algorithm.policy.logit_bias[1] = -1e6  # words alone, so that there is a second turn
    batch = algorithm.collect(env)
    first, second = (next(i for i, s in enumerate(batch.samples) if s.turn == turn) for turn in (0, 1))
    paid = [0.0 if kind is LatePair else batch.scores[first].item(), batch.scores[second].item()]
    assert batch.values[first].tolist() == pytest.approx([sum(paid)] * 2)
    assert batch.values[second].tolist() == pytest.approx([paid[1]] * 2)
    with torch.no_grad():
        data = algorithm.data(batch, batch.logp)
    assert data.advantages.abs().max() < 0.1  # rounding, divided by at least 1e-4
    starts = [several[0] for several in states_of(batch, 1)]
    said = tuple(batch.tokens[first].tolist())
    assert (starts[first].replies, starts[second].replies) == ((), (said,))


@pytest.mark.parametrize("env_id", ["mmenv/SpokenDialogue-v0", "mmenv/Guess-v0"])
def test_it_plays_the_dialogues_of_the_package(tmp_path, env_id):
    run = trainer("vineppo", tmp_path / "run", env_id=env_id, num_envs=8)
    row = run._update()
    assert np.isfinite(row["kl"])
    assert row["branch_tokens"] > 0
