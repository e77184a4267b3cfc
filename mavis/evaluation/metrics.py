"""How good a policy is, and how far it went: reward, KL, variety, best-of-N at equal KL."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Point = tuple[int, float, float]  # N, KL in nats, mean reward


@dataclass(frozen=True)
class Sample:
    """A scored answer."""

    prompt: str
    response: str
    tokens: list[int]
    reward: float  # standard units; NaN where the reward abstained
    kl: float
    kl_sampled: float
    kl_truncation: float


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Means over samples, and the standard error of the reward.

    Returns:
        reward, reward_se (standard units), kl, kl_sampled, kl_truncation (nats per response),
        length (tokens), distinct_3, repetition.
    """
    rewards = np.array([s.reward for s in samples], dtype=np.float64)
    rewards = rewards[np.isfinite(rewards)]
    tokens = [s.tokens for s in samples]
    return {
        "reward": float(rewards.mean()) if len(rewards) else math.nan,
        "reward_se": float(rewards.std(ddof=1) / math.sqrt(len(rewards)))
        if len(rewards) > 1
        else math.nan,
        "kl": float(np.mean([s.kl for s in samples])),
        "kl_sampled": float(np.mean([s.kl_sampled for s in samples])),
        "kl_truncation": float(np.mean([s.kl_truncation for s in samples])),
        "length": float(np.mean([len(t) for t in tokens])),
        "distinct_3": distinct(tokens, 3),
        "repetition": repetition(tokens, 3),
    }


def _grams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct(responses: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all responses, as a share of all n-grams (Li et al., 2016).

    It falls with the number of responses: compare equal numbers.

    >>> distinct([[1, 2, 3], [1, 2, 4]], 2)
    0.75
    """
    grams = [gram for tokens in responses for gram in _grams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(responses: Sequence[Sequence[int]], n: int) -> float:
    """The share of n-grams that their own response had said before, mean over responses.

    >>> repetition([[1, 2, 1, 2], [1, 2, 3, 4]], 2)
    0.16666666666666666
    """
    shares = []
    for tokens in responses:
        counts = Counter(_grams(tokens, n))
        total = sum(counts.values())
        shares.append((total - len(counts)) / total if total else 0.0)
    return float(np.mean(shares)) if shares else 0.0


def odds_of_best(size: int, draws: int) -> npt.NDArray[np.float64]:
    """How likely the i-th smallest of n numbers is the best of N drawn without replacement [n].

    C(i−1, N−1) / C(n, N).

    >>> odds_of_best(3, 2).round(3).tolist()
    [0.0, 0.333, 0.667]
    """
    return np.array([math.comb(i, draws - 1) / math.comb(size, draws) for i in range(size)])


def analytic_kl(draws: int) -> float:
    """KL of best-of-N from what the N are drawn from, at most: log N − (N−1)/N nats."""
    return math.log(draws) - (draws - 1) / draws


def best_of_n(rewards: npt.NDArray[np.float64], truncation: npt.NDArray[np.float64]) -> list[Point]:
    """The exact mean reward of best-of-N on given samples, for N = 1 … n.

    For each prompt the expected maximum of N of its n rewards. KL is the analytic one from what the
    samples were drawn from, plus what top-k cost them already: like every KL here it is one from
    the untruncated reference.

    >>> rewards = np.array([[0.0, 1.0, 2.0, 3.0]])
    >>> [(n, round(reward, 2)) for n, _, reward in best_of_n(rewards, 0 * rewards)]
    [(1, 1.5), (2, 2.33), (3, 2.75), (4, 3.0)]

    Args:
        rewards: of n samples per prompt [P, n]; NaN counts as the prompt's worst, a prompt of
            nothing else is left out.
        truncation: nats that truncation cost each sample [P, n].
    """
    known = np.isfinite(rewards).any(axis=1)
    rewards, truncation = rewards[known], truncation[known]
    worst = np.nanmin(rewards, axis=1, keepdims=True)
    rewards = np.where(np.isfinite(rewards), rewards, worst)
    order = np.argsort(rewards, axis=1)
    ordered = np.take_along_axis(rewards, order, axis=1)
    cost = np.take_along_axis(truncation, order, axis=1)
    size = ordered.shape[1]
    points: list[Point] = []
    for draws in range(1, size + 1):
        odds = odds_of_best(size, draws)
        kl = analytic_kl(draws) + float((cost @ odds).mean())
        points.append((draws, kl, float((ordered @ odds).mean())))
    return points


def at_kl(curve: Sequence[Point], kl: float) -> float | None:
    """Reward of a curve at a KL, interpolated; None beyond its ends."""
    if not curve or not curve[0][1] <= kl <= curve[-1][1]:
        return None
    return float(np.interp(kl, [point[1] for point in curve], [point[2] for point in curve]))


def sibling_rank_correlation(
    predicted: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    family: npt.NDArray[np.int64],
) -> float:
    """Kendall's tau over all pairs of siblings: can the values tell the better child?

    >>> values, targets = np.array([0.1, 0.4, 0.3]), np.array([1.0, 2.0, 3.0])
    >>> round(sibling_rank_correlation(values, targets, np.array([5, 5, 5])), 2)
    0.33

    Args:
        predicted: [P], at the last token of each node.
        target: [P].
        family: which nodes are siblings [P].
    """
    signs: list[float] = []
    for name in np.unique(family):
        here = family == name
        gap = np.sign(predicted[here][:, None] - predicted[here][None, :])
        true = np.sign(target[here][:, None] - target[here][None, :])
        upper = np.triu_indices(int(here.sum()), 1)
        pairs = (gap * true)[upper]
        signs.extend(pairs[true[upper] != 0].tolist())
    return float(np.mean(signs)) if signs else math.nan
