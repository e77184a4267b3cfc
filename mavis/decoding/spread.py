"""The spread of a weighted reward, and the strength of guidance that follows from it.

A tilt by a value Q at strength β is about β² Var[Q] / 2 nats from the reference. The weighted
reward Σ λ_m r_m of conflicting objectives varies less than each of them, so that one strength for
all weights spends most of its KL at the corners and little between. With C the covariance of what
is weighted, under the reference policy and in standard units,

    σ_λ² = λᵀ C λ,        β_λ = β₀ / σ_λ

spends about as many nats for any λ whose weights sum to 1. C is that of the rewards within prompts
before there are values, and then that of the values (`evaluation.strength`): a reward that is
harder to learn has smaller ones.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Covariance = tuple[tuple[float, ...], ...]  # [M, M]

FAINT = 1e-9  # of the variances: a covariance that is none
HALVINGS = 40  # of the way to a scale
SMALLEST = 0.1  # of the spread of a weighted reward: below it, strengths grow no further


def mixed_spread(weights: Sequence[float], covariance: npt.ArrayLike) -> float:
    """σ_λ, the standard deviation of the weighted reward within a prompt.

    >>> round(mixed_spread((0.5, 0.5), [[1.0, -0.5], [-0.5, 1.0]]), 3)
    0.5
    """
    λ = np.asarray(weights, dtype=np.float64)
    return math.sqrt(max(0.0, float(λ @ np.asarray(covariance, dtype=np.float64) @ λ)))


def relative_strength(weights: Sequence[float], covariance: npt.ArrayLike) -> float:
    """β_λ / β₀: what multiplies the strength that was found for a single objective.

    Weights of the sum 1 spend what a single objective of weight 1 does. Beyond that, strength grows
    with the weights as it does for one objective: two weights of 1 have the strength of two halves,
    a single weight of 2 twice that of 1, and weights near 0 hardly tilt. So the size of
    the weights counts as their largest one, or as their sum if that is up to 1.

    >>> C = [[1.0, -0.5], [-0.5, 1.0]]
    >>> [round(relative_strength(λ, C), 3) for λ in [(1, 0), (2, 0), (0.5, 0.5), (1, 1)]]
    [1.0, 1.0, 2.0, 1.0]
    """
    sizes = np.abs(np.asarray(weights, dtype=np.float64))
    size = max(float(sizes.max(initial=0.0)), min(1.0, float(sizes.sum())))
    if size == 0:
        return 1.0
    return size / max(SMALLEST * size, mixed_spread(weights, covariance))


def within_prompts(rewards: npt.NDArray[np.float64]) -> Covariance:
    """C of the rewards of n answers to each of P prompts [P, n, M].

    Scaled so that a single objective has the spread 1 on average over the objectives. An answer
    that a reward abstained from (NaN) is left out, and so is a prompt of fewer than two answers.

    >>> within_prompts(np.array([[[0.0, 1.0], [1.0, 0.0]]]))
    ((1.0, -1.0), (-1.0, 1.0))
    """
    outputs = rewards.shape[-1]
    total = np.zeros((outputs, outputs))
    for answers in rewards:
        known = answers[np.isfinite(answers).all(-1)]
        if len(known) > 1:
            centred = known - known.mean(0)
            total = total + centred.T @ centred
    return scaled(total)


def scaled(covariance: npt.NDArray[np.float64]) -> Covariance:
    """C [M, M] with the mean 1 on its diagonal; that of independent ones if it is all 0."""
    mean = float(np.diag(covariance).mean())
    found = covariance / mean if mean > 0 else np.eye(len(covariance))
    return tuple(tuple(float(x) for x in row) for row in found)


def matching_equal_weights(
    covariance: npt.NDArray[np.float64], spread: float
) -> npt.NDArray[np.float64]:
    """C [M, M] with its covariances scaled so that equal weights have a given spread.

    What is on the diagonal stays. If no scale does, or it makes C no covariance (a spread below 0
    for some weights), the scale is as near to it as can be.

    >>> matching_equal_weights(np.array([[1.0, -0.5], [-0.5, 1.0]]), 0.4).round(2).tolist()
    [[1.0, -0.68], [-0.68, 1.0]]
    """
    own = np.diag(np.diag(covariance))
    between = covariance - own
    equal = np.full(len(covariance), 1 / len(covariance))
    most = float(np.abs(np.diag(covariance)).sum())
    if abs(equal @ between @ equal) <= FAINT * most:
        return covariance
    scale = float((spread**2 - equal @ own @ equal) / (equal @ between @ equal))
    fits, too_far = 1.0, scale  # C itself is a covariance; halved until `fits` is as far as can be
    for _ in range(HALVINGS):
        if np.linalg.eigvalsh(own + scale * between)[0] >= -FAINT * most:
            fits = scale
        else:
            too_far = scale
        if fits == too_far:
            break
        scale = (fits + too_far) / 2
    found: npt.NDArray[np.float64] = own + fits * between
    return found
