"""Growing rollout trees: the trees of all prompts share one pool of decoding rows.

A finished segment forks into its children at once, by copying rows; there is no barrier between
levels or prompts. Lengths and draws are keyed by (seed, round, prompt, path), so a tree does not
depend on which others are decoded beside it.
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
        """Check the shape."""
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


def grow(
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    shape: Shape,
    sampling: Sequence[SamplingParams],
    seed: tuple[int, ...],
    rows: int = 64,
    candidates: int = 0,
) -> Iterator[tuple[int, Tree]]:
    """Grow a tree for every prompt.

    Args:
        policy: the policy that samples the tokens.
        prompts: texts or chats.
        shape: how the trees branch.
        sampling: how the tokens of each tree are drawn.
        seed: (seed, round).
        rows: rows that are decoded together.
        candidates: so many of the reference's likeliest candidates are kept for every token.

    Yields:
        (index of the prompt, its tree), as trees are finished.
    """
    starts = [policy.reference.encode(prompt) for prompt in prompts]
    segments: list[dict[Path, Segment]] = [{} for _ in prompts]
    open_nodes = [1] * len(prompts)

    def children(span: Output) -> list[Request]:
        index, _ = span.request.tag
        found = _children(span, starts[index], shape, seed, candidates)
        open_nodes[index] += len(found)
        return found

    # Prompts of like length side by side: a row pays for the longest one that is live.
    order = sorted(range(len(prompts)), key=lambda index: len(starts[index].tokens))
    roots = [
        Request(starts[at].tokens, 0, sampling[at], ("root",), starts[at].stop, tag=(at, ()))
        for at in order
    ]
    spans = decode(
        policy.reference, policy.guides, roots, rule=policy.rule, rows=rows, follow=children
    )
    for span in spans:
        index, path = span.request.tag
        leaf = span.reason != "length" or _length(span) >= shape.max_tokens
        segments[index][path] = _segment(policy, span, starts[index], leaf)
        open_nodes[index] -= 1  # its children are counted when the loop asks for them, after this
        if leaf and open_nodes[index] == 0:
            weights = sampling[index].weights
            yield index, build_tree(plain(prompts[index]), segments[index], weights)
            segments[index] = {}


def _children(
    span: Output, start: Encoded, shape: Shape, seed: tuple[int, ...], candidates: int
) -> list[Request]:
    """What goes on where a segment has ended; nothing if the response is as long as may be."""
    index, path = span.request.tag
    level, used = len(path), _length(span)
    if used >= shape.max_tokens:
        return []
    stem: Key = (*seed, *start.tokens, "tree", *path)
    keys: list[Key] = [(*stem, child) for child in range(shape.branching[level])]
    return [
        Request(
            tokens=[*span.request.tokens, *span.tokens],
            limit=shape.segment(key, level, used),
            sampling=span.request.sampling,
            key=key,
            stop=start.stop,
            response=used,
            candidates=candidates,
            tag=(index, (*path, child)),
        )
        for child, key in enumerate(keys)
    ]


def _length(span: Output) -> int:
    """The tokens of the response up to the end of a segment."""
    return span.request.response + len(span.tokens)


def _segment(policy: GuidedPolicy, span: Output, start: Encoded, leaf: bool) -> Segment:
    if span.request.tag[1] == ():  # the root's segment is the prompt, which is not sampled
        return Segment(list(start.tokens), [0.0] * len(start.tokens))
    # Over the candidates alone: truncation is no choice of the policy's, and β = 0 costs nothing.
    ratio = [full - cut for full, cut in zip(span.log_ratio, span.truncation, strict=True)]
    if not leaf:
        return Segment(span.tokens, ratio, candidates=span.candidates)
    response = [*span.request.tokens[len(start.tokens) :], *span.tokens]
    text = policy.reference.decode(response, start.stop)
    return Segment(span.tokens, ratio, text, span.reason, span.candidates)
