"""`decode`: requests in, outputs out, as the simplest client of the decoder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mavis.decoding.decoder import Decoder
from mavis.decoding.guidance import MixingRule
from mavis.decoding.guides import Guide
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Event, Output, Request
from mavis.decoding.tilt import tilt


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
        on_event: is told of every event as it comes.

    Yields:
        an output for every request.
    """
    decoder, waiting = Decoder(reference, guides, rule, rows), iter(requests)
    outputs: dict[int, Output] = {}

    # Every row is held where something may follow, as only its output says whether it does.
    def held(request: Request) -> Request:
        return replace(request, hold=follow is not None)

    while True:
        # New requests are taken when there is a row for them, not before: children come first, and
        # an endless stream of requests must not fill the memory.
        while decoder.room > 0 and (request := next(waiting, None)) is not None:
            outputs[decoder.add(held(request))] = Output(request)
        if decoder.idle:
            return
        for event in decoder.step():
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
