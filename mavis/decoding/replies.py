"""Replies to many prompts: n of each, every one drawn from a stream of its own."""

from collections.abc import Callable, Iterator, Sequence

from mavis.decoding.decode import decode
from mavis.decoding.guidance import MixingRule
from mavis.decoding.guides import Guide
from mavis.decoding.prompt_requests import Completion, PromptRequest, completion
from mavis.decoding.reference import Encoded, ReferencePolicy
from mavis.decoding.request import Event, Key, Output, Request

OnToken = Callable[[int, Event], None]  # the place of a reply in what is returned, its new token


def replies(
    reference: ReferencePolicy,
    guides: Sequence[Guide],
    rule: MixingRule,
    rows: int,
    asked: Sequence[tuple[PromptRequest, Encoded]],
    n: int,
    window: int,
    on_token: OnToken | None = None,
) -> Iterator[Completion]:
    """Replies, prompt after prompt, each as soon as it and all before it are written.

    Args:
        reference: π_ref.
        guides: what bends it.
        rule: how.
        rows: how many replies are written side by side.
        asked: P prompts that were checked.
        n: replies to each.
        window: among how many prompts those of like length are read together, which is cheaper.
        on_token: is told of every token as it comes.
    """

    def reply(at: int, copy: int) -> Request:
        one, start = asked[at]
        # The stream is keyed by the prompt, so that equal prompts have equal replies.
        key: Key = (one.seed, *start.tokens, "sample", copy)
        stop = (*start.stop, *one.stop)
        return Request(start.tokens, one.limit, one.sampling, key, stop, tag=(at, copy))

    def root(at: int) -> Request:
        one, start = asked[at]
        return Request(start.tokens, 0, one.sampling, ("root",), tag=(at, None))

    def forked(output: Output) -> list[Request]:
        at, copy = output.request.tag
        return [reply(at, copy) for copy in range(n)] if copy is None else []

    def tell(request: Request, event: Event) -> None:
        at, copy = request.tag
        if on_token is not None and event.token is not None:
            on_token(at * n + copy, event)

    # A prompt is read once, and its n replies fork from there. A row pays for the longest one
    # beside it, so prompts of like length are read together.
    order = sorted(range(len(asked)), key=lambda at: (at // window, len(asked[at][1].tokens)))
    first = [root(at) if n > 1 else reply(at, 0) for at in order]
    follow = forked if n > 1 else None
    outputs = decode(reference, guides, first, rule=rule, rows=rows, follow=follow, on_event=tell)
    # Short replies end before long ones that were begun earlier; they wait here for their turn.
    written: dict[tuple[int, int], Completion] = {}
    turns = ((at, copy) for at in range(len(asked)) for copy in range(n))
    turn = next(turns, None)
    for output in outputs:
        at, copy = output.request.tag
        if copy is not None:
            written[at, copy] = completion(reference, asked[at][0].prompt, output)
        while turn in written:
            yield written.pop(turn)
            turn = next(turns, None)
