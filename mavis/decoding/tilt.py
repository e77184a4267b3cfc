"""The tilt: how values bend the reference policy's next-token distribution.

Pure functions of tensors; there are no models in here. With C the candidates that a row's top-k and
top-p leave of the vocabulary, z the reference logits over the temperature and q the values in
standard units (MAVIS, arXiv 2508.13415, eq. 3):

    π(a|s) = softmax over C of  z(a) + β · Σ_m λ_m · q_m(s, a)

A token whose logit is −∞ is forbidden: it is no candidate. Whatever else is not finite, NaN above
all, makes the whole row NaN: `guidance.PolicyRows.fault` says which model it comes from.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class RowSettings(NamedTuple):
    """How each of R rows samples; see `request.SamplingParams`, which makes them."""

    weights: Tensor  # [R, M] float32
    beta: Tensor  # [R]
    temperature: Tensor  # [R]
    top_k: Tensor  # [R] int, V for the whole vocabulary
    top_p: Tensor  # [R]

    def select(self, index: Tensor) -> "RowSettings":
        """The settings of some of the rows."""
        return RowSettings(*(column[index] for column in self))


class Candidates(NamedTuple):
    """The tokens that a row may choose from, most likely first."""

    tokens: Tensor  # [B, K] int64
    log_ref: Tensor  # [B, K] float32: log π_ref(a|s) over the *whole* vocabulary; -inf = not in C


def candidates(logits: Tensor, settings: RowSettings) -> Candidates:
    """Find each row's candidates and their log-probabilities under the untruncated reference.

    Args:
        logits: reference logits [B, V].
        settings: of B rows: temperatures above 0, top_k from 1 to V, and top_p in (0, 1]: a token
            stays while the mass before it is below top_p.

    Returns:
        Candidates with K = max(top_k); rows with a smaller top_k end in -inf.
    """
    top_k, top_p = settings.top_k, settings.top_p
    log_ref = torch.log_softmax(logits.float() / settings.temperature[:, None], dim=-1)
    size = int(top_k.max())
    values, tokens = log_ref.topk(size, dim=-1)
    rank = torch.arange(size, device=logits.device)
    mass_before = values.exp().cumsum(-1) - values.exp()
    # Behind a token that is nearly certain the mass rounds to 1, yet a top_p of 1 cuts nothing.
    beyond = (mass_before >= top_p[:, None]) & (top_p[:, None] < 1)
    outside = (rank >= top_k[:, None]) | beyond
    outside[:, 0] = False
    return Candidates(tokens, values.masked_fill(outside, -torch.inf))


def tilt(log_ref: Tensor, values: Tensor, weights: Tensor, beta: Tensor) -> Tensor:
    """Tilt the candidates by their weighted values.

    Args:
        log_ref: [B, K], -inf where a token is no candidate.
        values: [B, K, M] in standard units; −∞ forbids a token.
        weights: [B, M], any real numbers.
        beta: [B].

    Returns:
        log π [B, K], normalised over the candidates.
    """
    # What weighs nothing changes nothing, even if it forbids a token: there 0 · (−∞) is 0.
    asked = torch.where(beta[:, None] == 0, 0.0, weights)[:, None, :]  # [B, 1, M]
    # M is 0 (unguided), 1 or a handful: the sum over it costs nothing beside the models.
    advantage = torch.where(asked == 0, 0.0, values.float() * asked).sum(-1)  # [B, K]
    tilted = log_ref + beta[:, None] * advantage
    return torch.log_softmax(torch.where(log_ref == -torch.inf, log_ref, tilted), dim=-1)


def advantages(log_ref: Tensor, values: Tensor, pick: Tensor) -> Tensor:
    """Each objective's Q(s, a) − E[Q(s, ·)] of picked candidates [B, M].

    Values are known up to a number per state, which the tilt does not feel: without their mean,
    what is left is what the objective makes of this token, against the others.

    Args:
        log_ref: [B, K], -inf where a token is no candidate.
        values: [B, K, M].
        pick: which candidate of each row [B, 1].
    """
    shares = torch.softmax(log_ref, dim=-1)[..., None]  # [B, K, 1] of π_ref, over C
    mean = torch.where(shares > 0, shares * values, 0.0).sum(1)
    return values.gather(1, pick[..., None].expand(-1, -1, values.shape[-1]))[:, 0] - mean


def parts(log_ref: Tensor, values: Tensor, pick: Tensor, weights: Tensor) -> Tensor:
    """Each objective's part in the tilt of picked candidates [B, M]: β·λ·(Q(s, a) − E[Q(s, ·)]).

    `weights` are β·λ [B, M]; the rest is as in `advantages`. What weighs nothing has no part.
    """
    return torch.where(weights == 0, 0.0, weights * advantages(log_ref, values, pick))


def truncation(log_ref: Tensor) -> Tensor:
    """The nats that are due to truncation alone, −log π_ref(C|s) [B]."""
    return -torch.logsumexp(log_ref, dim=-1)


def exact_kl(log_pi: Tensor, log_ref: Tensor) -> Tensor:
    """KL(π ‖ π_ref) at one state, summed over the candidates [B]; π_ref is not truncated."""
    pi = log_pi.exp()
    gap = torch.where(pi > 0, log_pi - log_ref, 0.0)
    return (pi * gap).sum(-1)


def draw(log_pi: Tensor, uniform: Tensor) -> Tensor:
    """The index [B] of a candidate per row, drawn from log π [B, K].

    The distribution function of each row is inverted at `uniform` [B] in [0, 1).
    """
    cumulative = log_pi.double().exp().cumsum(-1)
    index = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    # Rounding at the far end must not select a token outside C.
    last = (log_pi > -torch.inf).long().cumsum(-1).argmax(-1)
    return torch.minimum(index, last)
