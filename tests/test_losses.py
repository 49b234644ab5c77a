"""Losses and estimators where numbers are extreme: finite gradients, no bias, and steps that are refused."""

import dataclasses

import numpy as np
import pytest
import torch
from test_algorithms import trainer

from agents.maths.advantages import explained_variance
from agents.maths.kl import k3
from agents.maths.losses import (
    capped_weight_loss,
    clip_fraction,
    clipped_policy_loss,
    clipped_value_loss,
    gated_policy_loss,
    sequence_clipped_loss,
)


@pytest.mark.parametrize("log_ratio", [100.0, -100.0, 1000.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(
    ("surrogate", "settings"),
    [
        (clipped_policy_loss, (0.2,)),
        (capped_weight_loss, (5.0,)),
        (gated_policy_loss, (1.0, 1.05)),
        (lambda *tensors: sequence_clipped_loss(*tensors)[0], (3e-4, 4e-4)),
    ],
    ids=["grpo", "cispo", "sapo", "gspo"],
)
def test_the_gradient_of_a_surrogate_is_finite_at_any_ratio(surrogate, settings, log_ratio, advantage):
    logp = torch.full((1, 2), log_ratio, requires_grad=True)
    ones = torch.ones(1, 2)
    loss = surrogate(logp, torch.zeros(1, 2), advantage * ones, ones, *settings).value
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logp.grad).all()


def test_k3_far_from_the_reference_is_its_formula_and_has_a_gradient():
    logp = torch.tensor([-0.5, -1.0, -12.0], requires_grad=True)
    ref_logp = torch.tensor([-40.5, -16.0, -1.0])
    x = (ref_logp - logp).detach()
    found = k3(logp, ref_logp)
    torch.testing.assert_close(found.detach(), x.exp() - 1 - x)
    found.sum().backward()
    torch.testing.assert_close(logp.grad, 1 - x.exp())
    assert torch.isfinite(k3(torch.tensor(-500.0), torch.tensor(0.0)))


def test_k3_estimates_a_large_divergence_without_bias():
    p, q = torch.tensor([0.999, 0.001]), torch.tensor([1e-9, 1 - 1e-9])
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * k3(p.log(), q.log())).sum(), expected, rtol=1e-4, atol=0)


def test_the_clip_fraction_counts_by_both_halves_of_the_range():
    ratios = torch.tensor([[0.75, 1.0, 1.25, 1.4]])
    ones = torch.ones(1, 4)
    assert clip_fraction(ratios.log(), torch.zeros(1, 4), ones, 0.2).value.item() == 0.75
    assert clip_fraction(ratios.log(), torch.zeros(1, 4), ones, 0.2, 0.28).value.item() == 0.5


def test_a_value_clip_of_0_clips_nothing():
    values, old, returns, ones = torch.tensor([[3.0]]), torch.zeros(1, 1), torch.tensor([[1.0]]), torch.ones(1, 1)
    assert clipped_value_loss(values, old, returns, ones, None).value.item() == 2.0  # half of (3 - 1) squared
    far = torch.tensor([[0.9]], requires_grad=True)
    clipped_value_loss(far, old, returns, ones, None).value.backward()
    assert far.grad.item() == pytest.approx(-0.1)


def test_explained_variance_is_of_the_whole_batch():
    rng = np.random.default_rng(0)
    returns = torch.from_numpy(rng.normal(size=(6, 4)))
    values = 0.5 * returns + 3.0
    assert explained_variance(values, returns, torch.ones(6, 4)).item() == pytest.approx(0.75)


def test_a_gradient_that_is_not_finite_ends_the_run_before_its_step(tmp_path, monkeypatch):
    one = trainer("ppo", tmp_path / "run")
    before = [p.detach().clone() for p in one.algorithm.stepper.parameters]
    loss = one.algorithm.loss

    def infinite(new, old):
        mean, logged = loss(new, old)
        # The loss is finite, its gradient is not: the square root of 0 has none.
        return dataclasses.replace(mean, value=mean.value + (0 * new.logp).sum().abs().sqrt()), logged

    monkeypatch.setattr(one.algorithm, "loss", infinite)
    with pytest.raises(FloatingPointError, match="norm of the gradient is nan and no step was taken: lower"):
        one._update()
    assert all(torch.equal(a, b) for a, b in zip(before, one.algorithm.stepper.parameters, strict=True))
