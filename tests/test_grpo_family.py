"""GRPO and its relatives against the formulas of their papers, written again in NumPy, on the enumerable world."""

import numpy as np
import pytest
import torch
from test_exact_references import (
    LENGTH,
    PAD,
    SEQUENCES,
    WORTH,
    Tiny,
    flat,
    learner,
    log_probabilities,
    slow,
    trained,
    world,
    worth,
)

from agents.algorithms.grpo import GRPOData
from agents.algorithms.registry import find
from agents.maths.advantages import overlong_punishment
from agents.policies.token_policy import Evaluated, Responses
from agents.settings.bounds import offered
from mmenv.envs.token_vector_env import TokenVectorEnv

FAMILY = ("grpo", "dr-grpo", "dapo", "gspo", "cispo", "sapo")
WITHOUT_KL = ("dr-grpo", "dapo", "cispo")


class Several(Tiny):
    """Several pictures, so that a batch has several groups."""

    def size(self, split):
        return 1000


def several(reward=worth, num_envs=32):
    env = TokenVectorEnv(
        Several, num_envs, reward=reward, autoreset_mode="Disabled", copy=False, max_response_tokens=LENGTH
    )
    env.reset(seed=0)
    return env


def token_derivative(name, ratio, advantage):
    """Of a token's term of the objective by the token's log-probability, as published."""
    if name in ("grpo", "dr-grpo", "dapo"):
        high = 1.28 if name == "dapo" else 1.2
        clipped = ratio > high if advantage > 0 else ratio < 0.8
        return 0.0 if clipped else ratio * advantage
    if name == "cispo":
        return min(ratio, 5.0) * advantage
    tau = 1.0 if advantage > 0 else 1.05
    gate = 1 / (1 + np.exp(-tau * (ratio - 1)))
    return 4 * gate * (1 - gate) * ratio * advantage


def derivative(name, logp, old_logp, ref_logp, advantages, lengths):
    """Of the loss by the log-probability of each token, (B, T), from the papers' sums over responses and tokens."""
    out = np.zeros_like(logp)
    for i, (length, advantage) in enumerate(zip(lengths, advantages, strict=True)):
        sequence_ratio = np.exp((logp[i, :length] - old_logp[i, :length]).mean())
        for t in range(length):
            if name == "gspo":
                clipped = sequence_ratio > 1 + 4e-4 if advantage > 0 else sequence_ratio < 1 - 3e-4
                slope = 0.0 if clipped else sequence_ratio * advantage
            else:
                slope = token_derivative(name, np.exp(logp[i, t] - old_logp[i, t]), advantage)
            kl_slope = 0.0 if name in WITHOUT_KL else 0.05 * (1 - np.exp(ref_logp[i, t] - logp[i, t]))
            divisor = {"dr-grpo": LENGTH * len(logp), "dapo": sum(lengths), "cispo": sum(lengths)}
            out[i, t] = (kl_slope - slope) / divisor.get(name, length * len(logp))
    return out


@pytest.mark.parametrize("name", FAMILY)
def test_the_gradient_off_policy_is_that_of_the_paper(name):
    env = several(num_envs=128)
    algorithm = learner(name, env)
    batch = algorithm.collect(env)
    ref_logp = algorithm.reference.evaluate(batch.responses()).logp
    data = algorithm.data(batch, ref_logp)
    size = 1e-3 if name == "gspo" else 1.0  # so that some ratios lie outside the range, and some inside
    noise = size * torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(3))
    logp = (batch.logp + noise).detach().requires_grad_()
    zeros = torch.zeros_like(logp)
    loss, logs = algorithm.loss(Evaluated(logp, zeros, zeros), data)
    loss.value.backward()
    arrays = [x.detach().double().numpy() for x in (logp, batch.logp, ref_logp, data.advantages[:, 0])]
    lengths = batch.mask.sum(1).int().tolist()
    expected = derivative(name, *arrays, lengths)
    assert len(set(lengths)) > 1
    if name != "sapo":
        assert 0 < logs["clip_fraction"].value < 1
    np.testing.assert_allclose(logp.grad.numpy() * batch.mask.numpy(), expected, rtol=1e-4, atol=1e-6)
    if name in ("cispo", "sapo"):
        assert (logp.grad[(batch.mask > 0) & (data.advantages != 0)] != 0).all()


