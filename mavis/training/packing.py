"""Packs: trees as the value model is trained on them, with each shared token computed once.

A pack is a tree, or a subtree with the path that leads to it, of a limited number of tokens. A
token attends to its ancestors and itself alone (a tree mask), and its position is its depth. So one
forward of the pack equals one forward per path of the tree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mavis.reward import Units, standardised
from mavis.training.prefixes import discounted_targets, increments, potentials
from mavis.training.targets import soft_targets
from mavis.training.tree import NO_PARENT, Floats, Ints, Tree

FREAK = 5.0  # standard units of reward that a reply counts for at most
MOST = 64  # candidates of a state that are kept, the likeliest ones


@dataclass(frozen=True)
class Pack:
    """T tokens of a tree, ancestors before descendants."""

    tokens: Ints  # [T]
    previous: Ints  # [T] index in the pack of the token before; −1 at the prompt's first
    position: Ints  # [T] depth
    targets: Floats  # [T, M] NaN = nothing to learn here
    siblings: Ints  # [T] at a node's last token the number of its family of siblings, else −1
    prompt_length: int
    start: Floats  # [M] the target of the prompt, before anything is sampled
    price: Floats  # [T] η log π/π_ref: what the token is charged
    weights: Floats  # [M] of the policy; 0 where it was the reference
    increments: Floats | None = None  # [T, M] of rewards on prefixes; None = not discounted
    candidates: npt.NDArray[np.int32] | None = None  # [T, K] of the state after each token
    log_ref: Floats | None = None  # [T, K] of each, under the reference; −∞ = no candidate


def round_packs(
    trees: Sequence[Tree],
    units: Sequence[Units],
    prices: Sequence[float],
    cap: int,
    prefix_discount: float = 1.0,
) -> list[Pack]:
    """The packs of scored trees, with soft targets in standard units.

    Args:
        trees: with the rewards of their leaves.
        units: of the M rewards.
        prices: η of each tree, the KL price of its targets per nat.
        cap: the most tokens of a pack.
        prefix_discount: of increments of rewards on prefixes, which less than 1 needs.
    """
    packs: list[Pack] = []
    families = 0
    for tree, eta in zip(trees, prices, strict=True):
        # Squared errors would learn little but a freak reply; it stays the best, or the worst.
        rewards = standardised(tree.rewards, units).clip(-FREAK, FREAK)
        targets, gained = soft_targets(tree, rewards, eta), None
        if prefix_discount < 1 and tree.prefixes is not None:
            prefixes = standardised(tree.prefixes, units).clip(-FREAK, FREAK)
            potential = potentials(tree, rewards, prefixes)
            gained = increments(tree, potential)
            targets = discounted_targets(tree, targets, rewards, potential, prefix_discount)
        packs += pack_tree(tree, targets, cap, families, eta, gained)
        families += len(tree.parent)
    return packs


def pack_tree(
    tree: Tree,
    targets: Floats,
    cap: int,
    family: int = 0,
    eta: float = 0.0,
    gained: Floats | None = None,
) -> list[Pack]:
    """Cut a tree into packs of at most `cap` tokens.

    A subtree that does not fit is cut into its children, each with the path that leads to it; a
    path is supervised in the first pack that shows it. A single path longer than `cap` stays whole.

    Args:
        tree: T tokens.
        targets: [T, M]; of the prompt's only the last is used (nothing was chosen there).
        cap: tokens per pack.
        family: number of this tree's first family of siblings.
        eta: the KL price of the targets, per nat.
        gained: increments of rewards on prefixes [T, M], if later ones are discounted.
    """
    start = targets[tree.start[1] - 1].astype(np.float32)
    price = (eta * tree.log_ratio).astype(np.float32)
    λ = np.array(tree.weights or (0.0,) * targets.shape[1], dtype=np.float32)
    targets = targets.copy()
    targets[: tree.start[1]] = np.nan
    packs, seen = [], np.zeros(len(tree.parent), dtype=bool)
    options = _candidates_after(tree)
    for nodes in _groups(tree, cap):
        index = _tokens(tree, nodes)
        learned = _pack(tree, targets, nodes, index, seen, family)
        more = None if gained is None else gained[index]
        known = {name: part[index] for name, part in options.items()}
        packs.append(
            Pack(**learned, **known, start=start, price=price[index], weights=λ, increments=more)
        )
        seen[nodes] = True
    return packs


def _groups(tree: Tree, cap: int) -> Iterator[list[int]]:
    """Lists of nodes, each a path from the root and whole subtrees below its end."""
    # Nodes are in depth-first order: a subtree is the nodes from its root to before `end[root]`.
    end = np.arange(1, len(tree.parent) + 1)
    for node in range(len(tree.parent) - 1, 0, -1):
        end[tree.parent[node]] = max(end[tree.parent[node]], end[node])

    def size(node: int) -> int:
        """Tokens of the whole subtree."""
        return int(tree.start[end[node]] - tree.start[node])

    def cut(node: int, path: list[int], before: int) -> Iterator[list[int]]:
        children = np.flatnonzero(tree.parent == node).tolist()
        if before + size(node) <= cap or not children:
            yield [*path, *range(node, end[node])]
            return
        path, before = [*path, node], before + int(tree.start[node + 1] - tree.start[node])
        fitting: list[int] = []  # nodes of subtrees that fit into a pack together
        length = before
        for child in children:
            if before + size(child) > cap:
                yield from cut(child, path, before)
                continue
            if length + size(child) > cap:
                yield [*path, *fitting]
                fitting, length = [], before
            fitting += range(child, end[child])
            length += size(child)
        if fitting:
            yield [*path, *fitting]

    yield from cut(0, [], 0)


def _pack(
    tree: Tree, targets: Floats, nodes: list[int], index: Ints, seen: np.ndarray, family: int
) -> dict[str, Any]:
    """The tokens of a pack, how they hang together, and what is learned at them."""
    place = np.full(len(tree.tokens) + 1, -1)  # tree token -> pack token; the last entry is "none"
    place[index] = np.arange(len(index))
    fresh = np.repeat(~seen[nodes], np.diff(tree.start)[nodes])  # not supervised in another pack
    siblings = np.full(len(tree.tokens), -1)
    for node in nodes:
        if tree.parent[node] != NO_PARENT and not seen[node]:
            siblings[tree.start[node + 1] - 1] = family + tree.parent[node]
    return {
        "tokens": tree.tokens[index],
        "previous": place[tree.previous()[index]],
        "position": tree.depth()[index],
        "targets": np.where(fresh[:, None], targets[index], np.nan).astype(np.float32),
        "siblings": siblings[index],
        "prompt_length": int(tree.start[1]),
    }


def _candidates_after(tree: Tree) -> dict[str, Any]:
    """Candidates of the state after each token and their log π_ref [T, K], if they were kept.

    They are 0 where nothing was sampled, after a prompt's first tokens and a reply's last one.
    """
    if tree.candidates is None:
        return {}
    at = tree.previous()[tree.start[1] :]  # they were found before each sampled token
    found = {}
    for name, part in zip(("candidates", "log_ref"), tree.candidates, strict=True):
        found[name] = np.zeros((len(tree.tokens), part.shape[1]), part.dtype)
        found[name][at] = part
    return found


def _tokens(tree: Tree, nodes: Sequence[int]) -> Ints:
    """The tokens of nodes, end to end."""
    return np.concatenate([np.arange(tree.start[n], tree.start[n + 1]) for n in nodes])
