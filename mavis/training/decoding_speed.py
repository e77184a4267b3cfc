"""How fast a policy decodes: a few seconds of it, from which longer work is reckoned."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice

from mavis.decoding.decoder import Decoder
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import Output, Request, SamplingParams
from mavis.prompts import Prompt
from mavis.training.estimate import Speed

Clock = Callable[[], float]


def speed(
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    max_tokens: int,
    rows: int,
    wanted: int,
    seconds: float,
    seed: int,
    clock: Clock,
) -> tuple[Speed, list[Output]]:
    """Decode a few rows, then as many as asked for, while there is time.

    Args:
        policy: the policy.
        prompts: what it replies to, again from the beginning where they do not suffice.
        sampling: how.
        max_tokens: the longest reply.
        rows: how many replies are sampled at the same time, if so many prompts can be read in time.
        wanted: the replies that are wanted, if there is time.
        seconds: that reading a batch may take, and sampling replies to it, about.
        seed: of the draws.
        clock: tells seconds.

    Returns:
        the speed, and the replies, with the prompt as the tag of each request; those that were cut
        short for want of time have no reason.
    """
    ended, endless = clock() + 3 * seconds, cycle(prompts)
    few = list(islice(endless, min(2, rows)))
    read, steps, outputs = _replies(policy, few, 1, sampling, max_tokens, seconds, (seed, 0), clock)
    # So many prompts can be read in a while; each has as many replies as fill the rows.
    count = max(1, min(rows, int(seconds * len(few) / max(1e-9, read))))
    number = 0
    while number == 0 or (len(outputs) < wanted and clock() < ended):
        number += 1
        some, how = list(islice(endless, count)), (sampling, max_tokens, seconds, (seed, number))
        read, more, written = _replies(policy, some, rows // count, *how, clock)
        steps, outputs = [*steps, *more], [*outputs, *written]
    tokens = sum(len(one.request.tokens) for one in written) / (rows // count)
    return Speed.measure(read / tokens, steps), outputs


def _replies(
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    copies: int,
    sampling: SamplingParams,
    max_tokens: int,
    seconds: float,
    key: tuple[int, int],
    clock: Clock,
) -> tuple[float, list[tuple[int, float]], list[Output]]:
    """Seconds to read prompts; rows and seconds of each step after that; some replies to each."""
    decoder = Decoder(policy.reference, policy.guides, policy.rule, len(prompts) * copies)
    requests: dict[int, Request] = {}
    before = clock()
    for at, prompt in enumerate(prompts):
        start = policy.reference.encode(prompt)
        name = (*key, at, "plan")
        request = Request(start.tokens, 0, sampling, name, start.stop, hold=True, tag=prompt)
        requests[decoder.add(request)] = request
    waiting = set(requests)
    while waiting:
        waiting -= {event.id for event in decoder.step() if event.finished}
    read = clock() - before
    outputs: dict[int, Output] = {}
    for number, request in requests.items():
        reply = replace(request, limit=max_tokens, hold=False)
        each = [replace(reply, key=(*reply.key, copy)) for copy in range(copies)]
        outputs |= zip(decoder.fork(number, each), map(Output, each), strict=True)
    steps: list[tuple[int, float]] = []
    begun = clock()
    while not decoder.idle and (len(steps) < 3 or clock() - begun < seconds):
        before = clock()
        events = decoder.step()
        steps.append((len(events), clock() - before))
        for event in events:
            outputs[event.id].add(event)
    return read, steps[1:] or steps, list(outputs.values())  # the first one warms up
