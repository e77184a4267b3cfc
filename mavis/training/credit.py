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

All of it needs second moments alone, so that nothing is kept of a tree that was read; `ridge`
solves the equations.

Where a reward says something of partial text, there is an equation for each token, too: the
increments Δ of the reward on prefixes (`prefixes`) from it on, discounted by κ, are what the tokens
from it on bring, discounted alike:

    Σ_{u≥t} κ^{u−t} (Δ_u − η KL(s_{u−1})) = Σ_{u≥t} κ^{u−t} (V(s_u) − E_π[V(s_u) | s_{u−1}]).

A reply's first has weight 1, and is the equation above at κ = 1; the others have weight 1 − κ².
Together they are generalised least squares of the increments, whose weight for tokens u and v is
κ^{|u − v|}. They have little noise but a bias; whole replies have no bias but much noise.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mavis.training.batching import Batch

FOLDS = 4
STEADY = 3e-4  # of the mean eigenvalue: keeps the prediction of features from their state stable


class Moments:
    """Second moments of the trees of one policy.

    Args:
        after: D, the number of features of the state after a token.
        before: G, the number of features of the state before it.
        outputs: M.
        discount: κ, of later increments; below 1 batches must have increments.
    """

    def __init__(self, after: int, before: int, outputs: int, discount: float = 1.0) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        both, self.after, self.discount = after + before, after, discount
        self.before = zeros(before, before)  # sum over tokens of g gᵀ
        self.along = zeros(before, after + 1)  # of g (φ, price)ᵀ
        self.sums = zeros(FOLDS, both, both)  # over replies, of u uᵀ for u = Σ (φ, g)
        self.rewards = zeros(FOLDS, both, outputs)  # of u rᵀ
        self.spread = zeros(FOLDS, outputs)  # of r²
        self.counts = zeros(2)  # trees, replies
        folds = FOLDS if discount < 1 else 0  # of the equations of single tokens
        # Single: they give a direction alone, under a ridge that is far above the rounding.
        self.token_sums = torch.zeros(folds, both, both)
        self.token_gains = zeros(folds, both, outputs)

    @property
    def tensors(self) -> list[Tensor]:
        """All that adds up over trees, and over processes."""
        whole = [self.before, self.along, self.sums, self.rewards, self.spread, self.counts]
        return whole if self.discount == 1 else [*whole, self.token_sums, self.token_gains]

    def add(self, after: Tensor, before: Tensor, batch: Batch) -> None:
        """Add packs that show whole trees; a reply that any objective abstains from is left out.

        Args:
            after: φ of the state after every token [B, T, D].
            before: g of the state before it [B, T, G].
            batch: the packs.
        """
        price, path = batch.price[..., None], batch.path
        known = batch.leaf & batch.targets.isfinite().all(-1)
        gains = batch.targets if batch.increments is None else batch.increments
        columns = (after, before, price, path, batch.targets, gains, known, batch.depth)
        for φ, g, cost, leads, target, gained, leaf, depth in zip(*columns, strict=True):
            if leaf.sum() < 2:  # one reply says nothing within its prompt
                continue
            inside = depth >= 0
            # Not every device knows double precision.
            φ, g, cost = (x[inside].cpu().double() for x in (φ, g, cost))
            self.before += g.T @ g
            self.along += g.T @ torch.cat([φ, cost], 1)
            # Less the means of the prompt's replies: what is the same for all of them is no credit.
            features, leads = torch.cat([φ, g], 1), leads[leaf][:, inside].cpu().double()
            u = leads @ features
            r = target[leaf].cpu().double()
            u, r = u - u.mean(0), r - r.mean(0)
            fold = int(self.counts[0]) % FOLDS
            self.sums[fold] += u.T @ u
            self.rewards[fold] += u.T @ r
            self.spread[fold] += r.square().sum(0)
            self.counts += torch.tensor([1, len(r)])
            if self.discount < 1:
                # Of the rows u of all tokens of all replies, Σ u uᵀ and Σ u rᵀ: these are many rows
                # of long sums, which are never made.
                weights = _token_weights(depth[inside].cpu(), leads, self.discount)
                self.token_gains[fold] += features.T @ (weights @ gained[inside].cpu().double())
                features = features.float()
                self.token_sums[fold] += features.T @ (weights.float() @ features)

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
        squares = _turned(self.sums, centre)
        products = centre.T @ (self.rewards - paid)
        found = Equations(squares, products, spread, float(self.counts[1]), mean)
        if self.discount == 1:
            return found
        left = self.token_gains - (self.token_sums @ charge.float())
        squares, products = _turned(self.token_sums, centre.float()), centre.T @ left
        return replace(found, token_squares=squares, token_products=products)


def _turned(sums: Tensor, centre: Tensor) -> Tensor:
    """centreᵀ · S · centre of the sums S of each fold; one by one, as they are large."""
    return torch.stack([centre.T @ one @ centre for one in sums])


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


@dataclass(frozen=True)
class Equations:
    """Normal equations of θ, for each fold of the prompts.

    Args:
        squares: of the centred features [F, D, D].
        products: with the charged rewards [F, D, M].
        spread: sum of squares of the charged rewards [F, M].
        replies: how many they are of.
        mean: what predicts the features from the state before [G, D].
        token_squares: as `squares`, of the equations of single tokens; None where there are none.
        token_products: as `products`, with what is gained from a token on.
    """

    squares: Tensor
    products: Tensor
    spread: Tensor
    replies: float
    mean: Tensor
    token_squares: Tensor | None = None
    token_products: Tensor | None = None

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


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else one + other
