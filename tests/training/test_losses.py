"""The loss of values that will be mixed, against sums over weights that are written out."""

import numpy as np
import pytest
import torch
from losses_of_each import value_losses

from mavis.training.losses import DRAWS, MixedLoss
from mavis.training.weightings import drawn

CONFLICT = np.array([[1.0, -0.5], [-0.5, 1.0]])


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_of_one_objective_it_is_the_mean_squared_error():
    predicted, targets = random(3, 5, 1), random(3, 5, 1)
    targets[0, :2] = torch.nan
    for weights in (torch.zeros(3, 1), torch.ones(3, 1)):
        found = MixedLoss([[1.0]])(predicted, targets, weights)
        torch.testing.assert_close(found, value_losses(predicted, targets)[0])


def test_on_trees_of_the_reference_it_is_the_mean_over_all_weights():
    """Of the squared error of the mix, in units of the mix's spread."""
    error = np.array([0.3, -0.2])
    weights = np.array([drawn((at, "metric"), 2) for at in range(DRAWS)])
    spread = np.sqrt(np.einsum("dm,mn,dn->d", weights, CONFLICT, weights))
    wanted = np.square(weights @ error / spread).mean()
    loss = MixedLoss(CONFLICT)
    predicted = torch.tensor(error, dtype=torch.float32).reshape(1, 1, 2)
    found = loss(predicted, torch.zeros(1, 1, 2), torch.zeros(1, 2))
    assert 2 * float(found) == pytest.approx(loss.scale * wanted, rel=1e-4)
    assert float(loss.reference.trace()) == pytest.approx(2.0, rel=1e-5)


def test_on_a_guided_tree_it_is_the_error_of_the_tree_s_own_mix():
    loss, predicted, targets = MixedLoss(CONFLICT), random(1, 4, 2), random(1, 4, 2)
    λ = np.array([0.25, 0.75])
    mixes = (predicted - targets)[0].numpy() @ λ
    wanted = np.square(mixes).mean() / (λ @ CONFLICT @ λ)
    found = loss(predicted, targets, torch.tensor(λ, dtype=torch.float32)[None])
    assert 2 * float(found) == pytest.approx(loss.scale * wanted, rel=1e-4)


def test_what_is_not_known_counts_for_nothing():
    """On the reference's trees objective by objective; of a mix all must be known."""
    loss, predicted = MixedLoss(CONFLICT), random(1, 3, 2).requires_grad_()
    targets = torch.tensor([[[1.0, torch.nan], [torch.nan, torch.nan], [0.5, 0.5]]])
    for weights, tokens in (((0.0, 0.0), [0, 2]), ((0.5, 0.5), [2]), ((1.0, 0.0), [0, 2])):
        found = loss(predicted, targets, torch.tensor([weights]))
        (gradient,) = torch.autograd.grad(found, predicted)
        assert gradient.isfinite().all()
        assert gradient[0].any(-1).nonzero()[:, 0].tolist() == tokens
        assert not gradient[0, 0, 1]
    nothing = loss(predicted.detach(), torch.full((1, 3, 2), torch.nan), torch.zeros(1, 2))
    assert float(nothing) == 0


def test_weights_of_half_precision():
    loss, values = MixedLoss(CONFLICT), random(2, 3, 2)
    weights = torch.tensor([[0.25, 0.75], [0.0, 0.0]])
    found = loss(values, torch.zeros_like(values), weights.bfloat16())
    torch.testing.assert_close(found, loss(values, torch.zeros_like(values), weights))
