"""Rewards on prefixes: what a reward says of a reply so far, and what each token adds to it.

Let the potential Φ(s) be the reward of the reply up to state s, and Δ = Φ(s·a) − Φ(s) the increment
that a token brings. The increments of a reply sum to its reward, so that they may stand for it as
they come (potential-based reward shaping: Ng, Harada and Russell 1999). Discounted by κ per token,
later increments count less for an earlier token:

    target(s·a) = Φ(s) + mean over the leaves below of Σ_{u ≥ t} κ^{u − t} Δ_u.

With κ = 1 this is the mean reward of the leaves, whatever Φ is. With less there is less noise of
what comes later, and a bias: it credits a token with what it does to the reward of partial text.
This helps where that foretells the reward of the whole, as with rewards that count words. It harms
where a reward was only ever meant for whole replies. These are the targets of token credit, which
nothing corrects; joint credit takes a direction from the increments, and learns from whole replies
how far to go in it (`credit`).

Where a reward abstains from a prefix, Φ is that of the prefix before it; before all prefixes it is
the mean reward of the prompt's replies. At the end of a reply it is the reply's own reward.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mavis.training.tree import NO_PARENT, Floats, Ints, Tree


def prefix_places(tree: Tree) -> Ints:
    """The sampled tokens that do not end a reply, as places in the tree: [K]."""
    inside = np.arange(len(tree.tokens)) >= tree.start[1]
    inside[tree.start[tree.leaves + 1] - 1] = False
    return np.flatnonzero(inside)


def prefix_texts(tree: Tree, decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The reply up to each of `prefix_places`, as `decode` spells its tokens: K texts."""
    previous, replies = tree.previous(), dict[int, list[int]]()
    for place in range(int(tree.start[1]), len(tree.tokens)):
        replies[place] = [*replies.get(int(previous[place]), []), int(tree.tokens[place])]
    return [decode(replies[int(place)]) for place in prefix_places(tree)]


def potentials(tree: Tree, rewards: Floats, prefixes: Floats) -> Floats:
    """Φ after every token of a tree.

    Args:
        tree: T tokens, L leaves.
        rewards: of the leaves [L, M] in standard units; NaN where a reward abstained.
        prefixes: rewards of the prefixes at `prefix_places` [K, M], likewise.

    Returns:
        [T, M], finite.
    """
    found = np.full((len(tree.tokens), rewards.shape[1]), np.nan, dtype=np.float64)
    found[prefix_places(tree)] = prefixes
    found[tree.start[tree.leaves + 1] - 1] = rewards
    known = np.isfinite(rewards)
    mean = np.where(known, rewards, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    found[: tree.start[1]] = mean
    for place, before in enumerate(tree.previous()):
        if before >= 0:
            found[place] = np.where(np.isfinite(found[place]), found[place], found[before])
    return found.astype(np.float32)


def increments(tree: Tree, potential: Floats) -> Floats:
    """Δ of every token [T, M], of Φ after every token [T, M]; 0 in the prompt."""
    before = np.maximum(tree.previous(), 0)
    found: Floats = potential - potential[before]
    return found


def discounted_targets(
    tree: Tree, targets: Floats, rewards: Floats, potential: Floats, discount: float
) -> Floats:
    """Soft targets, with later increments discounted; the price of KL stays as it is.

    Args:
        tree: T tokens, L leaves.
        targets: `soft_targets` [T, M], which stand for κ = 1; NaN stays NaN.
        rewards: of the leaves [L, M]; a leaf without one is left out.
        potential: Φ after every token [T, M].
        discount: κ, in [0, 1].
    """
    gained, counted = increments(tree, potential), np.isfinite(rewards)
    later = _ahead(tree, gained, counted, discount)
    found = targets + discount * later - _ahead(tree, gained, counted, 1.0)
    return found.astype(np.float32)


def _ahead(
    tree: Tree, gained: Floats, counted: npt.NDArray[np.bool_], discount: float
) -> npt.NDArray[np.float64]:
    """What comes after every token [T, M]: the mean over the leaves below that are counted [L, M].

    Of each leaf it is the sum of its later increments [T, M], the next one in full.
    """
    ahead = np.zeros(gained.shape, dtype=np.float64)
    total, count = (np.zeros((len(tree.parent), gained.shape[1])) for _ in range(2))
    count[tree.leaves] = counted
    for node in range(len(tree.parent) - 1, -1, -1):  # children come after their parents
        following = total[node] / np.maximum(count[node], 1)
        for place in range(tree.start[node + 1] - 1, tree.start[node] - 1, -1):
            ahead[place] = following
            following = gained[place] + discount * following
        up = tree.parent[node]
        if up != NO_PARENT:
            total[up] += count[node] * following
            count[up] += count[node]
    return ahead
