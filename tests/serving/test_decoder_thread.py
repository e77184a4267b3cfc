"""The thread that steps the decoder: requests that come, go, fail and are too many."""

import asyncio
import queue
import threading
from functools import partial

import pytest

from mavis.decoding.decode import decode
from mavis.decoding.request import Request, SamplingParams
from mavis.serving.decoder_thread import DecoderThread, Full, Stopped


@pytest.fixture
def decoding(policy):
    """`decoding(rows, waiting)`: one that is closed in the end."""
    opened = []

    def build(rows=3, waiting=20):
        opened.append(DecoderThread(policy, rows, waiting))
        return opened[-1]

    yield build
    for one in opened:
        one.close(0.0)


def copies(seed, count=1, limit=6, weights=(1.0, 0.0, -1.0)):
    tokens = [3, 4 + seed % 8, 5]
    sampling = SamplingParams(weights, 1.5, top_k=12)
    return [Request(tokens, limit, sampling, (seed, copy)) for copy in range(count)]


def told(decoding, requests):
    """The tokens of every copy, once all have ended."""
    news, found, left = queue.SimpleQueue(), {}, len(requests)
    decoding.submit([(requests, lambda copy, event: news.put((copy, event)))])
    while left:
        copy, event = news.get(timeout=60)
        if isinstance(event, Exception):
            raise event
        found.setdefault(copy, []).append(event.token)
        left -= bool(event.finished)
    return [found[copy] for copy in sorted(found)]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_copies_are_those_of_decode(decoding, policy, count):
    """More of them than rows, too: the prompt is read once, and they fork from there."""
    asked = copies(1, count)
    outputs = {o.request.key: o.tokens for o in decode(policy.reference, policy.guides, asked)}
    assert told(decoding(), asked) == [outputs[one.key] for one in asked]


@pytest.mark.parametrize("fails", [False, True])
def test_a_loop_is_told_in_its_own_thread(decoding, monkeypatch, fails):
    """Once a step, of all that the step has brought, and of failures, too."""
    one, threads, wakings = decoding(), set(), []
    if fails:
        monkeypatch.setattr(one._decoder, "step", lambda: 1 / 0)

    async def listen():
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        inner, left = loop.call_soon_threadsafe, [3]

        def tell(_, event):
            threads.add(threading.get_ident())
            left[0] -= isinstance(event, Exception) or bool(event.finished)
            if isinstance(event, Exception) or not left[0]:
                over.set()

        def watched(*given):
            wakings.append(given)
            return inner(*given)

        monkeypatch.setattr(loop, "call_soon_threadsafe", watched)
        one.submit([(copies(1, 3), tell)], loop)
        await asyncio.wait_for(over.wait(), 60)

    asyncio.run(listen())
    assert threads == {threading.get_ident()}
    assert 1 <= len(wakings) <= (1 if fails else 6)  # steps of up to six tokens, of three copies


def test_what_is_cancelled_is_gone(decoding):
    one = decoding(rows=1)
    tickets = one.submit([(copies(at, count), lambda *_: None) for at, count in enumerate((1, 3))])
    for ticket in [*tickets, *tickets, 99]:
        one.cancel(ticket)
    assert one.call(lambda: one._decoder.idle).result(30)
    assert one.in_flight == 0
    assert told(one, copies(5)) == told(one, copies(5))


def test_there_is_room_for_so_many(decoding):
    one = decoding(rows=1, waiting=2)
    with pytest.raises(Full):
        one.submit([(copies(1, 4), lambda *_: None)])
    assert one.in_flight == 0
    assert len(told(one, copies(1, 3))) == 3


def test_a_request_that_cannot_be_ends_alone(decoding):
    one = decoding()
    with pytest.raises(ValueError, match="one entry per objective"):
        told(one, copies(1, weights=(1.0,)))
    assert len(told(one, copies(1))) == 1


def test_a_step_that_fails_ends_what_runs_and_nothing_else(decoding, monkeypatch):
    one = decoding()
    with monkeypatch.context() as patch:
        patch.setattr("mavis.decoding.guidance.PolicyRows.step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            told(one, copies(1))
    assert len(told(one, copies(1))) == 1


def test_closing_lets_what_has_begun_come_to_its_end(decoding):
    one, ended = decoding(), queue.SimpleQueue()
    one.submit([(copies(1, limit=8), lambda _, event: ended.put(event))])
    one.close(60.0)
    events = [ended.get_nowait() for _ in range(ended.qsize())]
    assert events[-1].finished
    assert not one.open
    with pytest.raises(Stopped):
        one.submit([(copies(2), print)])


def test_closing_at_once_tells_what_is_running(decoding):
    one, told_of = decoding(rows=1), queue.SimpleQueue()
    one.submit([(copies(1, limit=40), lambda _, event: told_of.put(event))])
    one.close(0.0)
    events = [told_of.get_nowait() for _ in range(told_of.qsize())]
    assert isinstance(events[-1], Stopped) or events[-1].finished
    assert one.in_flight == 0


def test_the_models_can_be_asked_between_steps(decoding):
    one = decoding()
    assert one.call(lambda: 5).result(30) == 5
    with pytest.raises(ZeroDivisionError):
        one.call(lambda: 1 / 0).result(30)


def test_what_nobody_waits_for_any_more_is_not_done(decoding):
    one, done = decoding(), []
    held = threading.Event()
    one.call(partial(held.wait, 30))
    cancelled = one.call(lambda: done.append(1))
    assert cancelled.cancel()
    held.set()
    assert one.call(lambda: 5).result(30) == 5
    assert done == []
    assert one.in_flight == 0


def test_replies_go_on_between_two_calls(decoding):
    one, order = decoding(), queue.SimpleQueue()
    held = threading.Event()
    one.call(partial(held.wait, 30))
    one.submit([(copies(1, limit=6), lambda *_: order.put("token"))])
    calls = [one.call(partial(order.put, "call")) for _ in range(3)]
    held.set()
    for call in calls:
        call.result(30)
    until_now = " ".join(order.get_nowait() for _ in range(order.qsize()))
    assert "call token call token call" in until_now


def test_whoever_still_waits_at_the_end_is_told(decoding):
    one, told_of, held = decoding(), queue.SimpleQueue(), threading.Event()
    one.call(partial(held.wait, 30))
    one.submit([(copies(1), lambda _, event: told_of.put(event))])
    calls = [one.call(lambda: None) for _ in range(3)]
    threading.Timer(0.2, held.set).start()
    one.close(0.0)
    events = [told_of.get(timeout=30)]
    while not isinstance(events[-1], Stopped):  # a token may have come before
        events.append(told_of.get(timeout=30))
    assert len(events) <= 2
    for call in calls[1:]:
        with pytest.raises(Stopped):
            call.result(30)
