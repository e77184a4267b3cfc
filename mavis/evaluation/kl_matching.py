"""Reward against KL: best-of-N, and the rewards of any method at a given KL.

A curve is a list of points, each with the rewards and the KL of every prompt; it lies at their
means over prompts. Between two points reward is taken to be linear in √KL, as it is to first order
for a tilt (KL grows with the square of the strength, reward with the strength). Everything is done
per prompt, so that prompts can be resampled. Pure functions of arrays.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mavis.evaluation.bootstrap import means

Array = npt.NDArray[np.float64]


class PerPrompt(NamedTuple):
    """One point of a curve, prompt by prompt; a prompt without a known reward is NaN."""

    rewards: Array  # [P, M]
    kl: Array  # [P] nats per answer

    @property
    def mean_rewards(self) -> Array:
        """Over the prompts that have a reward [M]."""
        return mean(self.rewards)

    @property
    def mean_kl(self) -> float:
        """Nats per answer."""
        return float(mean(self.kl))


class RewardsAtKL(NamedTuple):
    """Mean rewards at a KL."""

    rewards: Array  # [M]
    samples: Array  # the same on each resample of the prompts [S, M]


def per_prompt(rewards: Array, kl: Array) -> PerPrompt:
    """Average the answers to each prompt: rewards [P, S, M], kl [P, S]."""
    known = np.isfinite(rewards)
    count = known.sum(1)
    total = np.where(known, rewards, 0.0).sum(1)
    return PerPrompt(
        np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0), kl.mean(1)
    )


def mean(values: Array) -> Array:
    """Mean over prompts of what is known: [P, …] -> […]."""
    average: Array = means(values, np.ones((1, len(values)), dtype=np.int64))[0]
    return average


def chance_of_best(size: int, draws: int) -> Array:
    """How likely the i-th smallest of n numbers is the best of N drawn without replacement [n].

    C(i−1, N−1) / C(n, N).

    >>> chance_of_best(3, 2).round(3).tolist()
    [0.0, 0.333, 0.667]
    """
    return np.array([math.comb(i, draws - 1) / math.comb(size, draws) for i in range(size)])


def analytic_kl(draws: int) -> float:
    """KL of best-of-N from what the N are drawn from, at most: log N − (N−1)/N nats."""
    return math.log(draws) - (draws - 1) / draws


def without_abstentions(rewards: Array, weights: Sequence[float]) -> Array:
    """Rewards [P, n, M] as best-of-N counts them: an abstained answer counts as the prompt's worst.

    An answer has abstained if any of its rewards has (NaN). It then counts as if it were the answer
    to the same prompt with the lowest weighted reward. A prompt whose answers have all abstained is
    left out: all its rewards are NaN.

    >>> without_abstentions(np.array([[[3.0], [np.nan], [1.0]]]), [1.0])[0, :, 0].tolist()
    [3.0, 1.0, 1.0]
    """
    scores = rewards @ np.asarray(weights, dtype=np.float64)  # NaN also where a weight is 0
    known = np.isfinite(scores)  # [P, n]
    # The whole answer is replaced, so that its rewards stay those of one answer.
    worst = np.where(known, scores, np.inf).argmin(1)  # [P]
    filled = np.where(known[..., None], rewards, rewards[np.arange(len(worst)), worst][:, None])
    filled[~known.any(1)] = np.nan
    return filled


def best_of_n(rewards: Array, weights: Sequence[float]) -> list[PerPrompt]:
    """The curve of best-of-N by the weighted reward, exactly, for N = 1 … n.

    The mean over all ways to draw N of a prompt's n answers. KL is the analytic one from what the
    answers were drawn from: the reference on the same candidates, as of every KL here. For
    abstentions see `without_abstentions`.

    >>> rewards = np.array([[[0.0], [1.0], [2.0], [3.0]]])
    >>> [float(p.mean_rewards.round(2)[0]) for p in best_of_n(rewards, [1.0])]
    [1.5, 2.33, 2.75, 3.0]

    Args:
        rewards: of n answers of the reference policy [P, n, M]; NaN where a reward abstained.
        weights: λ [M].
    """
    counted = without_abstentions(rewards, weights)
    scores = counted @ np.asarray(weights, dtype=np.float64)  # [P, n]
    # By rising score, an answer is the best of N whenever the N − 1 others come before it.
    order = np.argsort(scores, axis=1)
    ranked = np.take_along_axis(counted, order[..., None], axis=1)
    # A prompt that is left out has no KL either: both are means over the same prompts.
    known = np.where(np.isnan(scores).any(1), np.nan, 0.0)  # [P]
    size = ranked.shape[1]
    curve = []
    for draws in range(1, size + 1):
        chance = chance_of_best(size, draws)
        best = np.einsum("pnm,n->pm", ranked, chance)
        curve.append(PerPrompt(best, analytic_kl(draws) + known))
    return curve


def at_kl(
    curve: Sequence[PerPrompt], kl: float, counts: npt.NDArray[np.int64] | None = None
) -> RewardsAtKL | None:
    """Interpolate a method's reward–KL curve at a given KL.

    Args:
        curve: at least one point.
        kl: mean nats per answer.
        counts: resamples of the prompts [S, P], the same for all methods; None draws each prompt
            once.

    Returns:
        None if the curve does not reach as far.
    """
    # Points come by strength; noise, or a broken policy, may give the stronger one the lower KL.
    ordered = sorted(curve, key=lambda point: point.mean_kl)
    reach = [point.mean_kl for point in ordered]
    at = int(np.searchsorted(reach, kl))
    if at == len(reach) or (at == 0 and reach[0] != kl):
        return None
    low, high = ordered[max(0, at - 1)], ordered[at]
    every = np.ones((1, len(low.kl)), dtype=np.int64)
    (value,) = _between(low, high, kl, every)
    samples = _between(low, high, kl, every if counts is None else counts)
    return RewardsAtKL(value, samples)


def _between(low: PerPrompt, high: PerPrompt, kl: float, counts: npt.NDArray[np.int64]) -> Array:
    """Mean rewards [S, M] at a KL between (or, in a resample, a little beyond) two points."""
    near, far = means(low.rewards, counts), means(high.rewards, counts)
    start, end = (np.sqrt(np.maximum(means(p.kl, counts), 0.0)) for p in (low, high))
    gap = end - start
    # In a resample the KL may lie outside of the two points; it is then read on the same line.
    share = np.divide(math.sqrt(kl) - start, gap, out=np.zeros_like(gap), where=gap > 0)
    rewards: Array = near + share[:, None] * (far - near)
    return rewards
