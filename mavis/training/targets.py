"""Soft targets: what a state is worth for each objective, seen from the leaves below it.

    target_m(s) = mean over the leaves below s of [ r_m − η · Σ_{tokens after s} log π/π_ref ]

Only tokens **after** s are charged (iterative soft policy improvement, MAVIS, arXiv 2508.13415,
with the sum begun after s): charging the whole path would subtract from every value what has
already been paid, and the rounds would oscillate instead of converging.

The M objectives share the trees of one behaviour policy π, so the charge is the same for each of
them, whichever of them bent π. For weights λ that sum to 1 the mix of the targets is then

    Σ_m λ_m · target_m = mean of [ Σ_m λ_m r_m − η · Σ_{tokens after s} log π/π_ref ]:

the soft target of the mixed reward under π. Tilting π_ref by such a mix of exact values, at
strength 1/η, is therefore one step of soft policy improvement over π for that mix, whatever the
weights; weights of another sum c mix to a target that is charged c · η. More is not promised:
these are values of π, not of the tilted policy, so that repeated rounds lead to the optimum only
for the weights that π itself is tilted with. With π = π_ref, as in the first round, no charge is
left, and a target is the mean reward of the leaves.
"""

import numpy as np

from mavis.training.tree import NO_PARENT, Floats, Tree


def soft_targets(tree: Tree, rewards: Floats, eta: float) -> Floats:
    """The targets of the state after every token.

    A tree with prompt P, a node A (two tokens) and its leaves B and C (one token each), log-ratios
    A = .1 .2, B = .3, C = .5, rewards 1 and 2, η = 1: after A's second token it is the mean of
    1 − .3 and 2 − .5 = 1.1; after A's first, 1.1 − .2 = .9; after P, .9 − .1 = .8.

    >>> from mavis.training.tree import Segment, build_tree
    >>> leaf = Segment([7], [0.3], "b", "end"), Segment([8], [0.5], "c", "end")
    >>> a = Segment([5, 6], [0.1, 0.2])
    >>> tree = build_tree("p", {(): Segment([1], [0.0]), (0,): a, (0, 0): leaf[0], (0, 1): leaf[1]})
    >>> rewards = np.array([[1.0], [2.0]], dtype=np.float32)  # of two leaves, by one objective
    >>> [round(float(t), 4) for t in soft_targets(tree, rewards, eta=1.0)[:, 0]]
    [0.8, 0.9, 1.1, 1.0, 2.0]

    Args:
        tree: T tokens, L leaves.
        rewards: of the leaves [L, M] in standard units; NaN leaves a leaf out, for its objective
            alone.
        eta: the KL price, per nat.

    Returns:
        [T, M]; NaN where no leaf below counts. A token's target is that of the state *after* it,
        which is both V(s·a) and Q(s, a).
    """
    nodes, outputs = len(tree.parent), rewards.shape[1]
    # Over the leaves below a node: how many count, and the sum of what is still to come at its end.
    total, count = np.zeros((nodes, outputs)), np.zeros((nodes, outputs))
    scored = np.isfinite(rewards)
    total[tree.leaves] = np.where(scored, rewards, 0.0)
    count[tree.leaves] = scored
    targets = np.full((len(tree.tokens), outputs), np.nan, dtype=np.float32)
    for node in range(nodes - 1, -1, -1):  # children come after their parents
        known = count[node] > 0
        if not known.any():
            continue
        begin, end = tree.start[node], tree.start[node + 1]
        price = eta * tree.log_ratio[begin:end].astype(np.float64)
        ahead = price.sum() - np.cumsum(price)  # of the segment's tokens after each token
        mean = total[node, known] / count[node, known]
        targets[begin:end, known] = mean - ahead[:, None]
        up = tree.parent[node]
        if up != NO_PARENT:
            total[up] += total[node] - count[node] * price.sum()
            count[up] += count[node]
    return targets
