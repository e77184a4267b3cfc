"""The decoder, step by step: requests that come, go, fork and wait."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from mavis.decoding.decode import decode
from mavis.decoding.decoder import Decoder
from mavis.decoding.reference import PromptTooLong, ReferencePolicy
from mavis.decoding.request import Event, Request, SamplingParams
from mavis.decoding.tilt import tilt


def request(at: int, length: int = 3, limit: int = 4, **more: object) -> Request:
    """A request without an end in sight: few tokens are end tokens."""
    tokens = [3 + (at + place) % 30 for place in range(length)]
    return Request(tokens, limit, SamplingParams(), (at,), **more)  # type: ignore[arg-type]


def finish(decoder: Decoder) -> dict[int, list[Event]]:
    """All events until nothing is left to do, by request."""
    found: dict[int, list[Event]] = {}
    while not decoder.idle:
        for event in decoder.step():
            found.setdefault(event.id, []).append(event)
    return found


def tokens(events: Sequence[Event]) -> list[int | None]:
    return [event.token for event in events]


def alone(reference: ReferencePolicy, one: Request) -> list[int]:
    (output,) = decode(reference, (), [one])
    return output.tokens


def test_requests_come_while_others_are_running(tiny_reference):
    asked = [request(at, 2 + at, 5) for at in range(4)]
    decoder, found = Decoder(tiny_reference, rows=2), {}
    numbers = []
    for one in asked:
        numbers.append(decoder.add(one))
        for event in decoder.step():
            found.setdefault(event.id, []).append(event)
    for number, events in finish(decoder).items():
        found.setdefault(number, []).extend(events)
    for number, one in zip(numbers, asked, strict=True):
        assert tokens(found[number]) == alone(tiny_reference, one)
        assert [bool(event.finished) for event in found[number]] == [False] * 4 + [True] or (
            found[number][-1].finished == "end"
        )
    assert decoder.step() == []


def test_an_event_has_the_log_probabilities_of_its_token(tiny_reference, naive):
    one = request(1, 4, 3)
    decoder = Decoder(tiny_reference)
    number = decoder.add(one)
    slow, said = naive(tiny_reference), list(one.tokens)
    for event in finish(decoder)[number]:
        step = slow.step(said, one.sampling)
        assert event.token is not None
        assert event.log_prob == pytest.approx(step.log_pi[event.token], abs=1e-4)
        assert event.log_ref == pytest.approx(step.log_ref[event.token], abs=1e-4)
        assert event.kl == pytest.approx(step.kl, abs=1e-4)
        said.append(event.token)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_what_is_cancelled_says_no_more_and_leaves_the_others_alone(tiny_reference, steps):
    asked = [request(at, 3, 6) for at in range(3)]
    decoder = Decoder(tiny_reference, rows=2)
    numbers = [decoder.add(one) for one in asked]
    found: dict[int, list[Event]] = {number: [] for number in numbers}
    for _ in range(steps):
        for event in decoder.step():
            found[event.id].append(event)
    decoder.cancel(numbers[0])
    late = finish(decoder)
    assert numbers[0] not in late
    for number, one in zip(numbers[1:], asked[1:], strict=True):
        assert tokens([*found[number], *late.get(number, [])]) == alone(tiny_reference, one)
    decoder.cancel(numbers[1])  # it has ended: nothing to forget
    assert decoder.idle


def test_a_child_that_waits_can_be_cancelled(tiny_reference):
    decoder = Decoder(tiny_reference, rows=1)
    number = decoder.add(request(0, 3, 0, hold=True))
    assert decoder.step() == [Event(number, finished="length")]
    first, second = decoder.fork(number, [request(0, 3, 2), request(0, 3, 2)])
    decoder.cancel(second)
    assert finish(decoder).keys() == {first}


def test_a_row_that_is_held_waits_for_its_children(tiny_reference):
    decoder = Decoder(tiny_reference, rows=1)
    number = decoder.add(request(0, 3, 0, hold=True))
    decoder.step()
    assert decoder.idle  # nothing to do until somebody forks, or lets go
    other = decoder.add(request(1, 3, 2))
    with pytest.raises(RuntimeError, match="every row is held while requests wait: fork or cancel"):
        decoder.step()
    with pytest.raises(ValueError, match=f"request {other} holds no row"):
        decoder.fork(other, [])
    assert decoder.fork(number, []) == []
    assert finish(decoder).keys() == {other}


def test_ranked_tokens_are_the_likeliest(tiny_reference, tiny_network, naive):
    network = tiny_network(tiny_reference, "state")
    sampling = SamplingParams((1.5,), top_k=7)
    decoder = Decoder(tiny_reference, [network])
    number = decoder.add(Request([3, 4, 5], 1, sampling, (0,), hold=True, ranked=3))
    (event,) = decoder.step()
    step = naive(tiny_reference, [network]).step([3, 4, 5], sampling)
    best = sorted(step.log_pi, key=lambda token: -step.log_pi[token])[:3]
    assert (event.token, event.finished) == (None, "length")
    assert [one.token for one in event.ranked] == best
    for one in event.ranked:
        assert one.log_prob == pytest.approx(step.log_pi[one.token], abs=1e-4)
        assert one.log_ref == pytest.approx(step.log_ref[one.token], abs=1e-4)
    children = [Request([3, 4, 5, token], 3, sampling, (token,)) for token in best]
    grown = finish_from(decoder, decoder.fork(number, children))
    for child, said in zip(children, grown, strict=True):
        assert said == alone_with(tiny_reference, network, child)


def test_candidates_are_the_reference_s_likeliest_for_those_who_ask(
    tiny_reference, tiny_network, naive
):
    network = tiny_network(tiny_reference, "state")
    sampling = SamplingParams((1.5,), top_k=7)
    decoder = Decoder(tiny_reference, [network])
    texts, asked = ([3, 4, 5], [6, 7], [8, 9, 3]), (3, 0, 20)  # there are 7
    numbers = [
        decoder.add(Request(text, 1, sampling, (0,), candidates=most))
        for text, most in zip(texts, asked, strict=True)
    ]
    found = {event.id: event.candidates for event in decoder.step()}
    assert found[numbers[1]] is None
    for number, text, count in ((numbers[0], texts[0], 3), (numbers[2], texts[2], 7)):
        log_ref = naive(tiny_reference, [network]).step(text, sampling).log_ref
        best = sorted(log_ref, key=lambda token: -log_ref[token])[:count]
        assert found[number].tokens.tolist() == best
        expected = [log_ref[token] for token in best]
        assert found[number].log_ref.tolist() == pytest.approx(expected, abs=1e-4)


def alone_with(reference, network, one: Request) -> list[int]:
    (output,) = decode(reference, [network], [one])
    return output.tokens


def finish_from(decoder: Decoder, numbers: list[int]) -> list[list[int | None]]:
    found = finish(decoder)
    return [tokens(found[number]) for number in numbers]


# What goes wrong


@pytest.mark.parametrize("late", [False, True])
def test_after_a_step_that_was_broken_off_the_decoder_says_nothing_wrong(
    tiny_reference, tiny_network, late
):
    """A row that had read its token, but not said the next, would go on from another state."""
    network = tiny_network(tiny_reference)
    with torch.no_grad():
        network.head.state.bias[:] = torch.nan
    plain, broken = (
        Request([3, 4, 5], 5, SamplingParams((weight,)), (0,)) for weight in (0.0, 1.0)
    )
    decoder = Decoder(tiny_reference, [network])
    decoder.add(plain)
    if late:
        decoder.step()
    wrong = decoder.add(broken)
    with pytest.raises(ValueError, match="value model of humor gave NaN"):
        decoder.step()
    decoder.cancel(wrong)
    with pytest.raises(RuntimeError, match=r"broken off.* make a new decoder") as told:
        decoder.step()
    assert "gave NaN" in str(told.value.__cause__)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tokens": []}, "must have tokens to go on from, got none"),
        ({"tokens": [3, 38 + 2]}, r"tokens of a request must be in 0 … \d+, got 40"),
        ({"tokens": [-1]}, r"tokens of a request must be in 0 … \d+, got -1"),
        ({"limit": -1}, "limit of a request must be at least 0, got -1"),
        ({"ranked": -2}, "ranked of a request must be at least 0, got -2"),
        ({"candidates": -1}, "candidates of a request must be at least 0, got -1"),
        ({"limit": 158}, r"tokens \(3\) and limit \(158\) of a request must fit .* of 160 tokens"),
    ],
)
def test_a_request_that_would_break_a_step_is_refused(tiny_reference, more, message):
    decoder, good = Decoder(tiny_reference, rows=1), request(0, hold=True)
    number = decoder.add(good)
    with pytest.raises(ValueError, match=message):
        decoder.add(replace(request(1), **more))
    said = tokens(finish(decoder)[number])
    with pytest.raises(ValueError, match=message):
        decoder.fork(number, [replace(request(1), **more)])
    assert said == alone(tiny_reference, good)
    assert decoder.fork(number, []) == []  # it is held still


def test_settings_that_the_rule_refuses_are_refused_before_a_step(tiny_reference, tiny_network):
    def rule(log_ref, values, weights, beta):
        if (weights < 0).any():
            raise ValueError("no negative weights")
        return tilt(log_ref, values, weights, beta)

    decoder = Decoder(tiny_reference, [tiny_network(tiny_reference)], rule)
    with pytest.raises(ValueError, match="no negative weights"):
        decoder.add(Request([3], 1, SamplingParams((-1.0,)), (0,)))
    assert decoder.idle


# Prompts


def test_a_long_prompt_is_read_in_parts_while_others_go_on(tiny_reference, monkeypatch):
    short, long = request(0, 3, 12), request(1, 60, 2)
    want = [alone(tiny_reference, one) for one in (short, long)]
    decoder = Decoder(tiny_reference, prompt_tokens=16)
    first = decoder.add(short)
    read: list[int] = []
    policy = decoder._policy
    monkeypatch.setattr(
        policy, "read", lambda rows, parts, how, _read=policy.read: (
            read.append(sum(map(len, parts))), _read(rows, parts, how)
        )
    )  # fmt: skip
    said = decoder.step()
    second = decoder.add(long)
    steps = [decoder.step() for _ in range(3)]
    assert read == [2, 16, 16, 16]
    assert all([event.id for event in step] == [first] for step in steps)
    found = finish(decoder)
    before = [event for step in [said, *steps] for event in step]
    assert tokens([*before, *found[first]]) == want[0]
    assert tokens(found[second]) == want[1]
    assert read == [2, 16, 16, 16, 11]


def test_alone_a_long_prompt_is_read_at_once(tiny_reference):
    decoder = Decoder(tiny_reference, prompt_tokens=4)
    number = decoder.add(request(1, 60, 2))
    assert [event.id for event in decoder.step()] == [number]


def test_requests_that_are_only_read_keep_no_row_waiting(tiny_reference):
    """A steady flow of them: the row that was there before gets its token in every step."""
    long = request(0, 3, 12)
    decoder = Decoder(tiny_reference, rows=8)
    first, found = decoder.add(long), decoder.step()
    for at in range(1, 5):
        held = decoder.add(request(at, 5, 0, hold=at % 2 == 0))
        events = decoder.step()
        assert {event.id for event in events} == {first, held}
        found += [event for event in events if event.id == first]
    found += finish(decoder)[first]
    assert tokens(found) == alone(tiny_reference, long)


def test_the_context_is_checked_when_a_request_is_added(tiny_reference):
    decoder = Decoder(tiny_reference)
    with pytest.raises(
        PromptTooLong, match=r"tokens \(161\) and limit \(0\) .* of 160 tokens of tiny llama"
    ):
        decoder.add(request(0, 161, 0, hold=True))
    assert decoder.idle
    number = decoder.add(request(0, 160, 0, hold=True))
    decoder.step()
    with pytest.raises(PromptTooLong, match=r"limit \(1\) of a request must fit into the context"):
        decoder.fork(number, [request(0, 160, 1)])


# Rows


def rows_of(decoder: Decoder) -> int:
    return decoder._policy.cache.cache.rows


def test_plain_generation_has_a_row_for_each_answer_and_no_more(tiny_reference, monkeypatch):
    from mavis.decoding.policy import GuidedPolicy

    made: list[Decoder] = []

    class Kept(Decoder):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr("mavis.decoding.decode.Decoder", Kept)
    policy = GuidedPolicy(tiny_reference)
    policy.generate(["a", "an um"] * 4, max_tokens=3)
    assert rows_of(made[0]) == 8
    policy.generate(["a"], n=8, max_tokens=3)
    assert rows_of(made[1]) == 8  # the parked prompt is kept aside


def test_a_decoder_leaves_the_callers_grad_mode_alone(tiny_reference):
    decoder = Decoder(tiny_reference)
    number = decoder.add(request(0, 3, 0, hold=True))
    decoder.step()
    decoder.fork(number, [request(0, 3, 2), request(0, 3, 2)])
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("more", [{"rows": 0}, {"prompt_tokens": 0}])
def test_sizes_that_cannot_be_are_refused(tiny_reference, more):
    with pytest.raises(ValueError, match=f"{next(iter(more))} must be at least 1, got 0"):
        Decoder(tiny_reference, **more)
