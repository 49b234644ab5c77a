"""RLOO, REINFORCE, REINFORCE++ and ReMax against a few lines of NumPy, on the world of test_exact_references."""

import dataclasses

import numpy as np
import pytest
import torch
from test_algorithms import trainer
from test_exact_references import BETA, PAD, WORTH, flat, learner, world

from agents.algorithms.reinforce_pp import ReinforcePPConfig
from agents.algorithms.remax import greedy_baselines
from agents.rollouts.rollout import rollout


def moved(algorithm, size):
    """Change the weights a little."""
    with torch.no_grad():
        for p in algorithm.stepper.parameters:
            p.add_(size * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))


def sampled(name, env, **settings):
    """An algorithm, a batch of its policy (which differs from the reference), and what the loss takes."""
    algorithm = learner(name, env, kl_coef=BETA, **settings)
    moved(algorithm, 0.1)
    batch = algorithm.collect(env)
    with torch.no_grad():
        ref_logp = algorithm.reference.evaluate(batch.responses()).logp
        data = algorithm.data(batch, ref_logp)
    return algorithm, batch, ref_logp.double().numpy(), data


def returns(batch, ref_logp, baselines):
    """Score minus baseline minus beta times the KL from each token on, by loops; nan on padding."""
    logp, mask = batch.logp.double().numpy(), batch.mask.numpy()
    expected = np.full(mask.shape, np.nan)
    for i in range(len(mask)):
        tokens = tuple(t for t in batch.tokens[i].tolist() if t != PAD)
        for t in range(len(tokens)):
            kl = sum(logp[i, u] - ref_logp[i, u] for u in range(t, len(tokens)))
            expected[i, t] = WORTH[tokens] - baselines[i] - BETA * kl
    return expected


def group_means(batch):
    scores, contexts = batch.scores.double().numpy(), batch.contexts.numpy()
    return [scores[contexts == c].mean() for c in contexts]


@pytest.mark.parametrize("name", ["reinforce-pp", "reinforce-pp-baseline"])
def test_the_loss_of_reinforce_pp_is_that_of_its_paper(name):
    env = world(64)
    algorithm, batch, ref_logp, _ = sampled(name, env)
    # All lanes answer the one picture: told apart by fours they make groups with different means.
    groups = dataclasses.replace(batch, contexts=torch.arange(64) // 4)
    with torch.no_grad():
        data = algorithm.data(groups, torch.from_numpy(ref_logp).float())
    baselines = group_means(groups) if name == "reinforce-pp-baseline" else np.zeros(64)
    expected = returns(batch, ref_logp, baselines)
    expected = (expected - np.nanmean(expected)) / np.nanstd(expected)
    np.testing.assert_allclose(data.advantages.numpy(), np.nan_to_num(expected), atol=5e-6)

    moved(algorithm, 0.05)
    new = algorithm.policy.evaluate(batch.responses())
    loss, logs = algorithm.loss(new, data)
    real = batch.mask.numpy() == 1
    ratio = np.exp(new.logp.detach().double().numpy() - batch.logp.double().numpy())[real]
    a = expected[real]
    assert loss.value.item() == pytest.approx(-np.minimum(a * ratio, a * ratio.clip(0.8, 1.2)).mean(), abs=1e-6)
    assert 0.05 < logs["clip_fraction"].value < 0.95


def test_one_group_has_no_use_for_a_baseline_and_a_response_alone_is_refused_one():
    env = world(16)
    plain, with_baseline = (sampled("reinforce-pp", env, baseline=b)[3] for b in ("none", "group"))
    torch.testing.assert_close(plain.advantages, with_baseline.advantages)  # one context: the mean is a constant
    with pytest.raises(ValueError, match=r"responses_per_context=1 with baseline='group'.*give"):
        ReinforcePPConfig(baseline="group", responses_per_context=1)


def test_the_gradient_of_remax_is_that_of_its_paper():
    """Mean over responses of the sum over tokens of (score - greedy score - KL to go) times the gradient of log pi."""
    env = world(64)
    algorithm, batch, ref_logp, data = sampled("remax", env)
    algorithm.policy.greedy = True
    greedy = rollout(algorithm.policy, env, {"sample_index": np.zeros(64, int)})
    (words,) = {tuple(t for t in row if t != PAD) for row in greedy.tokens.tolist()}
    expected = returns(batch, ref_logp, np.full(64, WORTH[words]))
    np.testing.assert_allclose(data.advantages.numpy(), np.nan_to_num(expected), atol=5e-6)
    assert batch.extra_tokens == 64 * len(words)
    assert algorithm.batch_logs(batch, data) == {"greedy_tokens": 64.0 * len(words)}

    logp = algorithm.policy.evaluate(batch.responses()).logp
    weights = torch.from_numpy(np.nan_to_num(expected)).float()
    summed = -(weights * logp).sum() / 64
    loss = algorithm.loss(algorithm.policy.evaluate(batch.responses()), data)[0].value
    assert loss.item() == pytest.approx(summed.item(), abs=1e-6)
    parameters = algorithm.stepper.parameters
    found, exact = (flat(torch.autograd.grad(x, parameters, allow_unused=True)) for x in (loss, summed))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["rloo", "reinforce"])
