"""Growing rollout trees: one pool of rows for the trees of all prompts.

A finished segment forks into its children at once, by copying rows; there is no barrier between
levels or prompts. Lengths and draws are keyed by (seed, round, prompt, path), so a tree is the same
whatever grows beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mavis.decoding.decode import decode
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import Encoded
from mavis.decoding.request import Key, Output, Request, SamplingParams, stream
from mavis.prompts import Prompt, plain
from mavis.training.tree import Path, Segment, Tree, build_tree


@dataclass(frozen=True)
class Shape:
    """How trees branch.

    Args:
        branching: children per node, level by level.
        max_tokens: the longest response. Segments are random in length, 1 to twice the mean of
            max_tokens / levels; the last level takes what is left.
    """

    branching: tuple[int, ...]
    max_tokens: int

    def __post_init__(self) -> None:
        """Refuse shapes that are no trees."""
        if len(self.branching) < 2 or min(self.branching) < 1:
            raise ValueError(
                f"branching must be at least two levels of 1 or more children, "
                f"got {list(self.branching)}."
            )
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens must be at least 2, got {self.max_tokens}.")

    def segment(self, key: Key, level: int, used: int) -> int:
        """How long a segment on `level` (0 = the root's children) may grow after `used` tokens."""
        left = self.max_tokens - used
        if level + 1 == len(self.branching):
            return left
        longest = max(1, 2 * self.max_tokens // len(self.branching) - 1)
        return min(left, int(stream((*key, "length")).integers(1, longest + 1)))


@dataclass(frozen=True)
class _Place:
    """Where in the wood a job stands."""

    tree: int
    path: Path


def grow(
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    shape: Shape,
    sampling: SamplingParams,
    seed: tuple[int, ...],
    rows: int = 64,
) -> Iterator[tuple[int, Tree]]:
    """Grow a tree for every prompt.

    Args:
        policy: who writes.
        prompts: texts or chats.
        shape: how the trees branch.
        sampling: how tokens are drawn.
        seed: (seed, round).
        rows: how many rows take a step together.

    Yields:
        (index of the prompt, its tree), as trees are finished.
    """
    starts = [policy.reference.encode(prompt) for prompt in prompts]
    segments: list[dict[Path, Segment]] = [{} for _ in prompts]
    open_nodes = [1] * len(prompts)

    def children(span: Output) -> list[Request]:
        place: _Place = span.request.tag
        level, used = len(place.path), span.request.response + len(span.tokens)
        if used >= shape.max_tokens:
            return []
        start = starts[place.tree]
        stem: Key = (*seed, *start.tokens, "tree", *place.path)
        keys: list[Key] = [(*stem, child) for child in range(shape.branching[level])]
        jobs = [
            Request(
                tokens=[*span.request.tokens, *span.tokens],
                limit=shape.segment(key, level, used),
                sampling=sampling,
                key=key,
                stop=start.stop,
                response=used,
                tag=_Place(place.tree, (*place.path, child)),
            )
            for child, key in enumerate(keys)
        ]
        open_nodes[place.tree] += len(jobs)
        return jobs

    # Prompts of like length side by side: a row pays for the longest one that is live.
    order = sorted(range(len(prompts)), key=lambda index: len(starts[index].tokens))
    roots = [_root(starts[index], sampling, index) for index in order]
    spans = decode(
        policy.reference, policy.guides, roots, rule=policy.rule, rows=rows, follow=children
    )
    for span in spans:
        index = span.request.tag.tree
        leaf = span.reason != "length" or _length(span) >= shape.max_tokens
        segments[index][span.request.tag.path] = _segment(policy, span, starts[index], leaf)
        open_nodes[index] -= 1  # its children are counted when the loop asks for them, after this
        if leaf and open_nodes[index] == 0:
            yield index, build_tree(plain(prompts[index]), segments[index])
            segments[index] = {}


def _root(start: Encoded, sampling: SamplingParams, index: int) -> Request:
    return Request(start.tokens, 0, sampling, ("root",), start.stop, tag=_Place(index, ()))


def _length(span: Output) -> int:
    return span.request.response + len(span.tokens)


def _segment(policy: GuidedPolicy, span: Output, start: Encoded, leaf: bool) -> Segment:
    if not span.request.tag.path:  # the root's segment is the prompt, which nobody sampled
        return Segment(list(start.tokens), [0.0] * len(start.tokens))
    said = [*span.request.tokens[len(start.tokens) :], *span.tokens]
    # Over the candidates alone: truncation is no choice of the policy's, and β = 0 costs nothing.
    ratio = [full - cut for full, cut in zip(span.log_ratio, span.truncation, strict=True)]
    if not leaf:
        return Segment(span.tokens, ratio)
    return Segment(span.tokens, ratio, policy.reference.decode(said, start.stop), span.reason)
