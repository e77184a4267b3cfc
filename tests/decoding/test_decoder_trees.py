"""Jobs that follow jobs: a tree grown from forked rows equals each of its paths grown alone."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Output, Request, SamplingParams
from mavis.decoding.value_model import ValueModel

Build = Callable[..., ReferencePolicy]
Run = Callable[..., dict[Any, Output]]
Compare = Callable[..., None]


def grow(shape: Sequence[int], lengths: Sequence[int]) -> Callable[[Output], Sequence[Request]]:
    """Children of a span: `shape[d]` of them behind depth d, each with settings of its own."""

    def follow(span: Output) -> Sequence[Request]:
        path: tuple[int, ...] = span.request.tag
        depth = len(path) - 1
        if depth == len(shape):
            return ()
        tokens = [*span.request.tokens, *span.tokens]
        children = []
        for child in range(shape[depth]):
            weights = tuple(w + 0.2 * child for w in span.request.sampling.weights)
            sampling = SamplingParams(weights, beta=1.0, top_k=4 + child)
            limit = lengths[(depth + child) % len(lengths)]
            tag = (*path, child)
            children.append(Request(tokens, limit, sampling, ("tree", *tag), tag=tag))
        return children

    return follow


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((3, 2), (3, 1, 5)),
        ((1, 1, 1), (2,)),
        ((2, 2, 2, 2), (1,)),  # deeper than one row's two parking places
        ((3, 2), (0, 3)),  # segments without tokens
    ],
)
def test_a_tree_equals_each_of_its_paths_alone(
    tiny_reference: ReferencePolicy,
    three_networks: list[ValueModel],
    shape: Sequence[int],
    lengths: Sequence[int],
    run: Run,
    assert_same: Compare,
) -> None:
    weights = (0.5, -0.5, 0.3, 0.2)
    roots = [
        Request(
            [4, 5, 6][: at + 1] * 3,
            2,
            SamplingParams(weights, 1.0, top_k=5),
            ("tree", at),
            tag=(at,),
        )
        for at in range(2)
    ]
    follow = grow(shape, lengths)
    alone: dict[Any, Output] = {}
    waiting = list(roots)
    while waiting:
        job = waiting.pop()
        alone |= run(tiny_reference, three_networks, [job], rows=1)
        span = alone[job.tag]
        waiting += [] if span.reason in ("end", "stop") else follow(span)
    for rows in (1, 2, 7, 64):
        assert_same(run(tiny_reference, three_networks, roots, rows=rows, follow=follow), alone)


def test_a_parked_row_is_not_read_again(
    tiny_reference: ReferencePolicy, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    read = []
    forward = tiny_reference.model.forward

    def counted(*args: Any, **options: Any) -> Any:
        read.append(options["input_ids"].numel())
        return forward(*args, **options)

    monkeypatch.setattr(tiny_reference.model, "forward", counted)
    root = Request([4] * 50, 2, SamplingParams(), ("once",), tag=(0,))
    # Two places to park are just enough for one row, if they are given back.
    spans = run(tiny_reference, (), [root], rows=1, follow=grow((3, 2), (2,)))
    assert len(spans) >= 1 + 3 + 2
    # 49 tokens of the prompt, then one for each token that is said.
    assert sum(read) == 49 + sum(len(span.tokens) for span in spans.values())


def test_a_job_that_ended_has_no_children(build_reference: Build, run: Run) -> None:
    reference = build_reference(vocab=6)
    asked = []

    def follow(span: Output) -> Sequence[Request]:
        asked.append(span.reason)
        return grow((2, 2, 2), (4,))(span)

    root = Request([3], 4, SamplingParams(top_k=0), ("ends",), tag=(0,))
    spans = run(reference, (), [root], rows=2, follow=follow)
    assert {span.reason for span in spans.values()} >= {"end"}
    assert set(asked) == {"length"}
    parents = {tag[:-1] for tag in spans}
    assert not [tag for tag, span in spans.items() if span.reason == "end" and tag in parents]
