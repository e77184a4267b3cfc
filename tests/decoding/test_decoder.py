"""The decoding core against a plain loop: no cache, no batch, the same random streams."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from mavis.decoding.decode import decode
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Output, Request, SamplingParams, stream
from mavis.decoding.value_model import ValueModel

Make = Callable[..., ValueModel]
Build = Callable[..., ReferencePolicy]
Run = Callable[..., dict[Any, Output]]
Compare = Callable[..., None]


def varied(count: int, seed: int = 0, limit: int = 9) -> list[Request]:
    """Ragged prompts, each with settings of its own, for M = 4."""
    rng = np.random.default_rng(seed)
    jobs = []
    for at in range(count):
        sampling = SamplingParams(
            weights=tuple(rng.normal(0, 1, 4).round(3).tolist()),
            beta=float(rng.choice([0.0, 0.5, 1.0, 2.0])),
            temperature=float(rng.choice([0.7, 1.0, 1.6])),
            top_k=int(rng.choice([0, 1, 3, 8, 40])),
            top_p=float(rng.choice([1.0, 0.8, 0.5])),
        )
        prompt = rng.integers(1, 40, rng.choice([1, 2, 5, 12, 70])).tolist()
        jobs.append(Request(prompt, int(rng.integers(1, limit + 1)), sampling, (seed, at), tag=at))
    return jobs


# One path


def test_decoding_equals_the_plain_loop_in_tokens_and_in_nats(
    tiny_reference: ReferencePolicy, three_networks: list[ValueModel], naive: Any, run: Run
) -> None:
    jobs = varied(12)
    spans, slow = (
        run(tiny_reference, three_networks, jobs, rows=5),
        naive(tiny_reference, three_networks),
    )
    for job in jobs:
        span = spans[job.tag]
        assert span.tokens == slow.run(job)
        assert span.reason == ("end" if span.tokens[-1] == 0 else "length")
        for at, token in enumerate(span.tokens):
            step = slow.step([*job.tokens, *span.tokens[:at]], job.sampling)
            ratio = step.log_pi[token] - step.log_ref[token]
            assert span.log_ratio[at] == pytest.approx(ratio, abs=1e-4)
            assert span.kl[at] == pytest.approx(step.kl, abs=1e-4)
            assert span.truncation[at] == pytest.approx(step.truncation, abs=1e-4)


def test_rows_beside_it_and_their_order_change_nothing_for_a_row(
    tiny_reference: ReferencePolicy,
    three_networks: list[ValueModel],
    run: Run,
    assert_same: Compare,
) -> None:
    jobs = varied(14, seed=1)
    alone: dict[Any, Output] = {}
    for job in jobs:
        alone |= run(tiny_reference, three_networks, [job], rows=1)
    for rows in (1, 3, 64):
        assert_same(run(tiny_reference, three_networks, jobs, rows=rows), alone)
    for rows in (3, 64):
        assert_same(run(tiny_reference, three_networks, jobs[::-1], rows=rows), alone)


def test_every_family_decodes_like_the_plain_loop(
    build_reference: Build, tiny_network: Make, naive: Any, family: str, run: Run
) -> None:
    reference = build_reference(family)
    networks = [tiny_network(reference, "state", ("a",)), tiny_network(reference, "action", ("b",))]
    jobs = [
        Request(prompt, 4, SamplingParams((1.0, -0.5), beta=1.0, top_k=6), (at,), tag=at)
        for at, prompt in enumerate([[7], [3, 4, 5, 6, 7, 8], [20, 21, 22]])
    ]
    spans = run(reference, networks, jobs)
    assert {tag: span.tokens for tag, span in spans.items()} == {
        job.tag: naive(reference, networks).run(job) for job in jobs
    }


def test_equal_keys_draw_alike_and_others_do_not(tiny_reference: ReferencePolicy) -> None:
    jobs = [
        Request([5, 6], 12, SamplingParams(), key)
        for key in ((1, "x"), (1, "x"), (1, "y"), (2, "x"))
    ]
    spans = [next(decode(tiny_reference, (), [job])).tokens for job in jobs]
    together = list(decode(tiny_reference, (), jobs))
    assert spans[0] == spans[1]
    assert len({tuple(tokens) for tokens in spans}) == 3
    assert sorted(span.tokens for span in together) == sorted(spans)


def test_streams_are_the_same_everywhere() -> None:
    """Written down once: a change would give every seeded answer of every user anew."""
    assert stream((0, 17, "sample", 1)).random(2).tolist() == GOLDEN
    assert stream((1,)).random() != stream(("1",)).random()


GOLDEN = [0.5699942910595558, 0.4246764577167744]


def test_nothing_global_is_touched(
    tiny_reference: ReferencePolicy, three_networks: list[ValueModel], run: Run
) -> None:
    before, legacy = torch.get_rng_state(), np.random.get_state()[1]
    run(tiny_reference, three_networks, varied(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == legacy).all()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_grad_mode_is_the_callers_own_between_spans(tiny_reference: ReferencePolicy) -> None:
    jobs = [Request([5], 2, SamplingParams(), (at,)) for at in range(3)]
    for _ in decode(tiny_reference, (), jobs, rows=1):
        assert not torch.is_inference_mode_enabled()


def test_a_network_can_be_trained_after_decoding(
    tiny_reference: ReferencePolicy, tiny_network: Make, run: Run
) -> None:
    network = tiny_network(tiny_reference)
    run(tiny_reference, [network], [Request([5, 6], 3, SamplingParams((1.0,)), (0,))])
    assert network.trunk is not None
    states = network.trunk(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state
    network.action_values(states, torch.tensor([[[6], [7], [8]]])).sum().backward()
    assert all(p.grad is not None for p in network.trunk.parameters())


def test_jobs_are_taken_as_rows_become_free(tiny_reference: ReferencePolicy) -> None:
    taken = []

    def source() -> Iterator[Request]:
        for at in range(10):
            taken.append(at)
            yield Request([5, 6], 3, SamplingParams(), (at,))

    spans = decode(tiny_reference, (), source(), rows=2)
    next(spans)
    assert len(taken) == 2
    assert len(list(spans)) == 9


def test_no_jobs(tiny_reference: ReferencePolicy) -> None:
    assert list(decode(tiny_reference, (), [])) == []


def test_a_job_that_cannot_be_is_refused(
    tiny_reference: ReferencePolicy, three_networks: list[ValueModel]
) -> None:
    wrong = Request([5], 3, SamplingParams((1.0,)), (0,))
    with pytest.raises(ValueError, match=r"weights must have one entry per objective \(M = 4: hum"):
        list(decode(tiny_reference, three_networks, [wrong]))


# The tilt at work


def test_beta_zero_is_the_reference(
    tiny_reference: ReferencePolicy,
    three_networks: list[ValueModel],
    run: Run,
    assert_same: Compare,
) -> None:
    weights = (3.0, -2.0, 1.0, 5.0)
    for top_k in (0, 5):
        guided = [
            Request([3, 4, at], 8, SamplingParams(weights, 0.0, top_k=top_k), (at,), tag=at)
            for at in range(6)
        ]
        plain = [
            Request(job.tokens, 8, SamplingParams(top_k=top_k), job.key, tag=job.tag)
            for job in guided
        ]
        spans = run(tiny_reference, three_networks, guided)
        assert_same(spans, run(tiny_reference, (), plain))
        for span in spans.values():
            # What is left of log π/π_ref and of the KL is what top-k takes away, and no more.
            assert span.log_ratio == pytest.approx(span.truncation, abs=1e-6)
            assert span.kl == pytest.approx(span.truncation, abs=1e-6)
            if top_k == 0:
                assert span.truncation == pytest.approx([0.0] * len(span.tokens), abs=1e-6)


def enumerated(slow: Any, job: Request) -> dict[tuple[int, ...], float]:
    """The probability of every response, π(y) = Π π(a|s), by plain full forwards."""
    found: dict[tuple[int, ...], float] = {}
    open_: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    while open_:
        said, log_pi = open_.pop()
        for a, step in slow.step([*job.tokens, *said], job.sampling).log_pi.items():
            whole = (*said, a)
            ended = a in slow.reference.ends or len(whole) == job.limit
            if ended:
                found[whole] = math.exp(log_pi + step)
            else:
                open_.append((whole, log_pi + step))
    return found


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_samples_follow_the_exact_guided_distribution(
    build_reference: Build, tiny_network: Make, naive: Any, beta: float, run: Run
) -> None:
    """Chi-square over all responses of up to 3 of 6 tokens.

    Right code fails each of the two cases with odds 1 in 10,000 (seeded: always or never).
    """
    reference, count = build_reference(vocab=6), 2500
    networks = [
        tiny_network(reference, "action", ("humor",), seed=1),
        tiny_network(reference, "state", ("kind",), seed=2),
    ]
    sampling = SamplingParams((1.0, -0.7), beta, temperature=1.3, top_k=5)
    jobs = [Request([4], 3, sampling, ("sample", at), tag=at) for at in range(count)]
    exact = enumerated(naive(reference, networks), jobs[0])
    assert sum(exact.values()) == pytest.approx(1, abs=1e-9)

    spans = run(reference, networks, jobs, rows=200)
    seen = Counter(tuple(span.tokens) for span in spans.values())
    assert seen.keys() <= exact.keys()
    rare = {y for y, p in exact.items() if p * count < 5}
    pairs = [(seen[y], p * count) for y, p in exact.items() if y not in rare]
    pairs.append((sum(seen[y] for y in rare), sum(exact[y] for y in rare) * count))
    statistic = sum((found - expected) ** 2 / expected for found, expected in pairs)
    assert len(pairs) > 15
    assert chi2.sf(statistic, len(pairs) - 1) > 1e-4


# Ends


def test_an_end_token_ends_a_job(build_reference: Build, run: Run) -> None:
    reference = build_reference(vocab=6)
    jobs = [Request([3], 100, SamplingParams(top_k=0), (at,), tag=at) for at in range(20)]
    spans = run(reference, (), jobs)
    assert {span.reason for span in spans.values()} == {"end"}
    for span in spans.values():
        assert span.tokens[-1] == 0
        assert 0 not in span.tokens[:-1]


def test_an_endless_job_goes_on_past_end_tokens(build_reference: Build, run: Run) -> None:
    """To its limit, or a stop string; up to its first end token it is as others are."""
    reference = build_reference(vocab=6)
    jobs = [Request([3], 40, SamplingParams(top_k=0), (at,), tag=at) for at in range(8)]
    endless = [replace(job, endless=True, tag=job.tag + 8) for job in jobs]
    spans = run(reference, (), [*jobs, *endless])
    for at in range(8):
        ended, whole = spans[at], spans[at + 8]
        assert whole.reason == "length"
        assert len(whole.tokens) == 40
        assert whole.tokens[: len(ended.tokens)] == ended.tokens
    stopped = run(reference, (), [replace(endless[0], stop=(text(reference, [4]),))])
    (span,) = stopped.values()
    assert span.reason == "stop"
    assert span.tokens.index(4) == len(span.tokens) - 1


def text(reference: ReferencePolicy, tokens: Sequence[int]) -> str:
    return str(reference.tokenizer.decode(list(tokens), skip_special_tokens=True))


def spoken(reference: ReferencePolicy, limit: int) -> tuple[Request, list[int]]:
    """A job that runs to its limit, and what it says: some tokens of it have two characters."""
    tries = [Request([5, 6, 7], limit, SamplingParams(), ("stop", at)) for at in range(100)]
    spans = [s for s in decode(reference, (), tries) if s.reason == "length" and max(s.tokens) > 36]
    return spans[0].request, spans[0].tokens


def test_a_stop_string_ends_a_job_where_it_is_complete(
    tiny_reference: ReferencePolicy, run: Run
) -> None:
    """Every substring of up to 6 characters of what is said, over token borders and within them."""
    job, said = spoken(tiny_reference, 30)
    whole = text(tiny_reference, said)
    strings = [whole[a : a + n] for n in (1, 2, 3, 6) for a in range(len(whole) - n)]
    jobs = [Request(job.tokens, 30, job.sampling, job.key, (s, "@@"), tag=s) for s in {*strings}]
    spans = run(tiny_reference, (), jobs)
    for string, span in spans.items():
        length = next(n for n in range(50) if string in text(tiny_reference, said[:n]))
        assert (span.tokens, span.reason) == (said[:length], "stop"), string


def test_a_stop_string_may_begin_in_the_response_so_far_but_not_in_the_prompt(
    tiny_reference: ReferencePolicy,
) -> None:
    job, said = spoken(tiny_reference, 12)
    border = text(tiny_reference, [7, *said[:2]])
    length = next(n for n in (1, 2) if text(tiny_reference, [7, *said[:n]]) == border)
    for response, reason in ((0, "length"), (1, "stop"), (3, "stop")):
        again = Request(job.tokens, 12, job.sampling, job.key, (border,), response)
        span = next(decode(tiny_reference, (), [again]))
        assert span.reason == reason
        assert span.tokens == (said[:length] if reason == "stop" else said)


def test_a_limit_of_zero_only_reads(
    tiny_reference: ReferencePolicy,
    three_networks: list[ValueModel],
    run: Run,
    assert_same: Compare,
) -> None:
    jobs = varied(7, seed=4)
    still = [Request(job.tokens, 0, job.sampling, job.key, tag=("still", job.tag)) for job in jobs]
    mixed = [job for pair in zip(jobs, still, strict=True) for job in pair]
    spans = run(tiny_reference, three_networks, mixed, rows=3)
    for job in still:
        assert spans.pop(job.tag) == Output(job, reason="length")
    assert_same(spans, run(tiny_reference, three_networks, jobs, rows=3))
