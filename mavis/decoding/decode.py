"""`decode`: requests in, outputs out; `replies`: n answers to each of many prompts by it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mavis.decoding.decoder import Decoder
from mavis.decoding.guidance import MixingRule
from mavis.decoding.guides import Guide
from mavis.decoding.prompt_requests import Completion, PromptRequest, completion
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Event, Key, Output, Request
from mavis.decoding.tilt import tilt

OnToken = Callable[[int, Event], None]  # the place of a reply in what is returned, its new token


def decode(
    reference: ReferencePolicy,
    guides: Sequence[Guide],
    requests: Iterable[Request],
    *,
    rule: MixingRule = tilt,
    rows: int = 64,
    follow: Callable[[Output], Sequence[Request]] | None = None,
    on_event: Callable[[Request, Event], None] | None = None,
) -> Iterator[Output]:
    """Run requests, and the requests that follow them, in the order in which they end.

    Args:
        reference: π_ref.
        guides: the value models, or other guides.
        requests: where to begin; taken one by one as rows become free.
        rule: how values bend the reference policy.
        rows: how many rows take a step together.
        follow: what goes on where a request has reached its limit; see `Decoder.fork`.
        on_event: called with every event as it comes.

    Yields:
        an output for every request.
    """
    decoder, waiting = Decoder(reference, guides, rule, rows), iter(requests)
    outputs: dict[int, Output] = {}

    # Every row is held where something may follow, as only its output shows whether it does.
    def held(request: Request) -> Request:
        return replace(request, hold=follow is not None)

    while True:
        # New requests are taken when there is a row for them, not before: children come first, and
        # an endless stream of requests must not fill the memory.
        while decoder.room > 0 and (request := next(waiting, None)) is not None:
            outputs[decoder.add(held(request))] = Output(request)
        if decoder.idle:
            return
        for event in decoder.step(forks_first=True):
            output = outputs[event.id]
            output.add(event)
            if on_event is not None:
                on_event(output.request, event)
            if not event.finished:
                continue
            yield outputs.pop(event.id)
            if follow is not None:
                children = () if event.finished in {"end", "stop"} else follow(output)
                numbers = decoder.fork(event.id, [held(child) for child in children])
                outputs |= {n: Output(child) for n, child in zip(numbers, children, strict=True)}


def replies(
    reference: ReferencePolicy,
    guides: Sequence[Guide],
    rule: MixingRule,
    rows: int,
    asked: Sequence[PromptRequest],
    n: int,
    window: int,
    on_token: OnToken | None = None,
) -> Iterator[Completion]:
    """Yield n replies to each of P checked prompts, in order, each as soon as it is its turn.

    `rows` are written side by side; among `window` prompts those of like length are read together,
    which is cheaper.
    """

    def reply(at: int, copy: int) -> Request:
        one = asked[at]
        # The stream is keyed by the prompt, so that equal prompts have equal replies.
        key: Key = (one.seed, *one.tokens, "sample", copy)
        return Request(one.tokens, one.limit, one.sampling, key, one.stop, tag=(at, copy))

    def root(at: int) -> Request:
        return Request(asked[at].tokens, 0, asked[at].sampling, ("root",), tag=(at, None))

    def forked(output: Output) -> list[Request]:
        at, copy = output.request.tag
        return [reply(at, copy) for copy in range(n)] if copy is None else []

    def tell(request: Request, event: Event) -> None:
        at, copy = request.tag
        if on_token is not None and event.token is not None:
            on_token(at * n + copy, event)

    # A prompt is read once, and its n replies fork from there. A row pays for the longest one
    # beside it, so prompts of like length are read together.
    order = sorted(range(len(asked)), key=lambda at: (at // window, len(asked[at].tokens)))
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
            written[at, copy] = completion(reference, asked[at].prompt, output)
        while turn in written:
            yield written.pop(turn)
            turn = next(turns, None)
