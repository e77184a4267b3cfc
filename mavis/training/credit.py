"""Joint credit: the head of a value model by least squares over whole replies, in closed form.

A value after a token is the expectation before it plus the token's advantage. So along a reply that
the policy π has sampled, with the state s_t after t tokens,

    V(s_t) − η log π/π_ref(a_t) = E_π[V(s_t) − η log π/π_ref] + noise of token t,

and the sum over the reply telescopes: with V(s_T) the reward r of the whole reply,

    r − η Σ_t KL(π ‖ π_ref)(s_t) − V(prompt) = Σ_t ( V(s_t) − E_π[V(s_t) | s_{t−1}] ).

With V(s) = ⟨θ, φ(s)⟩ the right side is linear in θ: a reply's reward, less the mean of its prompt's
replies, is regressed on the sum of what its tokens bring anew. A regression of every token's target
by itself takes the luck of all other tokens of the reply for noise; here they explain it jointly.
Expectations given the state before are predicted from that state's features, by least squares too.

The ridge strength is chosen by cross-validation over prompts, by the correlation of what is
foretold with the rewards, and θ is multiplied by the slope found there: values that foretell little
are small. All of it needs second moments alone, so that nothing is kept of a tree that was read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mavis.training.packing import Batch

FOLDS = 4
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)  # in units of the mean squared length of a reply's features
STEADY = 3e-4  # of the mean eigenvalue: keeps the prediction of features from their state stable


@dataclass(frozen=True)
class Solution:
    """What joint credit has found for M objectives.

    Args:
        weights: θ [D, M], already multiplied by the slope.
        expected: what predicts ⟨θ, φ⟩ from the state before [G, M].
        correlation: of what is foretold with the rewards, on prompts left out [M].
        slope: of the rewards on what is foretold, on prompts left out [M].
    """

    weights: Tensor
    expected: Tensor
    correlation: Tensor
    slope: Tensor


class Moments:
    """Second moments of the trees of one policy.

    Args:
        after: D, the number of features of the state after a token.
        before: G, the number of features of the state before it.
        outputs: M.
    """

    def __init__(self, after: int, before: int, outputs: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        both, self.after = after + before, after
        self.before = zeros(before, before)  # sum over tokens of g gᵀ
        self.along = zeros(before, after + 1)  # of g (φ, price)ᵀ
        self.sums = zeros(FOLDS, both, both)  # over replies, of u uᵀ for u = Σ (φ, g)
        self.rewards = zeros(FOLDS, both, outputs)  # of u rᵀ
        self.spread = zeros(FOLDS, outputs)  # of r²
        self.counts = zeros(2)  # trees, replies

    @property
    def tensors(self) -> list[Tensor]:
        """All that adds up over trees, and over processes."""
        return [self.before, self.along, self.sums, self.rewards, self.spread, self.counts]

    def add(self, after: Tensor, before: Tensor, batch: Batch) -> None:
        """Add packs that show whole trees; a reply that any objective abstains from is left out.

        Args:
            after: φ of the state after every token [B, T, D].
            before: g of the state before it [B, T, G].
            batch: the packs.
        """
        price, path = batch.price[..., None], batch.path
        known = batch.leaf & batch.targets.isfinite().all(-1)
        columns = (after, before, price, path, batch.targets, known, batch.depth >= 0)
        for φ, g, cost, leads, target, leaf, inside in zip(*columns, strict=True):
            if leaf.sum() < 2:  # one reply says nothing within its prompt
                continue
            φ, g, cost = (x[inside].double().cpu() for x in (φ, g, cost))
            self.before += g.T @ g
            self.along += g.T @ torch.cat([φ, cost], 1)
            # Less the means of the prompt's replies: what is the same for all of them is no credit.
            u = leads[leaf][:, inside].double().cpu() @ torch.cat([φ, g], 1)
            r = target[leaf].double().cpu()
            u, r = u - u.mean(0), r - r.mean(0)
            fold = int(self.counts[0]) % FOLDS
            self.sums[fold] += u.T @ u
            self.rewards[fold] += u.T @ r
            self.spread[fold] += r.square().sum(0)
            self.counts += torch.tensor([1, len(r)])

    def equations(self) -> "Equations":
        """The normal equations of this policy's trees, features centred given the state before.

        Raises:
            ValueError: there are not two replies to any prompt.
        """
        if not self.counts[1]:
            raise ValueError(
                "joint credit needs two scored replies to a prompt: give a larger branching, or "
                "credit token."
            )
        ridge = STEADY * self.before.diagonal().mean()
        eye = torch.eye(len(self.before), dtype=torch.float64)
        predicted = torch.linalg.solve(self.before + ridge * eye, self.along)  # [G, D + 1]
        mean, price = predicted[:, : self.after], predicted[:, self.after :]
        # u = (Σφ, Σg) of a reply; its centred features are Σφ − Σg · mean, its charge Σg · price.
        centre = torch.cat([torch.eye(self.after, dtype=torch.float64), -mean])  # [D + G, D]
        charge = torch.cat([torch.zeros(self.after, 1, dtype=torch.float64), price])  # [D + G, 1]
        paid = self.sums @ charge  # [F, D + G, 1]
        spread = self.spread - 2 * (charge.T @ self.rewards)[:, 0] + (charge.T @ paid)[:, 0]
        squares = centre.T @ self.sums @ centre
        products = centre.T @ (self.rewards - paid)
        return Equations(squares, products, spread, float(self.counts[1]), mean)


@dataclass(frozen=True)
class Equations:
    """Normal equations of θ, for each fold of the prompts.

    Args:
        squares: of the centred features [F, D, D].
        products: with the charged rewards [F, D, M].
        spread: sum of squares of the charged rewards [F, M].
        replies: how many they are of.
        mean: what predicts the features from the state before [G, D].
    """

    squares: Tensor
    products: Tensor
    spread: Tensor
    replies: float
    mean: Tensor

    def __add__(self, later: "Equations") -> "Equations":
        """Those of the trees of both; features are predicted as under the later policy."""
        return Equations(
            self.squares + later.squares,
            self.products + later.products,
            self.spread + later.spread,
            self.replies + later.replies,
            later.mean,
        )


def solve(trees: Equations) -> Solution:
    """Find θ, the ridge strength and the slope of each objective."""
    squares, products, spread = trees.squares, trees.products, trees.spread.sum(0)
    whole, aim = squares.sum(0), products.sum(0)
    scale = (whole.diagonal().sum() / trees.replies).clamp(min=1e-12)
    grid = torch.tensor(RIDGES, dtype=torch.float64) * scale
    foretold = torch.zeros(2, len(grid), aim.shape[1], dtype=torch.float64)  # Σ r̂ r and Σ r̂²
    for fold in range(FOLDS):
        θ = _ridge(whole - squares[fold], aim - products[fold], grid)  # [L, D, M]
        foretold[0] += (θ * products[fold]).sum(1)
        foretold[1] += (θ * (squares[fold] @ θ)).sum(1)
    correlation = foretold[0] / (foretold[1] * spread).sqrt().clamp(min=1e-12)  # [L, M]
    best = correlation.argmax(0)  # [M]
    slope = foretold[0] / foretold[1].clamp(min=1e-12)
    at = (best, torch.arange(len(best)))
    θ = _ridge(whole, aim, grid)[best, :, at[1]].T * slope[at].clamp(0.0, 1.0)  # [D, M]
    return Solution(θ.float(), (trees.mean @ θ).float(), correlation[at], slope[at])


def _ridge(squares: Tensor, products: Tensor, grid: Tensor) -> Tensor:
    """Solutions [L, D, M] of (squares + λ) θ = products for each λ of a grid [L]."""
    values, vectors = torch.linalg.eigh(squares)
    turned = vectors.T @ products  # [D, M]
    found: Tensor = vectors @ (
        turned / (values.clamp(min=0.0)[None, :, None] + grid[:, None, None])
    )
    return found
