"""The strength that a KL budget buys: β so that the policy stays so many nats from the reference.

The KL of a guided policy to the reference, over a reply, is the sum of its KL at every state. It is
estimated on replies of the reference policy, whose states are close to those of a policy that stays
near it, so that nothing is decoded with guidance: π is known at each of their states.
"""

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np

from mavis.decoding.arguments import Weights
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import CandidateSettings, Completion
from mavis.decoding.request import STRONGEST

STEPS = 12  # of the search; four are usual
CLOSE = 0.02  # share of the budget that it may be missed by


def expected_kl(
    policy: GuidedPolicy,
    written: Sequence[Completion],
    weights: Weights,
    beta: float,
    **settings: Unpack[CandidateSettings],
) -> float:
    """The policy's KL to the reference on the same candidates, mean over replies of the reference.

    Args:
        policy: the guided policy.
        written: replies of the reference policy.
        weights: λ by objective.
        beta: strength of the tilt.
        **settings: temperature, top_k and top_p, those of the replies.

    Returns:
        nats per reply, above what truncation alone costs.
    """
    prompts, replies = [one.prompt for one in written], [one.tokens for one in written]
    scores = policy.score(prompts, replies, weights, beta, **settings)
    return float(np.mean([sum(one.kl) - sum(one.truncation) for one in scores]))


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
    if not 0 < kl < math.inf:
        raise ValueError(f"kl must be above 0, got {kl}.")
    if not written:
        raise ValueError("written must hold at least one reply of the reference policy, got none.")
    # KL grows with β, near zero as its square: so a step goes by the root of the ratio. Between a
    # strength that is too weak and one that is too strong, it must stay between them.
    heaviest = max(map(abs, policy.vector(weights)), default=0.0)
    most = STRONGEST / max(1.0, heaviest)
    low, high, beta = 0.0, math.inf, min(policy.beta, most)
    for _ in range(STEPS):
        reached = expected_kl(policy, written, weights, beta, **settings)
        if abs(reached - kl) <= CLOSE * kl:
            break
        low, high = (beta, high) if reached < kl else (low, beta)
        guess = beta * min(8.0, math.sqrt(kl / reached)) if reached > 0 else 8.0 * beta
        if low >= most or not heaviest:
            raise ValueError(
                f"no strength reaches a KL of {kl:g} nats: at --beta {low:g} it is {reached:.2g}. "
                "Give larger weights, or a smaller budget."
            )
        beta = min(most, guess if low < guess < high else (low + high) / 2)
    return beta
