"""What the folds of joint credit say of more trees."""

import numpy as np
import pytest
import torch

from mavis.training.credit import FOLDS, Equations
from mavis.training.ridge import RIDGES, solve


def replies(seed, width, count, noise):
    """Features [F, n, D] and rewards [F, n] of replies that are linear in them, but for noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(FOLDS, count, width))
    truth = random.normal(size=width) / np.sqrt(width)
    return x, x @ truth + noise * random.normal(size=(FOLDS, count))


def equations(x, y):
    x, y = torch.from_numpy(x), torch.from_numpy(y)[..., None]
    squares, products = x.transpose(1, 2) @ x, x.transpose(1, 2) @ y
    mean = torch.zeros(1, x.shape[-1], dtype=torch.float64)
    return Equations(squares, products, y.square().sum(1), float(x.shape[0] * x.shape[1]), mean)


def correlation(x, y, folds):
    """Of what the given folds foretell of each, with the best ridge."""
    scale, tried = np.square(x).sum() / (x.shape[0] * x.shape[1]), []
    for share in RIDGES:
        foretold = np.empty_like(y)
        for left, learned in enumerate(folds):
            rows, aims = x[learned].reshape(-1, x.shape[-1]), y[learned].ravel()
            squares = rows.T @ rows + share * scale * np.eye(x.shape[-1])
            foretold[left] = x[left] @ np.linalg.solve(squares, rows.T @ aims)
        tried.append(np.sum(foretold * y) / np.linalg.norm(foretold) / np.linalg.norm(y))
    return max(tried)


@pytest.mark.parametrize("seed", range(3))
def test_the_growth_is_that_from_one_fold_to_three(seed):
    x, y = replies(seed, 12, 30, 1.0)
    others = [[fold for fold in range(FOLDS) if fold != left] for left in range(FOLDS)]
    many = correlation(x, y, others)
    few = correlation(x, y, [[o[left % 3]] for left, o in enumerate(others)])
    wanted = (many**2 / few**2) ** (1 / np.log2(3))  # log2(3) doublings
    np.testing.assert_allclose(solve(equations(x, y)).doubling, [wanted], rtol=1e-6)


def test_many_features_of_few_replies_want_more_of_them():
    assert float(solve(equations(*replies(0, 80, 40, 1.0))).doubling) > 1.3


def test_what_features_do_not_hold_no_trees_add():
    """Half of the variance is noise here: nothing foretells it, and the rest is known by now."""
    assert float(solve(equations(*replies(0, 3, 400, 1.0))).doubling) == pytest.approx(1, abs=0.02)


def test_of_values_that_foretell_nothing_no_growth_is_known():
    x, y = replies(0, 4, 30, 1.0)
    assert solve(equations(x, 0 * y)).doubling.isnan().all()
