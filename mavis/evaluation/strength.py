"""The strength that a KL budget buys: β so that the policy stays so many nats from the reference.

The KL of a guided policy to the reference, over a reply, is the sum of its KL at every state. It is
estimated on replies of the reference policy, whose states are close to those of a policy that stays
near it, so that nothing is decoded with guidance: π is known at each of their states.
"""

import math
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Unpack

import torch
from torch import Tensor

from mavis.decoding.arguments import Weights
from mavis.decoding.guidance import MixingRule
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import CandidateSettings, Completion
from mavis.decoding.request import STRONGEST
from mavis.decoding.scoring import Step
from mavis.decoding.tilt import exact_kl, truncation
from mavis.evaluation.samples import Array

STEPS = 40  # of the search; half a dozen are usual
CLOSE = 0.005  # share of the budget that it may be missed by
AT_ONCE = 4096  # states that are tilted together


class ExpectedKL:
    """The policy's KL to the reference on the same candidates, at any strength.

    The states along replies of the reference policy are read once; only their tilt depends on the
    strength.

    Args:
        rule: how values bend the reference policy.
        steps: of `GuidedPolicy.walk` through the replies, whatever the strength.
        every: the first of so many replies is kept, and the others are not.

    Raises:
        ValueError: there is no reply.
    """

    def __init__(self, rule: MixingRule, steps: Iterable[Step], every: int = 1) -> None:
        replies: set[int] = set()
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for step in steps:  # whose logits, of the whole vocabulary, are not kept
            rows = [row for row, reply in enumerate(step.reply) if reply % every == 0]
            replies.update(step.reply[row] for row in rows)
            columns = (step.options.log_ref, step.values, step.settings.weights)
            kept.append((columns[0][rows], columns[1][rows], columns[2][rows]))
        if not kept:
            raise ValueError("replies must hold at least one of the reference policy, got none.")
        self.replies, self.rule = len(replies), rule
        # Of N states: [N, K], [N, K, M] and [N, M].
        self.log_ref, self.values, self.weights = map(torch.cat, zip(*kept, strict=True))
        heaviest = float(self.weights.abs().max()) if self.weights.numel() else 0.0
        self.most = STRONGEST / max(1.0, heaviest) if heaviest else 0.0  # the strongest β

    def of(self, weights: Sequence[float]) -> "ExpectedKL":
        """The same, of a policy of other weights λ [M], for all replies."""
        other = copy(self)
        λ = torch.as_tensor(weights, dtype=self.weights.dtype, device=self.weights.device)
        other.weights = λ.expand(len(self.weights), -1)
        other.most = STRONGEST / max(1.0, float(λ.abs().max())) if λ.any() else 0.0
        return other

    @torch.inference_mode()
    def covariance(self) -> Array:
        """C [M, M], of the values of the candidates under π_ref, added up over a reply.

        A weak tilt of strength β and weights λ is expected to be β² λᵀCλ / 2 nats from π_ref.
        """
        outputs = self.values.shape[-1]
        total = torch.zeros(outputs, outputs, dtype=torch.double)
        parts = (torch.split(x, AT_ONCE) for x in (self.log_ref, self.values))
        for log_ref, values in zip(*parts, strict=True):
            shares = log_ref.softmax(-1)
            known = torch.where(shares[..., None] > 0, values, 0.0)  # what is forbidden is −∞
            centred = known - (shares[..., None] * known).sum(1, keepdim=True)
            total += torch.einsum("nk,nkm,nkl->ml", shares, centred, centred).cpu().double()
        found: Array = ((total + total.T) / 2 / self.replies).numpy()  # rounding makes them differ
        return found

    @torch.inference_mode()
    def __call__(self, beta: float) -> float:
        """Nats per reply at strength β, above what truncation alone costs."""
        total = 0.0
        parts = (torch.split(x, AT_ONCE) for x in (self.log_ref, self.values, self.weights))
        for log_ref, values, weights in zip(*parts, strict=True):
            log_pi = self.rule(log_ref, values, weights, log_ref.new_full((len(log_ref),), beta))
            nats = exact_kl(log_pi, log_ref) - truncation(log_ref)
            total += float(nats.cpu().sum(dtype=torch.double))  # not every device knows doubles
        return total / self.replies

    def strength(self, kl: float, start: float = 1.0) -> float:
        """The strength β at which the policy is expected to be a number of nats from π_ref.

        Args:
            kl: the budget, in nats per reply, above what truncation costs.
            start: a strength to begin the search at.

        Raises:
            ValueError: the budget is not above 0, or no strength reaches it.
        """
        if not 0 < kl < math.inf:
            raise ValueError(f"kl must be above 0, got {kl}.")
        # KL grows with β, near zero as its square: so a step goes by the root of the ratio. Between
        # a strength that is too weak and one that is too strong, it must stay between them.
        low, high, beta = 0.0, math.inf, min(start, self.most)
        for _ in range(STEPS):
            reached = self(beta)
            if abs(reached - kl) <= CLOSE * kl:
                break
            low, high = (beta, high) if reached < kl else (low, beta)
            if low >= self.most:
                raise ValueError(
                    f"no strength reaches a KL of {kl:g} nats: at --beta {low:g} it is "
                    f"{reached:.2g}. Give larger weights, or a smaller budget."
                )
            guess = beta * min(8.0, math.sqrt(kl / reached)) if reached > 0 else 8.0 * beta
            beta = min(self.most, guess if low < guess < high else (low + min(high, 8 * beta)) / 2)
        return beta


def strength_at_kl(
    policy: GuidedPolicy,
    written: Sequence[Completion],
    weights: Weights,
    kl: float,
    **settings: Unpack[CandidateSettings],
) -> float:
    """Find the strength β at which the policy is expected to be a number of nats from π_ref.

    Args:
        policy: the guided policy.
        written: replies of the reference policy, two dozen or more: the estimate is their mean.
        weights: λ by objective.
        kl: the budget, in nats per reply, above what truncation costs.
        **settings: temperature, top_k and top_p, those of the replies.

    Raises:
        ValueError: the budget is not above 0, there is no reply, or no strength reaches the budget.
    """
    prompts, replies = [one.prompt for one in written], [one.tokens for one in written]
    steps = policy.walk(prompts, replies, weights, 1.0, **settings)
    return ExpectedKL(policy.rule, steps).strength(kl, policy.beta)
