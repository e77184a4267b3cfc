"""Numbers about answers: mean reward, variety, repetition, and how well values rank siblings."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def mean_reward(rewards: npt.ArrayLike) -> dict[str, float]:
    """The mean of rewards and its standard error; abstentions (NaN) are left out.

    >>> mean_reward([1.0, 3.0, math.nan])
    {'reward': 2.0, 'reward_se': 1.0}
    """
    values = np.asarray(rewards, dtype=np.float64)
    known = values[np.isfinite(values)]
    mean = known.mean() if len(known) else math.nan
    # For one answer to each prompt: answers to the same prompt are correlated, so that the standard
    # error of several is larger than this.
    error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return {"reward": float(mean), "reward_se": float(error)}


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
    """The share of a response's n-grams that repeat an earlier one, mean over responses.

    >>> repetition([[1, 2, 1, 2], [1, 2, 3, 4]], 2)
    0.16666666666666666
    """
    shares = []
    for tokens in responses:
        counts = Counter(_grams(tokens, n))
        total = sum(counts.values())
        shares.append((total - len(counts)) / total if total else 0.0)
    return float(np.mean(shares)) if shares else 0.0


def sibling_rank_correlation(
    predicted: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    family: npt.NDArray[np.int64],
) -> float:
    """Kendall's tau over all pairs of siblings: whether values rank them as the targets do.

    >>> values, targets = np.array([0.1, 0.4, 0.3]), np.array([1.0, 2.0, 3.0])
    >>> round(sibling_rank_correlation(values, targets, np.array([5, 5, 5])), 2)
    0.33

    Args:
        predicted: [P], at the last token of each node.
        target: [P].
        family: number of the family of siblings that a node is in [P].
    """
    signs: list[float] = []
    for name in np.unique(family):
        here = family == name
        gap = np.sign(predicted[here][:, None] - predicted[here][None, :])
        true = np.sign(target[here][:, None] - target[here][None, :])
        # Each pair once; siblings with the same target have no order.
        upper = np.triu_indices(int(here.sum()), 1)
        pairs = (gap * true)[upper]
        signs.extend(pairs[true[upper] != 0].tolist())
    return float(np.mean(signs)) if signs else math.nan
