"""A rollout tree: all rollouts of one prompt, as one structure of arrays.

Node 0 is the root; its segment is the prompt. Every other node's segment is what was sampled after
its parent's. Nodes are in depth-first order, so a parent comes before its children. All M
objectives score the same leaves. The module knows neither policies nor what rewards mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mavis.decoding.request import Proposed
from mavis.storage import Row

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NO_PARENT = -1
CANDIDATES = (("candidates", "<i4"), ("candidates_log_ref", "<f4"))  # columns of a table

Path = tuple[int, ...]  # which child was taken at each level; the root is ()


@dataclass(frozen=True)
class Segment:
    """The tokens of one node, while a tree is being put together."""

    tokens: list[int]
    log_ratio: list[float]
    text: str = ""  # of a leaf: the whole response
    reason: str = ""  # of a leaf: why it ended
    candidates: Sequence[Proposed] = ()  # for each token, if they are kept

    def cut(self, at: int) -> tuple["Segment", "Segment"]:
        """The segment as two, of which the second ends as this one does."""
        head = Segment(self.tokens[:at], self.log_ratio[:at], candidates=self.candidates[:at])
        rest = (self.text, self.reason, self.candidates[at:])
        return head, Segment(self.tokens[at:], self.log_ratio[at:], *rest)


@dataclass(frozen=True)
class Tree:
    """A rollout tree with T tokens, P of the prompt, N nodes and L leaves."""

    prompt: str  # as the reward is given it
    tokens: Ints  # [T] all segments end to end
    log_ratio: Floats  # [T] log π/π_ref(·|C) of each token, nats; 0 in the prompt
    start: Ints  # [N + 1] node n has tokens[start[n] : start[n + 1]]
    parent: Ints  # [N]
    leaves: Ints  # [L] nodes
    responses: list[str]  # [L]
    reasons: list[str]  # [L] "end", "stop" or "length"
    rewards: Floats  # [L, M] as the rewards gave them, M = 0 before that; NaN = abstained
    prefixes: Floats | None = None  # [K, M] likewise, at `prefixes.prefix_places`, if scored
    weights: tuple[float, ...] = ()  # [M] that guided the policy; empty: it was the reference
    candidates: Proposed | None = None  # [T − P, K] each: for every sampled token, if they are kept

    def depth(self) -> Ints:
        """Each token's position in its sequence [T]; the prompt's first token is at 0."""
        position = np.empty(len(self.tokens), dtype=np.int64)
        for node, up in enumerate(self.parent):
            begin, end = self.start[node], self.start[node + 1]
            before = position[self.start[up + 1] - 1] + 1 if up != NO_PARENT else 0
            position[begin:end] = before + np.arange(end - begin)
        return position

    def previous(self) -> Ints:
        """The token before each token [T]; −1 for the first of the prompt."""
        before = np.arange(len(self.tokens)) - 1
        for node, up in enumerate(self.parent):
            if up != NO_PARENT:
                before[self.start[node]] = self.start[up + 1] - 1
        return before


def build_tree(
    prompt: str, segments: Mapping[Path, Segment], weights: tuple[float, ...] = ()
) -> Tree:
    """Build a tree from its segments by path, whatever their order.

    A response that ended on the first level is cut in two, so that every tree has two levels.
    """
    whole = dict(segments)
    for path, segment in segments.items():
        if len(path) == 1 and segment.reason and len(segment.tokens) > 1:
            half = len(segment.tokens) // 2
            whole[path], whole[*path, 0] = segment.cut(half)
    order = sorted(whole)  # lexicographic: depth first
    index = {path: node for node, path in enumerate(order)}
    leaves = [path for path in order if whole[path].reason]
    lengths = [len(whole[path].tokens) for path in order]
    kept = [one for path in order for one in whole[path].candidates]
    return Tree(
        prompt=prompt,
        tokens=np.concatenate([np.array(whole[p].tokens, dtype=np.int64) for p in order]),
        log_ratio=np.concatenate([np.array(whole[p].log_ratio, dtype=np.float32) for p in order]),
        start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        parent=np.array([index[p[:-1]] if p else NO_PARENT for p in order], dtype=np.int64),
        leaves=np.array([index[path] for path in leaves], dtype=np.int64),
        responses=[whole[path].text for path in leaves],
        reasons=[whole[path].reason for path in leaves],
        rewards=np.empty((len(leaves), 0), dtype=np.float32),
        weights=weights,
        candidates=Proposed(*map(np.stack, zip(*kept, strict=True))) if kept else None,
    )


def tree_row(index: int, tree: Tree) -> Row:
    """A tree as a table row, without what rewards say of it, which is computed later."""
    row = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(tree).items()}
    row["weights"] = list(tree.weights)
    del row["rewards"], row["prefixes"], row["candidates"]
    if tree.candidates is not None:  # some forty times as many numbers as the rest: as bytes
        parts = zip(CANDIDATES, tree.candidates, strict=True)
        row |= {name: part.astype(kind).tobytes() for (name, kind), part in parts}
    return {"index": index, **row}


def read_tree(row: Row, rewards: Floats) -> Tree:
    """The tree of a table row, with the rewards [L, M] of its leaves."""
    sampled = len(row["tokens"]) - row["start"][1]
    known = [np.frombuffer(row.get(name) or b"", kind) for name, kind in CANDIDATES]
    return Tree(
        prompt=row["prompt"],
        tokens=np.array(row["tokens"], dtype=np.int64),
        log_ratio=np.array(row["log_ratio"], dtype=np.float32),
        start=np.array(row["start"], dtype=np.int64),
        parent=np.array(row["parent"], dtype=np.int64),
        leaves=np.array(row["leaves"], dtype=np.int64),
        responses=row["responses"],
        reasons=row["reasons"],
        rewards=rewards,
        weights=tuple(row.get("weights") or ()),  # older ones have none
        candidates=Proposed(*(one.reshape(sampled, -1) for one in known))
        if known[0].size
        else None,
    )
