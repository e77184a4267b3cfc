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

Both regressions need second moments alone, so that nothing is kept of a tree that was read. A first
pass over the trees sums up those of the expectations, a second one those of θ, for which `ridge`
solves.

Where a reward says something of partial text, there is an equation for each token, too: the
increments Δ of the reward on prefixes (`prefixes`) from it on, discounted by κ, are what the tokens
from it on bring, discounted alike:

    Σ_{u≥t} κ^{u−t} (Δ_u − η KL(s_{u−1})) = Σ_{u≥t} κ^{u−t} (V(s_u) − E_π[V(s_u) | s_{u−1}]).

A reply's first has weight 1, and is the equation above at κ = 1; the others have weight 1 − κ².
Together they are generalised least squares of the increments, whose weight for tokens u and v is
κ^{|u − v|}. They have little noise but a bias; whole replies have no bias but much noise.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mavis.training.batching import Batch

FOLDS = 4
STEADY = 3e-4  # of the mean eigenvalue: keeps the prediction of features from their state stable
TOKENS_EACH = 32  # for every random feature that expectations are predicted from

Total = Callable[[Tensor], Tensor]  # adds a tensor up over processes


class _Tree(NamedTuple):
    """A tree of two replies or more that every objective has scored."""

    after: Tensor  # φ of the state after each of its sampled tokens [T, D]
    before: Tensor  # g of the state before it [T, G]
    price: Tensor  # [T, 1]
    gained: Tensor  # increments of the reward [T, M], if there are any
    leads: Tensor  # 1 where a token leads to the end of a reply [L, T]
    rewards: Tensor  # of the replies [L, M]
    depth: Tensor  # place of every token in its reply [T]


def _trees(after: Tensor, before: Tensor, batch: Batch) -> Iterator[_Tree]:
    """The trees of packs that show them whole, without replies that an objective abstains from.

    Args:
        after: φ of the state after every token [B, T, D].
        before: g of the state before it [B, T, G].
        batch: the packs.
    """
    known = batch.leaf & batch.targets.isfinite().all(-1)
    gains = batch.targets if batch.increments is None else batch.increments
    columns = (after, before, batch.price, gains, batch.path, batch.targets, known, batch.depth)
    for φ, g, price, gained, leads, targets, leaf, depth in zip(*columns, strict=True):
        if leaf.sum() < 2:  # one reply says nothing within its prompt
            continue
        inside = depth >= 0
        # Not every device knows double precision.
        φ, g, price, gained = (x[inside].cpu().double() for x in (φ, g, price, gained))
        leads, rewards = leads[leaf][:, inside].cpu().double(), targets[leaf].cpu().double()
        yield _Tree(φ, g, price[:, None], gained, leads, rewards, depth[inside].cpu())


class Expectation(NamedTuple):
    """What the state before a token foretells, under one policy."""

    mean: Tensor  # of the features of the state after it [G, D]
    price: Tensor  # of what it is charged [G, 1]


