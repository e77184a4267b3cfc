"""Rewards at equal KL: what a method's curve says where every other method's is asked, too.

A curve is a method's points for one weighting, by rising KL; each point is a mean over prompts, of
rewards and of KL. Between two points reward is taken to be linear in √KL, as it is to first order
for a tilt (KL grows with the square of the strength, reward with the strength). Everything is done
per prompt, so that prompts can be resampled. Pure functions of arrays.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mavis.evaluation.bootstrap import means
from mavis.evaluation.metrics import analytic_kl, odds_of_best

Array = npt.NDArray[np.float64]


class PerPrompt(NamedTuple):
    """Where a setting stands, prompt by prompt: means over the answers to each."""

    rewards: Array  # [P, M]; NaN where all rewards of a prompt abstained
    kl: Array  # [P] nats per answer


class RewardsAtKL(NamedTuple):
    """Mean rewards at a KL."""

    rewards: Array  # [M]
    samples: Array  # the same on each resample of the prompts [S, M]


def stand(rewards: Array, kl: Array) -> PerPrompt:
    """Average the answers to each prompt: rewards [P, S, M], kl [P, S]."""
    known = np.isfinite(rewards)
    count = known.sum(1)
    total = np.where(known, rewards, 0.0).sum(1)
    return PerPrompt(
        np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), kl.mean(1)
    )


def best_of_n(rewards: Array, truncation: Array, weights: Sequence[float]) -> list[PerPrompt]:
    """The curve of best-of-N by the weighted reward, exactly, for N = 1 … n.

    The mean over all ways to draw N of a prompt's n answers. KL is the analytic one from what the
    answers were drawn from, plus what truncation had cost the chosen ones.

    Args:
        rewards: of n answers of the reference policy [P, n, M]; one with a reward that abstained
            counts as the prompt's worst.
        truncation: nats that truncation cost each answer [P, n].
        weights: λ [M].
    """
    weighted = (rewards * np.asarray(weights)).sum(-1)  # [P, n]
    order = np.argsort(np.where(np.isfinite(weighted), weighted, -np.inf), axis=1)
    ranked = np.take_along_axis(rewards, order[..., None], axis=1)
    cost = np.take_along_axis(truncation, order, axis=1)
    size = ranked.shape[1]
    curve = []
    for draws in range(1, size + 1):
        odds = odds_of_best(size, draws)
        known = np.isfinite(ranked)
        weight = (known * odds[:, None]).sum(1)
        total = (np.where(known, ranked, 0.0) * odds[:, None]).sum(1)
        mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
        curve.append(PerPrompt(mean, analytic_kl(draws) + cost @ odds))
    return curve


def at_kl(
    curve: Sequence[PerPrompt], kl: float, counts: npt.NDArray[np.int64]
) -> RewardsAtKL | None:
    """Read a curve at a KL.

    Args:
        curve: at least one point.
        kl: mean nats per answer.
        counts: resamples of the prompts [S, P], the same for all methods.

    Returns:
        None if the curve does not reach as far.
    """
    ordered = sorted(curve, key=lambda point: point.kl.mean())
    reach = [float(point.kl.mean()) for point in ordered]
    at = int(np.searchsorted(reach, kl))
    if at == len(reach) or (at == 0 and reach[0] != kl):
        return None
    low, high = ordered[max(0, at - 1)], ordered[at]
    every = np.ones((1, len(low.kl)), dtype=np.int64)
    (value,) = _between(low, high, kl, every)
    return RewardsAtKL(value, _between(low, high, kl, counts))


def _between(low: PerPrompt, high: PerPrompt, kl: float, counts: npt.NDArray[np.int64]) -> Array:
    """Mean rewards [S, M] at a KL between (or, in a resample, a little beyond) two points."""
    near, far = means(low.rewards, counts), means(high.rewards, counts)
    start, end = (np.sqrt(np.maximum(means(p.kl, counts), 0.0)) for p in (low, high))
    gap = end - start
    share = np.divide(math.sqrt(kl) - start, gap, out=np.zeros_like(gap), where=gap > 0)
    found: Array = near + share[:, None] * (far - near)
    return found
