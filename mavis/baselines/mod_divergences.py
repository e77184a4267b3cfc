"""MOD's rule: policies mixed at decoding time, exactly, for every f-divergence that it admits.

Multi-objective decoding (MOD, arXiv 2406.18853): where each π_i maximises its reward R_i less
D_f(π_i ‖ π_ref), the policy that maximises Σ w_i R_i − D_f(π ‖ π_ref) is

    π = π_ref · (f')⁻¹( c + Σ w_i f'(π_i / π_ref) )        with c such that π sums to 1

The constant c stands *inside* the inverse, so that it has to be solved for, per state; dividing by
the sum is right for reverse KL alone, where the mixture is `decoding.tilt.tilt` with the
log-ratios log π_i/π_ref in the place of values. Pure functions of tensors, in float64: there are
no models in here. All is taken over a row's candidates, to which π_ref and π_i are restricted.

Each divergence is given by the gap between f' and its ceiling, as a function of u = log x: there f'
loses its digits, for a token that π_ref finds unlikely and π does not.

A token that a policy forbids has the log-ratio −∞, where every f' here is −∞: the mixture forbids
it, too, unless the policy's weight is 0: such a policy is ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mavis.decoding.guidance import MixingRule
from mavis.decoding.tilt import tilt
from mavis.options import check_alpha

DIVERGENCES = ("reverse_kl", "forward_kl", "jsd", "alpha", "jeffrey")
_STEPS, _CLOSE = 200, 1e-12  # of Newton's method, and where log Σ π counts as 0
_RARE = -600.0  # log π_i/π_ref below this count as this: exp of it is still a number


@dataclass(frozen=True)
class Mixture:
    """The mixture under D_f(π ‖ π_ref) = Σ π_ref f(π/π_ref), as a rule of the decoding core.

    Args:
        gap: how far f'(eᵘ) lies below its ceiling; it falls with u.
        inverse: the u that has this gap, and the derivative of u by it.
        negative: whether weights below 0 are admitted.
    """

    gap: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], tuple[Tensor, Tensor]]
    negative: bool = False

    def __call__(self, log_ref: Tensor, ratios: Tensor, weights: Tensor, beta: Tensor) -> Tensor:
        """Mix N policies.

        Args:
            log_ref: log π_ref [B, K], -inf where a token is no candidate.
            ratios: log π_i/π_ref [B, K, N], -inf where policy i forbids a token.
            weights: [B, N]; the mixture's are w = β · weights.
            beta: [B].

        Returns:
            log π [B, K] float32, normalised over the candidates; NaN in rows without a mixture,
            where all candidates are forbidden, a negative weight asks for one that is, or a policy
            gives NaN.

        Raises:
            ValueError: a weight is negative, and the divergence does not admit it.
        """
        strength = (beta[:, None] * weights).double()  # [B, N]
        if not self.negative and (strength < 0).any():
            raise ValueError(
                f"weights must not be negative, got {float(strength.min()):g}, under any "
                "divergence but reverse_kl and jsd."
            )
        inside = log_ref > -torch.inf
        left, undefined = _left(inside, ratios, strength)
        base = torch.log_softmax(log_ref.double(), -1)
        policies = torch.log_softmax(ratios.double() + base[..., None], 1)
        counted = left[..., None] & policies.isfinite()  # elsewhere a policy is ignored
        u = torch.where(counted, policies - base[..., None], 0.0).clamp_min(_RARE)
        gap = (self.gap(u) * strength[:, None, :]).sum(-1)  # [B, K]
        log_pi = _normalised(self, base.masked_fill(~left, -torch.inf), gap)
        return log_pi.masked_fill(undefined[:, None], torch.nan).float()


def alpha_divergence(alpha: float) -> Mixture:
    """f(x) = (x^{1−α} − (1−α)x − α) / (α(α−1)); reverse KL as α → 0, forward KL at α = 1."""
    # The reward that π_i stands for, −(π_ref/π_i)^α/α, falls without bound where π_i is small: with
    # a negative weight the token that policy i finds least likely would take everything.
    return Mixture(
        gap=lambda u: (-alpha * u).exp() / alpha,  # f' = (1 − x^{−α}) / α
        inverse=lambda gap: (-(alpha * gap).log() / alpha, -1 / (alpha * gap)),
    )


def _jensen_shannon_inverse(gap: Tensor) -> tuple[Tensor, Tensor]:
    """−log(e^gap − 1)."""
    rest = -torch.expm1(-gap)
    return -gap - rest.log(), -1 / rest


def _jeffrey_inverse(gap: Tensor) -> tuple[Tensor, Tensor]:
    """−log W(e^gap), with Lambert's W: the root v = −u of v + eᵛ = gap."""
    v = torch.where(gap > 1, gap.clamp_min(1).log(), gap)  # right of the root: from there
    for _ in range(8):  # Newton's method on a convex function comes down to it
        grown = v.exp()
        v = v - (v + grown - gap) / (1 + grown)
    return -v, -1 / (1 + v.exp())


