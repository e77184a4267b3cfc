"""The decoder: requests come and go, and every step adds a token to all that are running.

Sampling, rollout trees, beam search and serving are clients of this one loop:

    add(request) -> id     check a request and let it wait for a row
    step() -> [Event]      read prompts, then add one token to every running row
    fork(id, requests)     go on from a row that is held, with nothing read twice
    cancel(id)             forget a request, whatever has become of it

A row is taken by a request and given back when it ends, unless it is held. Children of a held row
go on from its cache: the first in place, the others from a parked copy. They are taken last in,
first out, which keeps few of them waiting; new requests are taken in their order, after them.

Every draw comes from a stream keyed by the request, so that neither the other rows nor their order
changes an answer.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import torch

from mavis.decoding.guidance import MixingRule, PolicyRows
from mavis.decoding.guides import Guide
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Event, Request, likeliest, proposed, try_rule
from mavis.decoding.row_table import Parked, Row, RowTable
from mavis.decoding.tilt import (
    Candidates,
    RowSettings,
    draw,
    exact_kl,
    parts,
    tilt,
    truncation,
)

PROMPT_TOKENS = 512  # read in a step, at most, while rows are running that would have to wait


class Decoder:
    """Steps the requests of one guided policy.

    Args:
        reference: π_ref.
        guides: the value models, or other guides; none decodes the reference policy itself.
        rule: how values bend the reference policy.
        rows: how many requests take a step together.
        prompt_tokens: how many prompt tokens a step may read while other rows are running, so that
            a long prompt does not keep them waiting.
    """

    def __init__(
        self,
        reference: ReferencePolicy,
        guides: Sequence[Guide] = (),
        rule: MixingRule = tilt,
        rows: int = 64,
        prompt_tokens: int = PROMPT_TOKENS,
    ) -> None:
        for name, number in {"rows": rows, "prompt_tokens": prompt_tokens}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}.")
        self.reference, self.size, self.prompt_tokens = reference, rows, prompt_tokens
        self._policy = PolicyRows(reference, guides, rule, rows)
        self._table = RowTable(self._policy, rows)
        self._queue: deque[tuple[int, Request]] = deque()
        self._children: list[tuple[int, Request, Parked | None]] = []
        self._numbers = count(1)
        self._failure: BaseException | None = None  # of a step that was broken off

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing: nothing waits, and every row there is is held."""
        busy = any(not row.held for row in self._table.rows)
        return not (self._queue or self._children or busy)

    @property
    def room(self) -> int:
        """How many more requests would get a row in the next step."""
        return self.size - len(self._table.rows) - len(self._children) - len(self._queue)

    def add(self, request: Request) -> int:
        """Let a request wait for a row.

        Returns:
            its number, which its events carry.

        Raises:
            ValueError: its tokens or its settings cannot be.
        """
        self._check([request])
        self._queue.append((number := next(self._numbers), request))
        return number

    @torch.inference_mode()
    def step(self, forks_first: bool = False) -> list[Event]:
        """Give free rows to what waits, read prompts, and add a token to every running row.

        Args:
            forks_first: where requests have ended that were only to be read (limit 0), return at
                once, so that what is forked from them takes its first step beside the other rows.

        Returns:
            an event for every request that got a token, or has ended.

        Raises:
            ValueError: a model gave numbers that are not finite; it is named.
            RuntimeError: requests wait, and every row is held; or a step was broken off before.
        """
        if self._failure is not None:
            raise RuntimeError(
                "a step of this decoder was broken off, and its rows may have read more than they "
                "have reported: make a new decoder, and ask it again for what has not ended."
            ) from self._failure
        try:
            self._admit()
            stuck = all(row.held for row in self._table.rows) and not self.idle
            events = [] if stuck else self._advance(forks_first)
        except BaseException as error:
            self._failure = error
            raise
        if stuck:
            raise RuntimeError("every row is held while requests wait: fork or cancel one of them.")
        return events

    @torch.inference_mode()
    def fork(self, number: int, requests: Sequence[Request]) -> list[int]:
        """Go on from a row that is held, and let go of it.

        Args:
            number: of the request that holds it.
            requests: what goes on from there; their `tokens` are its own and then what it has
                added (and one more token where it was `ranked`).

        Returns:
            the numbers of the new requests.

        Raises:
            ValueError: the request holds no row, or new ones cannot be, or cannot go on from it.
        """
        row = next((row for row in self._table.rows if row.id == number and row.held), None)
        if row is None:
            raise ValueError(
                f"request {number} holds no row: only one with `hold` does, once ended."
            )
        if not requests:
            self._table.release(row)
            return []
        self._check(requests)
        weights = row.request.sampling.weights
        changed = any(request.sampling.weights != weights for request in requests)
        if changed and self._policy.guidance.reads_weights:
            raise ValueError(
                "what guides here has read the row under its weights: give the requests that go on "
                f"from there the same ones, {weights}, or add them anew."
            )
        # The first child takes the row as it is; for the others, which wait, a copy is parked.
        (first, *others), numbers = requests, [next(self._numbers) for _ in requests]
        parked = self._table.park(row, len(others)) if others else None
        waiting = list(zip(numbers[1:], others, strict=True))
        # Reversed, as the last one in is the first one out: siblings then run in their order.
        self._children += [(child, request, parked) for child, request in reversed(waiting)]
        self._table.replace(row, Row.start(numbers[0], first, read=True))
        return numbers

    @torch.inference_mode()
    def cancel(self, number: int) -> None:
        """Forget a request: waiting, running or held. One that has ended is gone already."""
        self._queue = deque(one for one in self._queue if one[0] != number)
        for child in [one for one in self._children if one[0] == number]:
            self._children.remove(child)
            if child[2] is not None:
                self._table.unpark(child[2])
        for row in [row for row in self._table.rows if row.id == number]:
            self._table.release(row)

    def _check(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.check(self.reference)
            request.sampling.check(self._policy.guidance.objectives)
        try_rule(self._policy.guidance.rule, {request.sampling for request in requests})

    def _admit(self) -> None:
        """Fill the free rows: children first, the last one first; then new requests."""
        while len(self._table.rows) < self.size and (self._children or self._queue):
            if self._children:
                number, request, parked = self._children.pop()
            else:
                (number, request), parked = self._queue.popleft(), None
            self._table.seat(Row.start(number, request, read=parked is not None), parked)

    def _advance(self, forks_first: bool) -> list[Event]:
        """Read prompts, and let every row that can take a step."""
        self._table.read_prompts(self.prompt_tokens)
        ready = self._table.ready
        read = [Event(row.id, finished="length") for row in ready if row.request.limit == 0]
        if read:
            self._give_back(read)
            ready = [] if forks_first else self._table.ready
        self._table.arrange(ready)
        events = self._step(ready) if ready else []
        self._give_back(events)
        return read + events

    def _give_back(self, events: Sequence[Event]) -> None:
        """Give back, or hold, the rows of requests that have ended."""
        # A row goes to the next request at once, unless children are to go on from it.
        finished = {event.id for event in events if event.finished}
        for row in [row for row in self._table.rows if row.id in finished]:
            if row.request.hold:
                row.held = True
            else:
                self._table.release(row)

    def _step(self, rows: Sequence[Row]) -> list[Event]:
        """Add a token to each of some rows, or rank those that it might be."""
        index = self._table.index(rows)
        last = [[row.last] for row in rows]
        how = self._table.settings(index)
        options, log_pi = self._policy.step(index, last, how)
        chosen = self._choose(rows, log_pi)
        # What was ranked goes on with tokens that its owner picks, which no guide can know yet.
        drawn = np.array([not row.request.ranked for row in rows])
        if drawn.any():
            self._policy.guidance.commit(index[drawn], chosen[torch.from_numpy(drawn)])
        pick = chosen[:, None]
        columns = [
            log_pi.gather(1, pick)[:, 0],
            options.log_ref.gather(1, pick)[:, 0],
            exact_kl(log_pi, options.log_ref),
            truncation(options.log_ref),
        ]
        # One transfer from the device for all numbers of the step.
        report = torch.stack(columns, dim=-1).tolist()  # [R][4]
        tokens = options.tokens.gather(1, pick)[:, 0].tolist()
        shares = self._parts(rows, options, pick, how)
        kept = proposed(options, [row.request.candidates for row in rows])
        events = []
        for at, (row, token, numbers) in enumerate(zip(rows, tokens, report, strict=True)):
            if not math.isfinite(sum(numbers)):
                raise self._policy.fault(at, options, [*row.request.tokens, *row.added])
            asked = row.request
            likely = likeliest(options, log_pi, at, asked.ranked or asked.top)
            added, finished = None, "length"
            if not asked.ranked:
                row.added.append(token)
                added, finished = token, row.reason(self.reference)
            event = replace(Event(row.id, added, *numbers), finished=finished, ranked=likely)
            events.append(replace(event, parts=shares[at], candidates=kept[at]))
        return events

    def _parts(
        self, rows: Sequence[Row], options: Candidates, pick: torch.Tensor, how: RowSettings
    ) -> list[tuple[float, ...]]:
        """Each objective's part in the tilt of the picked candidates [R, 1], where it is asked."""
        asked = [row.request.attributed for row in rows]
        if not any(asked):
            return [()] * len(rows)
        none = options.log_ref.new_zeros((*options.log_ref.shape, 0))
        values = torch.cat([none, *self._policy.guidance.values], dim=-1)
        found = parts(options.log_ref, values, pick, how.weights * how.beta[:, None])
        every = zip(asked, found.tolist(), strict=True)
        return [tuple(numbers) if wanted else () for wanted, numbers in every]

    def _choose(self, rows: Sequence[Row], log_pi: torch.Tensor) -> torch.Tensor:
        """Which candidate each row takes [R]: a draw from its own stream, or the likeliest."""
        uniform = [row.random.random() for row in rows]
        chosen = draw(log_pi, torch.tensor(uniform, dtype=torch.float64, device=log_pi.device))
        greedy = [row.request.sampling.greedy for row in rows]
        if any(greedy):
            taken = torch.tensor(greedy, device=log_pi.device)
            chosen = torch.where(taken, log_pi.argmax(-1), chosen)
        return chosen
