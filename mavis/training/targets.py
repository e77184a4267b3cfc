"""Soft targets: what a state is worth, seen from the leaves below it.

    target(s) = mean over the leaves below s of [ reward − η · Σ_{tokens after s} log π/π_ref ]

Only tokens **after** s are charged (iterative soft policy improvement, MAVIS, arXiv 2508.13415,
with the sum begun behind s): charging the whole path would subtract from every value what has
already been paid, and the rounds would oscillate instead of converging.
"""

import numpy as np

from mavis.training.tree import NO_PARENT, Floats, Tree


def soft_targets(tree: Tree, rewards: Floats, eta: float) -> Floats:
    """The target of the state after every token.

    A tree with prompt P, a node A (two tokens) and its leaves B and C (one token each), log-ratios
    A = .1 .2, B = .3, C = .5, rewards 1 and 2, η = 1: after A's second token it is the mean of
    1 − .3 and 2 − .5 = 1.1; after A's first, 1.1 − .2 = .9; after P, .9 − .1 = .8.

    >>> from mavis.training.tree import Segment, build_tree
    >>> leaf = Segment([7], [0.3], "b", "end"), Segment([8], [0.5], "c", "end")
    >>> a = Segment([5, 6], [0.1, 0.2])
    >>> tree = build_tree("p", {(): Segment([1], [0.0]), (0,): a, (0, 0): leaf[0], (0, 1): leaf[1]})
    >>> rewards = np.array([1.0, 2.0], dtype=np.float32)
    >>> [round(float(t), 4) for t in soft_targets(tree, rewards, eta=1.0)]
    [0.8, 0.9, 1.1, 1.0, 2.0]

    Args:
        tree: T tokens, L leaves.
        rewards: of the leaves [L] in standard units; NaN leaves a leaf out.
        eta: the KL price, per nat.

    Returns:
        [T]; NaN where no leaf below counts. A token's target is that of the state *after* it, which
        is both V(s·a) and Q(s, a).
    """
    nodes = len(tree.parent)
    total = np.zeros(nodes)  # over the leaves below a node, of what is still to come at its end
    count = np.zeros(nodes)
    scored = np.isfinite(rewards)
    total[tree.leaves[scored]] = rewards[scored]
    count[tree.leaves[scored]] = 1
    targets = np.full(len(tree.tokens), np.nan, dtype=np.float32)
    for node in range(nodes - 1, -1, -1):  # children come behind their parents
        if count[node] == 0:
            continue
        begin, end = tree.start[node], tree.start[node + 1]
        price = eta * tree.log_ratio[begin:end].astype(np.float64)
        ahead = price.sum() - np.cumsum(price)  # of the segment's tokens behind each token
        targets[begin:end] = total[node] / count[node] - ahead
        up = tree.parent[node]
        if up != NO_PARENT:
            total[up] += total[node] - count[node] * price.sum()
            count[up] += count[node]
    return targets