@pytest.mark.parametrize("name", FAMILY)
def test_the_advantages_are_those_of_the_paper(name):
    env = several()
    algorithm = learner(name, env)
    batch = algorithm.collect(env)
    found = algorithm.data(batch, batch.logp).advantages[:, 0].numpy()
    scores = batch.scores.double().numpy()
    if name == "dapo":  # the last fifth of three tokens: a response of three has used it up
        scores = scores - (batch.mask.sum(1).numpy() == LENGTH)
    contexts = batch.contexts.numpy()
    expected = np.zeros(len(scores))
    for context in set(contexts):
        group = contexts == context
        expected[group] = scores[group] - scores[group].mean()
        if name != "dr-grpo" and scores[group].std() > 0:
            expected[group] /= scores[group].std()
    assert len(set(contexts)) >= 8
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def enumerated(algorithm, env, advantages):
    """The loss that a batch of infinite size has on policy: every sequence, weighted by its probability."""
    env.reset(options={"sample_index": np.zeros(env.num_envs, int)})
    observations = {k: v[:1] for k, v in env.reset()[0].items()}
    tokens = torch.tensor([[*s, *[PAD] * (LENGTH - len(s))] for s in SEQUENCES])
    mask = (tokens != PAD).float()
    policy = algorithm.policy
    responses = Responses(policy.encode(observations), tokens, mask, torch.zeros(len(tokens), dtype=torch.long))
    logp = policy.evaluate(responses).logp
    old = logp.detach()
    data = GRPOData(responses, old, old, advantages[:, None].expand_as(old))
    probabilities = (old * mask).sum(1).exp()
    total = items = 0.0
    for i, probability in enumerate(probabilities):
        row = data.select(torch.tensor([i]))
        new = logp[i : i + 1, : row.mask.shape[1]]
        loss, _ = algorithm.loss(Evaluated(new, torch.zeros_like(new), torch.zeros_like(new)), row)
        total = total + probability * loss.value * loss.count
        items = items + probability * loss.count
    return total / items


@pytest.mark.parametrize("name", FAMILY)
def test_the_gradient_on_policy_is_exactly_that_of_the_scores_that_its_normalisation_implies(name):
    """Dr. GRPO, DAPO and CISPO follow the expected score; a mean over tokens first divides each score by its length."""
    env = world(8)
    algorithm = learner(name, env)
    with torch.no_grad():
        start = log_probabilities(algorithm.policy, env).exp()
    scores = torch.tensor([WORTH[s] for s in SEQUENCES], dtype=torch.float32)
    lengths = torch.tensor([float(len(s)) for s in SEQUENCES])
    mean = (start * scores).sum()
    deviation = (start * (scores - mean) ** 2).sum().sqrt()
    advantages = scores - mean if name == "dr-grpo" else (scores - mean) / deviation
    divisor = {"dr-grpo": LENGTH, "dapo": (start * lengths).sum(), "cispo": (start * lengths).sum()}.get(name, lengths)
    objective = (log_probabilities(algorithm.policy, env).exp() * advantages / divisor).sum()
    parameters = algorithm.stepper.parameters
    expected = flat(torch.autograd.grad(objective, parameters, allow_unused=True))
    found = flat(torch.autograd.grad(-enumerated(algorithm, env, advantages), parameters, allow_unused=True))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [slow("dr-grpo"), slow("dapo"), slow("cispo"), slow("sapo"), slow("gspo")])
