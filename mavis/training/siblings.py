"""How much of a reward there is to foretell: whether sibling replies of a tree are alike in it.

Two leaves of a tree with the same parent share all of their reply up to the last branching. Of the
variance of a reply's reward within its prompt, what is settled by then is the intraclass
correlation of such siblings. Where it is 0, nothing that is known before the last branching tells
which reward is to come: it is settled by the end of a reply alone, or it is noise.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mavis.evaluation.bootstrap import Interval, interval, resamples
from mavis.reward import Units, standardised
from mavis.training.tree import NO_PARENT, Tree
from mavis.training.weightings import Weighting, measured, mixed

Array = npt.NDArray[np.float64]

# Names in `metrics.json`: the share, and the ends of its interval.
EXPLAINABLE = ("reward_explainable", "reward_explainable_low", "reward_explainable_high")


def explainable(trees: Sequence[Tree], rewards: Sequence[Array]) -> Interval:
    """The share of a reply's variance within its prompt that is settled at the last branching.

    Variances are unbiased: replies are drawn independently where they part, so that the products
    of different branches estimate the square of a mean, whatever the shape of a tree. A reply that
    ends before the last branching is settled by then.

    Args:
        trees: how their replies hang together.
        rewards: of the leaves of each tree [L]; NaN leaves a reply out.

    Returns:
        1 − (variance between siblings at the last branching) / (variance within the prompt), with
        its 95 % interval by bootstrap over trees. NaN where no tree branches twice, or where no
        rewards differ within a tree.
    """
    deepest = max((_last_branching(tree) for tree in trees), default=0)
    if deepest < 1:
        return Interval(math.nan, math.nan, math.nan)
    pairs = zip(trees, rewards, strict=True)
    sums = np.array([_variances(tree, column, deepest) for tree, column in pairs])
    sums = sums[np.isfinite(sums).all(1)]
    if not len(sums) or sums[:, 1].sum() <= 0:
        return Interval(math.nan, math.nan, math.nan)
    left, all_of_it = sums.sum(0)
    drawn = resamples(len(sums)) @ sums  # [draws, 2]
    # A draw of few trees may have no variance, by an unbiased estimate even less.
    known = drawn[drawn[:, 1] > 0]
    return interval(float(1 - left / all_of_it), 1 - known[:, 0] / known[:, 1])


def facts(trees: Sequence[Tree], rewards: Sequence[Array]) -> dict[str, float]:
    """What is explainable of the rewards of leaves, by name; see `explainable`."""
    found = explainable(trees, rewards)
    return dict(zip(EXPLAINABLE, (found.value, found.low, found.high), strict=True))


def by_weighting(
    trees: Sequence[Tree], units: Sequence[Units]
) -> dict[Weighting, dict[str, float]]:
    """What is explainable of the weighted reward, at each weighting that a round is measured at."""
    standard = [standardised(tree.rewards, units) for tree in trees]
    return {
        weights: facts(trees, [mixed(rewards, weights) for rewards in standard])
        for weights in measured(len(units))
    }


def _levels(tree: Tree) -> list[int]:
    """How many nodes are above each."""
    levels: list[int] = []
    for up in tree.parent.tolist():
        levels.append(0 if up == NO_PARENT else levels[up] + 1)
    return levels


def _last_branching(tree: Tree) -> int:
    """The deepest level of a node that has two children; 0 is the root's, −1 if there is none."""
    children = np.bincount(tree.parent[1:], minlength=len(tree.parent))
    return max(
        (level for level, n in zip(_levels(tree), children.tolist(), strict=True) if n > 1),
        default=-1,
    )


def _variances(tree: Tree, column: Array, deepest: int) -> tuple[float, float]:
    """Variances of a reply: given its node on the deepest level, and given the prompt alone."""
    levels = _levels(tree)
    below: list[list[tuple[float, float, float]]] = [[] for _ in levels]
    column = column.astype(np.float64)
    if np.isfinite(column).any():
        column = column - column[np.isfinite(column)].mean()  # so that no digits are lost
    rewards = dict(zip(tree.leaves.tolist(), column.tolist(), strict=True))
    # From the last node to the root: of each, the mean of r, of r², and of the variance among
    # siblings at the last branching, over replies that go on from it.
    for node in range(len(levels) - 1, 0, -1):
        found = below[node]
        if node in rewards:
            r = rewards[node]
            found = [(r, r * r, 0.0)] if math.isfinite(r) else []
        elif levels[node] == deepest and len(tree.parent[tree.parent == node]) > 1:
            found = [_siblings(found)] if len(found) > 1 else []
        if found:
            below[tree.parent[node]].append(_mean(found))
    branches = np.array(below[0]).reshape(-1, 3)
    if len(branches) < 2:
        return math.nan, math.nan
    count, (_, square, left) = len(branches), branches.mean(0)
    means = branches[:, 0]
    pairs = (means.sum() ** 2 - np.square(means).sum()) / (count * (count - 1))
    return float(left), float(square - pairs)


def _siblings(found: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Mean, mean square and unbiased variance of replies that part here for the last time."""
    mean, square, _ = _mean(found)
    count = len(found)
    return mean, square, (square - mean * mean) * count / (count - 1)


def _mean(found: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    r, square, left = np.mean(found, axis=0).tolist()
    return r, square, left