class Foresight:
    """Second moments of an `Expectation`: it is found by least squares over tokens.

    Args:
        after: D, the number of features of the state after a token.
        before: G, the number of features of the state before it, the last of which is 1.
        random: how many of them, the first ones, are random: of few tokens, fewer are used.
    """

    def __init__(self, after: int, before: int, random: int = 0) -> None:
        self._width, self._random = after, random
        self.before = _zeros(before, before)  # sum over tokens of g gᵀ
        self.along = _zeros(before, after + 1)  # of g (φ, price)ᵀ

    def add(self, after: Tensor, before: Tensor, batch: Batch) -> None:
        """Add whole trees; see `_trees`."""
        for tree in _trees(after, before, batch):
            self.before += tree.before.T @ tree.before
            self.along += tree.before.T @ torch.cat([tree.after, tree.price], 1)

    def solve(self, total: Total) -> Expectation:
        """What the tokens of all processes say.

        Raises:
            ValueError: there are not two replies to any prompt.
        """
        before, along = total(self.before), total(self.along)
        if not before.any():
            raise ValueError(
                "joint credit needs two scored replies to a prompt: give a larger branching, or "
                "credit token."
            )
        # So many features of few tokens would predict what is chance, and leave nothing to learn.
        tokens = float(before[-1, -1])
        unused = self._random - min(self._random, int(tokens) // TOKENS_EACH)
        squares, products = before[unused:, unused:], along[unused:]
        ridge = STEADY * squares.diagonal().mean()
        eye = torch.eye(len(squares), dtype=torch.float64)
        predicted = torch.zeros_like(along)  # [G, D + 1]
        predicted[unused:] = torch.linalg.solve(squares + ridge * eye, products)
        return Expectation(predicted[:, : self._width], predicted[:, self._width :])


@dataclass
class Equations:
    """Normal equations of θ, for each fold of the prompts.

    Args:
        squares: of the centred features, summed over a reply [F, D, D].
        products: with the charged rewards [F, D, M].
        spread: sum of squares of the charged rewards [F, M].
        replies: how many they are of.
        mean: what predicts the features from the state before [G, D].
        token_squares: as `squares`, of the equations of single tokens; None where there are none.
        token_products: as `products`, with what is gained from a token on.
        trees: that were added by this process.
    """

    squares: Tensor
    products: Tensor
    spread: Tensor
    replies: float
    mean: Tensor
    token_squares: Tensor | None = None
    token_products: Tensor | None = None
    trees: int = field(default=0, compare=False)

    @classmethod
    def none(cls, mean: Tensor, outputs: int, discount: float = 1.0) -> "Equations":
        """Those of no trees.

        Args:
            mean: what predicts the features from the state before [G, D].
            outputs: M.
            discount: κ, of later increments; below 1 there are equations of single tokens.
        """
        width = mean.shape[1]
        squares, products = _zeros(FOLDS, width, width), _zeros(FOLDS, width, outputs)
        spread = _zeros(FOLDS, outputs)
        if discount == 1:
            return cls(squares, products, spread, 0.0, mean)
        # Single: they give a direction alone, under a ridge that is far above the rounding.
        return cls(squares, products, spread, 0.0, mean, squares.float(), products.clone())

    def add(
        self, after: Tensor, before: Tensor, batch: Batch, price: Tensor, discount: float = 1.0
    ) -> None:
        """Add whole trees of the policy whose expectation `mean` is; see `_trees`.

        Args:
            after: φ of the state after every token [B, T, D].
            before: g of the state before it [B, T, G].
            batch: the packs; with increments if the discount is below 1.
            price: what predicts a token's charge from the state before [G, 1].
            discount: κ, of later increments.
        """
        for tree in _trees(after, before, batch):
            features, charge = tree.after - tree.before @ self.mean, tree.before @ price
            # Less the means of the prompt's replies: what is the same for all of them is no credit.
            u, r = tree.leads @ features, tree.rewards - tree.leads @ charge
            u, r = u - u.mean(0), r - r.mean(0)
            fold = self.trees % FOLDS
            self.squares[fold] += u.T @ u
            self.products[fold] += u.T @ r
            self.spread[fold] += r.square().sum(0)
            self.trees, self.replies = self.trees + 1, self.replies + len(r)
            if self.token_squares is not None and self.token_products is not None:
                # Of the rows u of all tokens of all replies, Σ u uᵀ and Σ u rᵀ: these are many rows
                # of long sums, which are never made.
                weights = _token_weights(tree.depth, tree.leads, discount)
                self.token_products[fold] += features.T @ (weights @ (tree.gained - charge))
                single = features.float()
                self.token_squares[fold] += single.T @ (weights.float() @ single)

    def totals(self, total: Total) -> "Equations":
        """Those of the trees of all processes."""

        def added(part: Tensor | None) -> Tensor | None:
            return None if part is None else total(part)

        return Equations(
            total(self.squares),
            total(self.products),
            total(self.spread),
            float(total(torch.tensor(self.replies, dtype=torch.float64))),
            self.mean,
            added(self.token_squares),
            added(self.token_products),
        )

    def __add__(self, later: "Equations") -> "Equations":
        """Those of the trees of both; features are predicted as under the later policy."""
        return Equations(
            self.squares + later.squares,
            self.products + later.products,
            self.spread + later.spread,
            self.replies + later.replies,
            later.mean,
            _sum(self.token_squares, later.token_squares),
            _sum(self.token_products, later.token_products),
        )


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def _token_weights(depth: Tensor, leads: Tensor, discount: float) -> Tensor:
    """What the equations of single tokens weigh two tokens of a tree by [T, T].

    The sum Σ_{u≥s} κ^{u−s} x_u of a reply's tokens from place s on, less the mean of the replies
    that come to this place, is linear in the tokens' x [T, C]. So the weighted squares of all these
    sums add up to xᵀ · W · x. Those of a reply by itself weigh two of its tokens by κ^{|u − v|};
    the means of each place are taken off.

    Args:
        depth: place of every token in its reply [T].
        leads: 1 where a token leads to the end of a reply [L, T].
        discount: κ.
    """
    shares = torch.as_tensor(discount, dtype=torch.float64)
    place = torch.arange(int(depth.max()) + 1)
    passing = leads.sum(0)  # replies that a token leads to
    together = (leads.T @ leads) * shares ** (depth[:, None] - depth).abs()
    later = depth - place[:, None]  # [S, T]
    begun = torch.where(later >= 0, shares ** later.clamp(min=0), 0.0) * passing
    count = torch.where(later == 0, passing, 0.0).sum(1)  # replies that come to a place
    weight = torch.where(place == 0, 1.0, 1 - discount**2) / count.clamp(min=1)
    return together - begun.T @ (weight[:, None] * begun)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else one + other
