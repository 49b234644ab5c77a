"""A world small enough to enumerate (vocabulary 5, length 3): optima, gradients and best-of-n by exact sums."""

import math

import numpy as np
import pytest
import torch
from toys import Colours

from agents.algorithms.registry import find
from agents.maths.advantages import group_relative, leave_one_out
from agents.maths.kl import kl_of_best
from agents.policies.chooser import Chooser
from agents.policies.token_policy import Responses, TokenPolicy
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.tokenizer import WordTokenizer

PAD, END, LENGTH, BETA = 0, 1, 3, 0.5
SEQUENCES = (
    [(END,)] + [(a, END) for a in (2, 3, 4)] + [(a, b, c) for a in (2, 3, 4) for b in (2, 3, 4) for c in (END, 2, 3, 4)]
)
WORTH = dict(zip(SEQUENCES, np.random.default_rng(3).normal(size=len(SEQUENCES)).clip(-1.5, 1.5), strict=True))


def slow(*case):
    """A case of ``make test-slow``: a loss of a kind that a quick case has."""
    return pytest.param(*case, marks=pytest.mark.slow)


class Tiny(Colours):
    """One picture, two words: with padding, end and the unknown word a vocabulary of five."""

    name = "tiny"

    def default_tokenizer(self):
        return WordTokenizer(("colour", "it"))

    def size(self, split):
        return 1


def worth(samples, responses):
    return np.array([WORTH[r.tokens] for r in responses], np.float32)


def world(num_envs=256):
    env = TokenVectorEnv(
        Tiny, num_envs, reward=worth, autoreset_mode="Disabled", copy=False, max_response_tokens=LENGTH
    )
    env.reset(seed=0)
    assert env.single_action_space.n == 5
    return env


def network(seed=0):
    torch.manual_seed(seed)
    return Network(NetworkConfig(5, modalities=("image",), width=32, layers=1, heads=2))


def learner(name, env, **settings):
    given = {"num_envs": env.num_envs, "eval_episodes": 0, "missing_eos_penalty": 0.0, **settings}
    cls = find(name)
    config = cls.Config(**given)
    policy = cls.make_policy(config, network(), LENGTH, torch.Generator().manual_seed(0))
    reference = TokenPolicy(network(), LENGTH, generator=torch.Generator().manual_seed(1)).requires_grad_(False)
    return cls(config, policy, reference, np.random.default_rng(0))


def log_probabilities(policy, env):
    """Of every sequence, (40,); differentiable."""
    env.reset(options={"sample_index": np.zeros(env.num_envs, int)})
    observations = {k: v[:1] for k, v in env.reset()[0].items()}
    tokens = torch.tensor([[*s, *[PAD] * (LENGTH - len(s))] for s in SEQUENCES])
    mask = (tokens != PAD).float()
    responses = Responses(policy.encode(observations), tokens, mask, torch.zeros(len(tokens), dtype=torch.long))
    return (policy.evaluate(responses)[0] * mask).sum(1)


def optimum(reference, env, beta=BETA):
    """log of the KL-regularised optimum: reference * exp(score / beta), normalised."""
    with torch.no_grad():
        scores = torch.tensor([WORTH[s] for s in SEQUENCES], dtype=torch.float32)
        return (log_probabilities(reference, env) + scores / beta).log_softmax(0)


def apart(a, b):
    """Total variation between two distributions given as logs."""
    return 0.5 * (a.exp() - b.exp()).abs().sum().item()


def trained(name, updates, lanes=128, **settings):
    env = world(lanes)
    algorithm = learner(name, env, **settings)
    for i in range(updates):
        algorithm.update(algorithm.collect(env), i / updates)
    with torch.no_grad():
        return algorithm, env, log_probabilities(algorithm.policy, env)