# f(x) = x log x − (x+1) log((x+1)/2), hence f' = log 2 − log(1 + 1/x); its reward grows no faster
# than a logarithm, so that weights may be negative.
JENSEN_SHANNON = Mixture(
    lambda u: torch.nn.functional.softplus(-u), _jensen_shannon_inverse, negative=True
)
# f(x) = x log x − log x, reverse and forward KL together: f' = 1 + log x − 1/x has no ceiling, and
# the gap may be negative.
JEFFREY = Mixture(lambda u: (-u).exp() - u, _jeffrey_inverse)


def _left(inside: Tensor, ratios: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Which candidates [B, K] no policy forbids that counts, and which rows [B] have no mixture."""
    counts = strength[:, None, :] * inside[..., None]  # [B, K, N]
    never = (ratios == -torch.inf) & (counts != 0)
    left = inside & ~never.any(-1)
    wrong = (never & (counts < 0)) | (ratios.isnan() & (counts != 0))
    undefined = wrong.any((1, 2)) | ~left.any(-1)
    return torch.where(undefined[:, None], inside, left), undefined


def mixture(divergence: str = "reverse_kl", alpha: float | None = None) -> MixingRule:
    """The rule of a divergence by its name.

    Args:
        divergence: one of `DIVERGENCES`.
        alpha: of the α-divergence, from 0 (reverse KL) to 1 (forward KL).

    Raises:
        ValueError: an unknown divergence, or an α that is missing, beside the point or outside
            [0, 1].
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}, got {divergence!r}.")
    check_alpha(divergence, alpha)
    if divergence == "reverse_kl" or alpha == 0:
        return tilt
    known = {"jsd": JENSEN_SHANNON, "jeffrey": JEFFREY}
    return known.get(divergence) or alpha_divergence(alpha or 1.0)


def _normalised(mixing: Mixture, base: Tensor, gap: Tensor) -> Tensor:
    """The log π [B, K] of tokens with these gaps, all moved by the δ for which π sums to 1.

    F(δ) = log Σ π falls and is convex (so is each u of its gap), hence Newton's method comes up to
    the root from any point with F ≥ 0 and never leaves the domain of the inverse. Such a point is
    the δ at which the mass of some token alone is 1; the largest of them is close.
    """
    inside = base > -torch.inf
    gap = gap - gap.masked_fill(~inside, torch.inf).amin(-1, keepdim=True)
    gap = torch.where(inside, gap, 0.0)
    full = mixing.gap(-base.clamp_min(_RARE)) - gap
    delta = full.masked_fill(~inside, -torch.inf).amax(-1, keepdim=True)  # [B, 1]
    for _ in range(_STEPS):
        u, slope = mixing.inverse(gap + delta)
        log_pi = base + u
        total = log_pi.logsumexp(-1, keepdim=True)
        if float(total.abs().max()) < _CLOSE:
            break
        delta = delta - total / ((log_pi - total).exp() * slope).sum(-1, keepdim=True)
    return log_pi - total
