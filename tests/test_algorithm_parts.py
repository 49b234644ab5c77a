"""The formulas: GAE against the naive sum, losses at hand-worked points, KL estimators, whitening."""

import numpy as np
import pytest
import torch

from agents.algorithms.ppo import PPOConfig
from agents.maths.advantages import at_the_end, gae, whiten
from agents.maths.kl import KLController, k1, k3, penalised
from agents.maths.losses import clip_fraction, clipped_policy_loss, clipped_value_loss
from agents.maths.means import Mean, row_mean, token_mean


def naive_gae(rewards, values, length, gamma, lam):
    out = np.zeros(len(rewards))
    for t in range(length):
        for k in range(t, length):
            following = values[k + 1] if k + 1 < length else 0.0
            out[t] += (gamma * lam) ** (k - t) * (rewards[k] + gamma * following - values[k])
    return out


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_the_naive_sum(gamma, lam):
    rng = np.random.default_rng(0)
    lengths = np.array([1, 3, 7, 5])
    rewards, values = rng.normal(size=(2, 4, 7))
    mask = (np.arange(7) < lengths[:, None]).astype(float)
    found = gae(*(torch.from_numpy(x) for x in (rewards, values, mask)), gamma, lam)
    for i, n in enumerate(lengths):
        np.testing.assert_allclose(found[i], naive_gae(rewards[i], values[i], n, gamma, lam))


def test_values_on_padding_change_no_advantage():
    rewards, values, mask = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert gae(rewards, values, mask, 1.0, 0.95).abs().sum() == 0


def test_whitened_real_tokens_have_mean_zero_and_variance_one():
    x, mask = torch.randn(5, 8) * 3 + 2, (torch.rand(5, 8) < 0.7).float()
    out = whiten(x, mask)
    assert token_mean(out, mask).value.item() == pytest.approx(0, abs=1e-5)
    assert token_mean(out**2, mask).value.item() == pytest.approx(1, abs=1e-4)
    assert (out[mask == 0] == 0).all()
    kept = token_mean(whiten(x, mask, keep_mean=True), mask).value.item()
    assert kept == pytest.approx(token_mean(x, mask).value.item(), abs=1e-5)


def test_policy_loss_at_hand_worked_points():
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    assert clipped_policy_loss(zero, zero, 2 * one, one, 0.2).value.item() == pytest.approx(-2)
    double = torch.full((1, 1), float(np.log(2)))
    assert clipped_policy_loss(double, zero, one, one, 0.2).value.item() == pytest.approx(-1.2)  # gain is cut
    assert clipped_policy_loss(double, zero, -one, one, 0.2).value.item() == pytest.approx(2.0)  # loss is not
    assert clip_fraction(double, zero, one, 0.2).value.item() == 1.0
    assert clip_fraction(zero, zero, one, 0.2).value.item() == 0.0


def test_value_loss_takes_the_worse_of_clipped_and_unclipped():
    one = torch.ones(1, 1)
    assert clipped_value_loss(one, 0 * one, one, one, 0.2).value.item() == pytest.approx(0.5 * 0.8**2)
    assert clipped_value_loss(0.1 * one, 0 * one, one, one, 0.2).value.item() == pytest.approx(0.5 * 0.9**2)


def test_padding_adds_nothing_to_a_loss():
    logp, old = torch.randn(2, 3), torch.randn(2, 3)
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    advantages = torch.randn(2, 3)
    changed = torch.where(mask == 0, torch.full_like(logp, 5.0), logp)
    a, b = (clipped_policy_loss(x, old, advantages, mask, 0.2).value for x in (logp, changed))
    torch.testing.assert_close(a, b)


def test_terms_of_a_loss_are_means_over_the_same_items():
    x, mask = torch.tensor([[1.0, 3.0]]), torch.ones(1, 2)
    loss = token_mean(x, mask) - 0.5 * token_mean(x**2, mask)
    assert (loss.value.item(), loss.count.item()) == (-0.5, 2.0)
    with pytest.raises(ValueError, match="mean over 2 items is added to one over 1: take all terms"):
        token_mean(x, mask) + row_mean(x.sum(1))
    assert -token_mean(x, mask) == Mean(torch.tensor(-2.0), torch.tensor(2.0))


def test_k3_is_never_negative_and_agrees_with_k1_on_average():
    torch.manual_seed(0)
    logits, ref = torch.randn(2, 40)
    p, q = logits.log_softmax(0), ref.log_softmax(0)
    taken = torch.multinomial(p.exp(), 200_000, replacement=True)
    exact = (p.exp() * (p - q)).sum().item()
    low_variance, unbiased = k3(p[taken], q[taken]), k1(p[taken], q[taken])
    assert (low_variance >= 0).all()
    assert low_variance.mean().item() == pytest.approx(exact, rel=0.05)
    assert unbiased.mean().item() == pytest.approx(exact, rel=0.05)


def test_the_score_is_paid_on_the_last_real_token():
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    logp, ref = torch.zeros(2, 3), torch.full((2, 3), -1.0)
    rewards = penalised(at_the_end(torch.tensor([5.0, 7.0]), mask), logp, ref, mask, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 4.9, 0.0], [-0.1, -0.1, 6.9]]))


def test_adaptive_beta_follows_its_formula():
    controller = KLController(0.15, target=6.0, horizon=10_000)
    controller.update(12.0, 256)
    assert controller.beta == pytest.approx(0.15 * (1 + 0.2 * 256 / 10_000))
    controller.update(5.4, 100)
    assert controller.beta == pytest.approx(0.15 * (1 + 0.2 * 256 / 10_000) * (1 - 0.1 * 100 / 10_000))
    fixed = KLController(0.05)
    fixed.update(100.0, 1000)
    assert fixed.beta == 0.05


@pytest.mark.parametrize("field", ["total_tokens", "num_envs", "epochs", "temperature", "learning_rate"])
def test_a_setting_that_makes_no_sense_is_named(field):
    with pytest.raises(ValueError, match=field):
        PPOConfig(**{field: 0})
