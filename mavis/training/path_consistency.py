"""Path consistency: what values must be along any reply, whoever wrote it, for all weights at once.

The best policy for weights λ at the price η = 1/β of a nat is π_ref tilted by its own soft values.
With V_λ(s) = η log Σ_a π_ref(a|s) exp(β Σ_m λ_m Q_m(s, a)), its log-ratio to π_ref is

    η log π_λ/π_ref (a|s) = Σ_m λ_m Q_m(s, a) − V_λ(s),

and along *every* reply, with the state s_t before token t and the reward r of the whole,

    Σ_m λ_m Q_m(s_t, a_t) = Σ_m λ_m r_m − Σ_{u>t} [ Σ_m λ_m Q_m(s_u, a_u) − V_λ(s_u) ]

(path consistency learning: Nachum et al., arXiv 1702.08892). The right side, of the values as they
are now, is the target of the left one. Three things follow from it:

- The policy that wrote a reply does not matter. The reference's trees teach the values of the best
  policy, not the mean reward of its own replies, and trees of earlier rounds keep their worth.
- A tree teaches values for every weighting, not for that which it was guided by.
- The luck of later tokens is taken off, as far as the values know of it: less noise than a reward.

Values must know something before they can take luck off. So the first pass of a fit learns from
means (`targets`), which are exact for trees of the reference.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mavis.decoding.request import Key
from mavis.decoding.spread import SMALLEST, Covariance, mixed_spread
from mavis.decoding.value_model import ValueModel
from mavis.training.batching import Batch
from mavis.training.weightings import Weighting, drawn

MEAN_PASSES = 1  # of a fit, before values foretell enough
SOME = range(8)  # weightings that a pack is learned for in a step


def path_targets(
    taken: Tensor, options: Tensor, batch: Batch, weights: Tensor, beta: Tensor
) -> Tensor:
    """What the mixed value of every token should be, by the rest of the replies that it leads to.

    A reply of the tokens a, b with candidates of equal probability, the values 1 and 0 of the
    first's, 3 and 1 of the second's, and β large, so that V is the largest value: if the reward is
    5 and the values of a and b are 0 and 3, the target of b is 5, and that of a 5 − (3 − 3) = 5.

    Args:
        taken: values of the tokens themselves [B, T, M].
        options: values of the candidates after each token [B, T, K, M].
        batch: packs that know their candidates.
        weights: L weightings of each pack [B, L, M].
        beta: the strength of each [B, L].

    Returns:
        [B, T, L]; the mean over the replies of the pack below a token. NaN where there is none that
        is scored by all objectives that count.
    """
    mixed = torch.einsum("btkm,blm->btkl", options, weights)
    log_ref = batch.log_ref.log_softmax(-1)[..., None]  # over the candidates alone
    strength = beta[:, None]  # [B, 1, L]
    soft = torch.logsumexp(log_ref + strength[:, :, None] * mixed, 2) / strength  # V of the state
    ratio = torch.einsum("btm,blm->btl", taken, weights) - batch.before(soft)  # η log π_λ/π_ref
    sampled = (batch.depth >= 0)[..., None]
    spent = batch.path @ torch.where(sampled, ratio, 0.0)  # of a token and all that lead to it
    reward = torch.einsum("btm,blm->btl", batch.targets.nan_to_num(), weights)
    missing = batch.targets.isnan().float()  # [B, T, M]
    unknown = torch.einsum("btm,blm->btl", missing, (weights != 0).float()) > 0
    scored = batch.leaf[..., None] & ~unknown
    below = batch.path.transpose(1, 2)  # [B, token, reply's end]
    count = below @ scored.float()
    rest = below @ torch.where(scored, reward - spent, 0.0)
    mean = rest / count.clamp(min=1) + spent
    return torch.where((count > 0) & sampled, mean, torch.nan)


class PathLoss:
    """The mean squared error to `path_targets`, over tokens and weightings, in units of σ_λ.

    Args:
        covariance: C of the rewards [M, M], σ_λ² = λᵀCλ.
        strength: β_λ of a policy of some weights.
        seed: of the weights that are drawn.
    """

    def __init__(
        self, covariance: Covariance, strength: Callable[[Weighting], float], seed: int
    ) -> None:
        self._covariance, self._strength, self._seed = covariance, strength, seed

    def __call__(self, network: ValueModel, hidden: Tensor, batch: Batch, step: Key) -> Tensor:
        """The loss of a batch.

        Args:
            network: values that know all candidates of a state.
            hidden: the states that they are read from [B, T, H].
            batch: packs that know their candidates.
            step: names the draws of weights.
        """
        assert batch.candidates is not None
        weights = [
            [drawn((self._seed, "paths", *step, pack, at), len(network.objectives)) for at in SOME]
            for pack in range(len(batch.tokens))
        ]
        beta = [[self._strength(one) for one in pack] for pack in weights]
        spread = [[mixed_spread(one, self._covariance) for one in pack] for pack in weights]
        λ, β, σ = (
            torch.tensor(each, device=hidden.device).float() for each in (weights, beta, spread)
        )
        taken = network.action_values(batch.before(hidden), batch.tokens[..., None])[..., 0, :]
        with torch.no_grad():
            options = network.action_values(hidden, batch.candidates)
            aim = path_targets(taken, options, batch, λ, β)
        # What another pack shows, too, is learned there.
        shown = batch.targets.isfinite().any(-1, keepdim=True)
        known = aim.isfinite() & shown
        error = torch.einsum("btm,blm->btl", taken, λ) - aim.nan_to_num()
        squares = torch.where(known, error / σ.clamp(min=SMALLEST)[:, None], 0.0).square()
        return squares.sum() / known.sum().clamp(min=1)