def test_the_sequences_are_all_there_are():
    env = world()
    with torch.no_grad():
        total = log_probabilities(TokenPolicy(network(), LENGTH), env).exp().sum().item()
    assert len(SEQUENCES) == 40
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "updates", "settings"),
    [
        ("ppo", 80, {"kl_coef": BETA}),
        ("grpo", 80, {"kl_coef": BETA, "kl_in": "reward", "scale": "none"}),
        ("online-dpo", 80, {"kl_coef": BETA}),
        slow("nlpo", 80, {"kl_coef": BETA, "mask_top_p": 0.9999}),
        slow("a2c", 150, {"kl_coef": BETA}),
        slow("vineppo", 80, {"kl_coef": BETA}),
        slow("reinforce", 150, {"kl_coef": BETA}),
        slow("rloo", 150, {"kl_coef": BETA}),
        slow("remax", 150, {"kl_coef": BETA}),
        slow("reinforce-pp", 80, {"kl_coef": BETA}),
        slow("reinforce-pp-baseline", 80, {"kl_coef": BETA}),
        slow("gspo", 80, {"kl_coef": BETA, "kl_in": "reward", "scale": "none", "clip_coef": 0.2, "clip_high": None}),
        slow("sapo", 80, {"kl_coef": BETA, "kl_in": "reward", "scale": "none"}),
        slow("online-dpo", 150, {"kl_coef": BETA, "labels": "drawn"}),
        slow("offline-dpo", 150, {"kl_coef": BETA, "pairs": 6000}),
    ],
)
def test_training_ends_at_the_optimum_of_reward_and_kl(name, updates, settings):
    algorithm, env, found = trained(name, updates, learning_rate=5e-3, **settings)
    best = optimum(algorithm.reference, env)
    with torch.no_grad():
        start = log_probabilities(algorithm.reference, env)
    print(name, settings, f"start {apart(start, best):.3f} found {apart(found, best):.3f}")
    assert apart(start, best) > 0.5
    assert apart(found, best) < 0.08


@pytest.mark.slow
def test_grpo_with_its_kl_in_the_loss_ends_elsewhere_and_near():
    algorithm, env, found = trained("grpo", 80, learning_rate=5e-3, kl_coef=BETA, scale="none")
    best = optimum(algorithm.reference, env)
    print("grpo kl in loss", apart(found, best))
    assert 0.08 < apart(found, best) < 0.5


def exact_gradient(algorithm, env):
    """Gradient of E[score] - beta * KL(policy || reference), by summing over every sequence."""
    logp = log_probabilities(algorithm.policy, env)
    with torch.no_grad():
        ref = log_probabilities(algorithm.reference, env)
    scores = torch.tensor([WORTH[s] for s in SEQUENCES], dtype=torch.float32)
    objective = (logp.exp() * (scores - BETA * (logp - ref))).sum()
    return flat(torch.autograd.grad(objective, algorithm.stepper.parameters, allow_unused=True))


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients if g is not None])


@pytest.mark.parametrize(
    "name", ["rloo", "reinforce-pp", "ppo", slow("reinforce"), slow("remax"), slow("a2c"), slow("vineppo")]
)
def test_the_gradient_is_the_exact_one(name):
    env = world(4096)
    settings = {"responses_per_context": 4096} if name == "rloo" else {}
    if name in ("ppo", "a2c"):
        settings["gae_lambda"] = 1.0
        settings["value_coef"] = 0.0
    algorithm = learner(name, env, kl_coef=BETA, **settings)
    with torch.no_grad():  # away from the start, so that the KL matters
        for p in algorithm.stepper.parameters:
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    exact = exact_gradient(algorithm, env)
    estimates = []
    for _ in range(8):
        batch = algorithm.collect(env)
        with torch.no_grad():
            data = algorithm.data(batch, algorithm.reference.evaluate(batch.responses()).logp)
        loss, _ = algorithm.loss(algorithm.policy.evaluate(batch.responses()), data)
        used = [p for p in algorithm.stepper.parameters if p is not algorithm.policy.network.value_head.weight]
        used = [p for p in used if p is not algorithm.policy.network.value_head.bias]
        gradient = torch.autograd.grad(-loss.value, used, allow_unused=True)
        estimates.append(flat(gradient))
    estimate = torch.stack(estimates).mean(0)
    similarity = torch.nn.functional.cosine_similarity(estimate, exact, dim=0).item()
    print(name, similarity)
    assert similarity > 0.98


