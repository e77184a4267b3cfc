"""Trees that nobody has sampled, of the sizes that a fit's trees would have."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from mavis.decoding.request import Key, stream
from mavis.training.rollout import Shape
from mavis.training.tree import Path, Segment, Tree, build_tree

DRAWN = 48  # trees that are drawn up to count the tokens of one


@dataclass(frozen=True)
class Lengths:
    """How long replies are.

    Args:
        hazard: for each length, from 1 on, the probability that a reply so long is at its end.
    """

    hazard: tuple[float, ...]

    @classmethod
    def measure(cls, replies: Sequence[tuple[int, bool]], longest: int) -> "Lengths":
        """Estimate it from replies, of which some were cut short (Kaplan-Meier).

        >>> Lengths.measure([(1, True), (2, True), (2, False), (2, False)], 3).hazard[:2]
        (0.25, 0.3333333333333333)

        Args:
            replies: the length of each in tokens, and whether it had come to its end.
            longest: the longest that a reply may be; lengths that no reply came to have the mean
                probability.
        """
        ends, tokens = np.zeros(longest), np.zeros(longest)
        for length, ended in replies:
            tokens[:length] += 1
            ends[length - 1] += ended
        mean = ends.sum() / max(1.0, tokens.sum())
        hazard = np.where(tokens > 0, ends / np.maximum(tokens, 1), mean)
        return cls(tuple(hazard.tolist()))

    def mean(self, longest: int) -> float:
        """The mean length in tokens of replies that are cut at `longest`."""
        alive = np.cumprod([1.0, *(1 - np.array(self.hazard[: longest - 1]))])
        return float(alive.sum())

    def draw(self, random: np.random.Generator, used: int, limit: int) -> tuple[int, bool]:
        """Draw how far a reply of `used` tokens goes on within `limit`, and whether it ends."""
        ends = np.flatnonzero(random.random(limit) < np.array(self.hazard[used : used + limit]))
        return (int(ends[0]) + 1, True) if len(ends) else (limit, False)


def draw_tree(
    prompt: Sequence[int],
    pool: npt.NDArray[np.int64],
    shape: Shape,
    lengths: Lengths,
    key: Key,
) -> Tree:
    """A tree that nothing has sampled, of the size that `rollout.grow` would give it.

    Args:
        prompt: its tokens.
        pool: tokens of replies, which its segments are cut from.
        shape: how it branches.
        lengths: when replies end.
        key: names the draws.
    """
    random = stream((*key, "drawn"))
    segments: dict[Path, Segment] = {(): Segment(list(prompt), [0.0] * len(prompt))}
    open_nodes: list[tuple[Path, int]] = [((), 0)]
    while open_nodes:
        path, used = open_nodes.pop()
        for child in range(shape.branching[len(path)]):
            below = (*path, child)
            limit = shape.segment((*key, *below), len(path), used)
            count, ended = lengths.draw(random, used, limit)
            leaf = ended or used + count >= shape.max_tokens
            tokens = random.choice(pool, count).tolist()
            reason = ("end" if ended else "length") if leaf else ""
            segments[below] = Segment(tokens, [0.0] * count, "", reason)
            if not leaf:
                open_nodes.append((below, used + count))
    return build_tree("", segments)


@cache
def tree_size(shape: Shape, lengths: Lengths) -> tuple[float, float]:
    """The mean number of sampled tokens of a tree, and of its leaves."""
    pool = np.zeros(1, dtype=np.int64)
    drawn = [draw_tree([0], pool, shape, lengths, (at, "size")) for at in range(DRAWN)]
    tokens = sum(len(tree.tokens) - 1 for tree in drawn)
    return tokens / DRAWN, sum(len(tree.leaves) for tree in drawn) / DRAWN