def test_training_without_kl_ends_at_the_best_responses(name):
    settings = {"kl_coef": 0.0} if "kl_coef" in offered(find(name).Config) else {}
    if name == "dapo":
        settings["overlong_share"] = 0.0  # the best responses here are long
    _, _, logp = trained(name, 80, learning_rate=5e-3, **settings)
    values = torch.tensor([WORTH[s] for s in SEQUENCES], dtype=torch.float32)
    mean = (logp.exp() * values).sum().item()
    print(name, f"mean score {mean:.3f} of at most {values.max():.3f}")
    assert mean > 0.95 * values.max().item()


def first_word(samples, responses):
    """Equal for most responses to a context."""
    return np.array([float(r.tokens[0] == 2) for r in responses], np.float32)


def equal(samples, responses):
    return np.ones(len(responses), np.float32)


def test_dapo_drops_groups_of_equal_scores_and_refills_them():
    env = several(first_word)
    algorithm = learner("dapo", env)
    batch = algorithm.collect(env)
    scores, contexts = batch.scores.numpy(), batch.contexts.numpy()
    differ = [c for c in range(contexts.max() + 1) if len(set(scores[contexts == c])) > 1]
    rows = np.concatenate([part.numpy() for part in algorithm.minibatches(batch)])
    assert len(batch.scores) > 32  # there was a refill
    assert len(differ) > 8  # and with it more groups than needed
    assert sorted(rows) == np.flatnonzero(np.isin(contexts, differ[:8])).tolist()
    logs = algorithm.batch_logs(batch, algorithm.data(batch, batch.logp))
    assert logs == {"dropped_groups": contexts.max() + 1 - len(differ), "missing_responses": 0}


def test_the_tokens_of_dropped_groups_count():
    env = several(first_word)
    batch = learner("dapo", env).collect(env)
    assert batch.num_tokens == sum(len(r.split()) + (stop == "eos") for r, stop in zip(batch.texts, batch.stops))


def test_refills_that_find_nothing_end_and_nothing_is_learned():
    env = several(equal)
    algorithm = learner("dapo", env, max_refills=3)
    before = [p.detach().clone() for p in algorithm.stepper.parameters]
    batch = algorithm.collect(env)
    assert len(batch.scores) == 4 * 32
    logs = algorithm.update(batch, 0.0)
    assert (logs["dropped_groups"], logs["missing_responses"]) == (batch.contexts.max() + 1, 32)
    assert np.isfinite(logs["kl"])
    assert all(torch.equal(a, b) for a, b in zip(before, algorithm.stepper.parameters, strict=True))


def test_a_refilled_batch_is_evaluated_as_it_was_sampled():
    env = several(equal)
    algorithm = learner("dapo", env, max_refills=2)
    batch = algorithm.collect(env)
    logp = algorithm.policy.evaluate(batch.responses()).logp.detach()
    torch.testing.assert_close(logp * batch.mask, batch.logp, rtol=1e-4, atol=1e-5)


def test_the_punishment_of_length_grows_linearly_in_the_last_part_of_the_budget():
    lengths = torch.tensor([1.0, 16.0, 17.0, 18.0, 20.0])
    torch.testing.assert_close(overlong_punishment(lengths, 20, 0.2), torch.tensor([0.0, 0.0, -0.25, -0.5, -1.0]))


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("dr-grpo", {"normalisation": "dr-grpo", "scale": "none", "kl_coef": 0.0}),
        ("dapo", {"normalisation": "dapo", "scale": "group", "kl_coef": 0.0, "dynamic_sampling": True}),
        ("cispo", {"normalisation": "dapo", "scale": "group", "kl_coef": 0.0}),
        ("sapo", {"normalisation": "grpo"}),
        ("gspo", {"normalisation": "grpo"}),
    ],
)
def test_a_name_fixes_what_defines_it(name, fixed):
    cls = find(name).Config
    assert {key: getattr(cls(), key) for key in fixed} == fixed
    assert not fixed.keys() & set(offered(cls))