def test_the_gradient_of_gspo_is_that_of_ratios_of_responses():
    """Off policy: mean over responses of ratio * advantage * the gradient of the mean log-probability of its tokens."""
    env = world(256)
    algorithm = learner("gspo", env, kl_in="reward", clip_coef=0.99, clip_high=0.99)
    batch = algorithm.collect(env)
    with torch.no_grad():
        for p in algorithm.stepper.parameters:
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
        data = algorithm.data(batch, algorithm.reference.evaluate(batch.responses()).logp)
    loss, _ = algorithm.loss(algorithm.policy.evaluate(batch.responses()), data)
    logp = algorithm.policy.evaluate(batch.responses()).logp
    length = batch.mask.sum(1)
    new, old = (logp * batch.mask).sum(1), (batch.logp * batch.mask).sum(1)
    ratio = ((new - old) / length).exp().detach()
    expected = -(ratio * data.advantages[:, 0] * new / length).mean()
    assert ratio.std() > 0.01
    assert 0.01 < ratio.min() < ratio.max() < 1.99  # nothing is clipped
    parameters = algorithm.stepper.parameters
    found, exact = (flat(torch.autograd.grad(x, parameters, allow_unused=True)) for x in (loss.value, expected))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-6)


def best_of(n, start):
    """Exact probabilities of the best of n draws: F(y)^n less what is below."""
    order = sorted(range(len(SEQUENCES)), key=lambda i: WORTH[SEQUENCES[i]])
    probabilities, below = torch.zeros(len(SEQUENCES)), 0.0
    values = [WORTH[s] for s in SEQUENCES]
    for value in sorted(set(values)):
        tied = [i for i in order if values[i] == value]
        mass = start[tied].exp().sum().item()
        for i in tied:
            probabilities[i] = ((below + mass) ** n - below**n) * start[i].exp().item() / mass
        below += mass
    return probabilities


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4, 16])
def test_best_of_n_says_the_best_of_n(n):
    env = world(2048)
    policy = TokenPolicy(network(), LENGTH)
    chooser = Chooser(policy, env, n, torch.Generator().manual_seed(0))
    observations, _ = env.reset(options={"sample_index": np.zeros(2048, int)})
    said = [tuple(t for t in row if t != PAD) for _ in range(4) for row in chooser.choose(observations).tolist()]
    with torch.no_grad():
        start = log_probabilities(policy, env)
    exact = best_of(n, start)
    counts = torch.tensor([said.count(s) for s in SEQUENCES]) / len(said)
    assert 0.5 * (counts - exact).abs().sum() < 0.04
    kl = (exact * (exact.clamp(min=1e-12).log() - start)).sum().item()
    assert kl <= kl_of_best(n) + 1e-5


@pytest.mark.parametrize("n", [1, 2, 4, 16, 64])
def test_kl_and_win_rate_of_best_of_n_have_a_closed_form_where_scores_have_no_ties(n):
    m = 100_000  # equally likely responses, all of different worth
    top = np.arange(1, m + 1) / m
    best = top**n - (top - 1 / m) ** n
    kl = float((best * np.log(np.maximum(best, 1e-300) * m)).sum())
    wins = float((best * (top - 0.5 / m)).sum())  # against one draw, ties half
    assert kl == pytest.approx(kl_of_best(n), abs=2e-3)
    assert kl_of_best(n) == pytest.approx(math.log(n) - (n - 1) / n)
    assert wins == pytest.approx(n / (n + 1), abs=1e-3)


@pytest.mark.slow
def test_distillation_goes_from_the_start_towards_the_best_of_n():
    # There is one picture, so that all eight lanes answer the same: an update imitates one response, and Adam with
    # single responses does not end at the exact mixture.
    algorithm, env, found = trained("distillation", 1000, lanes=8, minibatches=1, learning_rate=2e-3)
    with torch.no_grad():
        start = log_probabilities(algorithm.reference, env)
    exact = best_of(8, start).log()
    print("distillation", apart(start, exact), apart(found, exact))
    assert apart(found, exact) < 0.5 * apart(start, exact)


def test_leaving_one_out_is_the_naive_mean_of_the_others():
    scores, contexts = torch.tensor([1.0, 2.0, 6.0, 5.0, 7.0]), torch.tensor([0, 0, 0, 1, 2])
    expected = [1 - 4, 2 - 3.5, 6 - 1.5, 5 - 16 / 4, 7 - 14 / 4]
    torch.testing.assert_close(leave_one_out(scores, contexts), torch.tensor(expected))


def test_groups_have_mean_zero_and_deviation_one():
    scores, contexts = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 1, 1])
    found = group_relative(scores, contexts)
    assert found[:3].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[:3].var(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert (found[3:] == 0).all()
    assert group_relative(scores, contexts, scale=False).tolist() == [-2.0, -1.0, 3.0, 0.0, 0.0]
