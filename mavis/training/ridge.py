"""Solves the equations of joint credit: the ridge strength, the slope, and what more trees add.

The ridge strength is chosen by cross-validation over prompts, by the correlation of what is
foretold with the rewards, and θ is multiplied by the slope found there: values that foretell little
are small. Where there are equations of single tokens, their solution is a direction θ₀ alone, and
θ = c θ₀ + δ is solved from whole replies, with a ridge on δ and none on c ≥ 0. Where partial text
misleads, c is about 0.

The folds also say whether more trees help. Values from one fold and values from three are held
against the same fold that neither has seen; the share of the variance which they explain is taken
to grow by the same factor with every doubling of the trees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor

from mavis.training.credit import FOLDS, Equations

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # in units of a reply's mean squared features
PRIOR_RIDGE = 0.1  # of the equations of single tokens, in the same units
WORTH = 1.15  # growth of the explained share for which more trees are worth their time
PER_DOUBLING = "explained_per_doubling"  # what the growth is called in logs and metrics


@dataclass(frozen=True)
class Solution:
    """What joint credit has found for M objectives.

    Args:
        weights: θ [D, M], already multiplied by the slope.
        expected: what predicts ⟨θ, φ⟩ from the state before [G, M].
        correlation: of what is foretold with the rewards, on prompts left out [M].
        slope: of the rewards on what is foretold, on prompts left out [M].
        doubling: by what factor the explained share of the variance grows when the trees are
            doubled [M]; NaN where nothing is explained.
    """

    weights: Tensor
    expected: Tensor
    correlation: Tensor
    slope: Tensor
    doubling: Tensor


def solve(trees: Equations) -> Solution:
    """Find θ, the ridge strength and the slope of each objective."""
    whole, aim = trees.squares.sum(0), trees.products.sum(0)
    scale = (whole.diagonal().sum() / trees.replies).clamp(min=1e-12)
    grid = torch.tensor(RIDGES, dtype=torch.float64) * scale
    others = [[fold for fold in range(FOLDS) if fold != left] for left in range(FOLDS)]
    correlation, slope = _left_out(trees, scale, grid, others)  # [L, M] each
    best = correlation.argmax(0)  # [M]
    at = (best, torch.arange(len(best)))
    θ = _ridge(whole, aim, grid, _prior(trees, scale, range(FOLDS)))[best, :, at[1]].T  # [D, M]
    θ = θ * slope[at].clamp(0.0, 1.0)
    # From one of the other folds alone, with the strength that is the best for so few replies.
    single = [[other[left % len(other)]] for left, other in enumerate(others)]
    few = _left_out(trees, scale, grid, single)[0].amax(0)
    doubling = _per_doubling(few, correlation[at])
    return Solution(θ.float(), (trees.mean @ θ).float(), correlation[at], slope[at], doubling)


def _left_out(
    trees: Equations, scale: Tensor, grid: Tensor, folds: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Correlation and slope [L, M] on every fold of what others foretell of it, for each ridge.

    Args:
        trees: the equations.
        scale: a reply's mean squared features.
        grid: the ridge strengths [L].
        folds: the others, for each fold.
    """
    spread = trees.spread.sum(0).clamp(min=0.0)  # rounding may leave less
    foretold = torch.zeros(2, len(grid), len(spread), dtype=torch.float64)  # Σ r̂ r and Σ r̂²
    for left, learned in enumerate(folds):
        learned = list(learned)
        squares, products = (x[learned].sum(0) for x in (trees.squares, trees.products))
        θ = _ridge(squares, products, grid, _prior(trees, scale, learned))  # [L, D, M]
        foretold[0] += (θ * trees.products[left]).sum(1)
        foretold[1] += (θ * (trees.squares[left] @ θ)).sum(1)
    correlation = foretold[0] / (foretold[1] * spread).sqrt().clamp(min=1e-12)
    return correlation, foretold[0] / foretold[1].clamp(min=1e-12)


def _per_doubling(few: Tensor, many: Tensor) -> Tensor:
    """The growth of the explained share [M], from correlations [M] after one fold and after all."""
    known = torch.where((few > 0) & (many > 0), many / few.clamp(min=1e-12), torch.nan)
    return known ** (2 / log2(FOLDS - 1))


def _prior(trees: Equations, scale: Tensor, folds: Sequence[int]) -> Tensor | None:
    """θ₀ [D, M] of the equations of single tokens in some folds, if there are any."""
    if trees.token_squares is None or trees.token_products is None:
        return None
    squares, products = (x[list(folds)].sum(0) for x in (trees.token_squares, trees.token_products))
    squares = squares.double()
    eye = torch.eye(len(squares), dtype=squares.dtype)
    found: Tensor = torch.linalg.solve(squares + PRIOR_RIDGE * scale * eye, products)
    return found


def _ridge(squares: Tensor, products: Tensor, grid: Tensor, prior: Tensor | None) -> Tensor:
    """θ = c θ₀ + δ [L, D, M] with (squares + λ) δ = products − c squares θ₀, for each λ [L].

    θ₀ [D, M] is the prior, None for none; c is what fits best, and not below 0.
    """
    values, vectors = torch.linalg.eigh(squares)
    weights = 1 / (values.clamp(min=0.0)[None, :, None] + grid[:, None, None])  # [L, D, 1]
    turned = vectors.T @ products  # [D, M]
    found: Tensor = weights * turned
    if prior is not None:
        start = vectors.T @ prior  # [D, M]
        image = values.clamp(min=0.0)[:, None] * start  # of θ₀
        left = start - weights * image  # what of θ₀ the ridge does not find by itself [L, D, M]
        fits, power = (left * turned).sum(1), (left * image).sum(1)  # [L, M]
        found = found + (fits / power.clamp(min=1e-12)).clamp(min=0.0)[:, None] * left
    solutions: Tensor = vectors @ found
    return solutions