def test_the_loss_of_a_response_as_one_action_is_a_mean_over_responses_of_sums_over_tokens(name):
    """And its gradient is the mean of (score - KL - baseline) times the gradient of the response's log-probability."""
    env = world(64)
    algorithm, batch, ref_logp, _ = sampled(name, env)
    with torch.no_grad():
        groups = dataclasses.replace(batch, contexts=torch.arange(64) // 4)
        data = algorithm.data(groups, torch.from_numpy(ref_logp).float())
    actions = returns(batch, ref_logp, np.zeros(64))[:, 0]  # from the first token on: score minus KL
    if name == "rloo":
        four = actions.reshape(16, 4)
        baselines = ((four.sum(1, keepdims=True) - four) / 3).ravel()
    else:
        baselines = algorithm.baseline  # of an earlier batch, which had the same scores
    expected = actions - baselines
    np.testing.assert_allclose(data.advantages[:, 0].numpy(), expected, atol=5e-6)
    logp = algorithm.policy.evaluate(batch.responses()).logp
    summed = -(torch.from_numpy(expected).float() * (logp * batch.mask).sum(1)).sum() / 64
    loss = algorithm.loss(algorithm.policy.evaluate(batch.responses()), data)[0]
    assert (loss.value.item(), loss.count.item()) == (pytest.approx(summed.item(), abs=1e-6), 64)
    parameters = algorithm.stepper.parameters
    found, exact = (flat(torch.autograd.grad(x, parameters, allow_unused=True)) for x in (loss.value, summed))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


def test_greedy_tokens_count_towards_the_budget(tmp_path):
    run = trainer("remax", tmp_path / "run")
    run.policy.eval()
    sampled_tokens = []
    collect = run.algorithm.collect

    def counted(env):
        batch = collect(env)
        sampled_tokens.append(batch.num_tokens)
        return batch

    run.algorithm.collect = counted
    row = run._update()
    assert row["greedy_tokens"] > 0
    assert run.tokens == sampled_tokens[0] + row["greedy_tokens"]


def test_a_reply_is_compared_with_the_greedy_reply_of_its_turn_or_with_the_last_one(tmp_path):
    run = trainer("remax", tmp_path / "run", env_id="mmenv/SpokenDialogue-v0")
    run.policy.eval()
    batch = run.algorithm.collect(run.env)
    policy = run.policy
    policy.greedy = True
    indices = np.array([s.index for s in batch.samples[:16]])
    greedy = rollout(policy, run.env, {"sample_index": indices})
    scores = torch.arange(len(greedy.samples), dtype=torch.float32)
    keys = [(s.index, s.turn) for s in greedy.samples]
    found = greedy_baselines(batch, greedy, scores)
    assert any(s.turn > 0 for s in batch.samples)
    for sample, baseline in zip(batch.samples, found.int().tolist(), strict=True):
        index, turn = keys[baseline]
        assert index == sample.index
        assert turn == sample.turn or (turn < sample.turn and (index, turn + 1) not in keys)
