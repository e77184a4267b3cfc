"""Packs: trees as the value model is trained on them, with each shared token computed once.

A pack is a tree, or a subtree with the path that leads to it, of a limited number of tokens. A
token attends to its ancestors and itself alone (a tree mask), and its position is its depth. So one
forward of the pack equals one forward per path of the tree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler

from mavis.reward import Units, standardised
from mavis.training.prefixes import discounted_targets, increments, potentials
from mavis.training.targets import soft_targets
from mavis.training.tree import NO_PARENT, Floats, Ints, Tree

FREAK = 5.0  # standard units of reward that a reply counts for at most


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
    increments: Floats | None = None  # [T, M] of rewards on prefixes; None = not discounted


class Batch(NamedTuple):
    """Packs side by side, padded to the longest; padding is masked and has no targets."""

    tokens: Tensor  # [B, T]
    previous: Tensor  # [B, T]; 0 where there is none
    position: Tensor  # [B, T]
    mask: Tensor  # [B, 1, T, T] bool: may attend
    target_bits: Tensor  # [B, T, M] int32: of `targets`; Lightning rounds floats in half precision
    siblings: Tensor  # [B, T]
    depth: Tensor  # [B, T] position in the response; the prompt's last token is at −1
    start_bits: Tensor  # [B, M] int32, as the targets: the target of the prompt
    price_bits: Tensor  # [B, T] int32, as the targets: η log π/π_ref
    leaf: Tensor  # [B, T] bool: a response ends here
    increment_bits: Tensor | None = None  # [B, T, M] int32, as the targets

    @property
    def targets(self) -> Tensor:
        """[B, T, M] float32, NaN = nothing to learn here."""
        return self.target_bits.view(torch.float32)

    @property
    def start(self) -> Tensor:
        """[B, M] float32: the target of the prompt."""
        return self.start_bits.view(torch.float32)

    @property
    def price(self) -> Tensor:
        """[B, T] float32: η log π/π_ref, what each token is charged."""
        return self.price_bits.view(torch.float32)

    @property
    def increments(self) -> Tensor | None:
        """[B, T, M] float32: what each token adds to the reward of the reply so far."""
        return None if self.increment_bits is None else self.increment_bits.view(torch.float32)

    @property
    def path(self) -> Tensor:
        """[B, T, T] float32: 1 where a token of the response leads to a token, itself included."""
        return (self.mask[:, 0] & (self.depth >= 0)[:, None]).float()


def round_packs(
    trees: Sequence[Tree],
    units: Sequence[Units],
    eta: float,
    cap: int,
    prefix_discount: float = 1.0,
) -> list[Pack]:
    """The packs of scored trees, with soft targets in standard units.

    Args:
        trees: with the rewards of their leaves.
        units: of the M rewards.
        eta: the KL price of the targets, per nat.
        cap: the most tokens of a pack.
        prefix_discount: of increments of rewards on prefixes, which less than 1 needs.
    """
    packs: list[Pack] = []
    families = 0
    for tree in trees:
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
    targets = targets.copy()
    targets[: tree.start[1]] = np.nan
    packs, seen = [], np.zeros(len(tree.parent), dtype=bool)
    for nodes in _groups(tree, cap):
        index = _tokens(tree, nodes)
        learned = _pack(tree, targets, nodes, index, seen, family)
        more = None if gained is None else gained[index]
        packs.append(Pack(**learned, start=start, price=price[index], increments=more))
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


def _tokens(tree: Tree, nodes: Sequence[int]) -> Ints:
    """The tokens of nodes, end to end."""
    return np.concatenate([np.arange(tree.start[n], tree.start[n + 1]) for n in nodes])


def tree_mask(previous: Ints) -> np.ndarray:
    """Which token may attend to which [T, T], from each token's predecessor [T]."""
    mask = np.eye(len(previous), dtype=bool)
    for token, before in enumerate(previous):
        if before >= 0:
            mask[token] |= mask[before]
    return mask


def collate(packs: Sequence[Pack]) -> Batch:
    """Put packs side by side."""
    width = max(len(pack.tokens) for pack in packs)

    def padded(arrays: Sequence[np.ndarray], value: float) -> Tensor:
        tensors = [torch.from_numpy(array) for array in arrays]
        return pad_sequence(tensors, batch_first=True, padding_value=value)

    # Padding sees itself, so that no row of the softmax is empty.
    mask = np.tile(np.eye(width, dtype=bool), (len(packs), 1, 1))
    for square, pack in zip(mask, packs, strict=True):
        size = len(pack.tokens)
        square[:size, :size] = tree_mask(pack.previous)
    gained = [pack.increments for pack in packs if pack.increments is not None]
    return Batch(
        tokens=padded([pack.tokens for pack in packs], 0),
        previous=padded([np.maximum(pack.previous, 0) for pack in packs], 0),
        position=padded([pack.position for pack in packs], 0),
        mask=torch.from_numpy(mask)[:, None],
        target_bits=padded([pack.targets for pack in packs], np.nan).view(torch.int32),
        siblings=padded([pack.siblings for pack in packs], -1),
        depth=padded([pack.position - pack.prompt_length for pack in packs], -1),
        start_bits=torch.from_numpy(np.stack([pack.start for pack in packs])).view(torch.int32),
        price_bits=padded([pack.price for pack in packs], 0.0).view(torch.int32),
        leaf=padded([_ends(pack) for pack in packs], False),
        increment_bits=padded(gained, 0.0).view(torch.int32) if gained else None,
    )


def _ends(pack: Pack) -> np.ndarray:
    """Whether a response ends at each token [T]: nothing in the pack comes after it."""
    ends = pack.position >= pack.prompt_length
    ends[pack.previous[pack.previous >= 0]] = False
    return ends


def batches(packs: Sequence[Pack], budget: int, seed: tuple[int, ...]) -> list[list[Pack]]:
    """Group packs of like length into batches of at most `budget` tokens, padding included.

    The order is random and depends on the seed. A pack larger than the budget is a batch by itself.
    """
    random = np.random.default_rng(seed)
    order = sorted(random.permutation(len(packs)), key=lambda i: len(packs[i].tokens) // 32)
    groups: list[list[Pack]] = []
    for index in order:
        pack = packs[index]
        widest = max([len(pack.tokens), *(len(p.tokens) for p in groups[-1])]) if groups else 0
        if not groups or widest * (len(groups[-1]) + 1) > budget:
            groups.append([])
        groups[-1].append(pack)
    return [groups[i] for i in random.permutation(len(groups))]


class _Order(Sampler[int]):
    """A random order for each epoch, which depends on the seed and the epoch alone.

    A fit that resumes starts its passes at other times than one that was never stopped.
    """

    def __init__(self, count: int, seed: tuple[int, ...]) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((*self.seed, self.epoch))
        yield from random.permutation(self.count).tolist()


def loader(
    groups: Sequence[Sequence[Pack]], seed: tuple[int, ...] | None = None
) -> DataLoader[Batch]:
    """A loader of batches, in their order, or with a seed in another order in each epoch."""
    order = None if seed is None else _Order(len(groups), seed)
    data: Any = groups  # a sequence will do as a data set; a group is collated when it is needed
    return DataLoader(data, batch_size=None, sampler=order, collate_fn=collate)
