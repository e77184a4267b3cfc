"""The decoding core: one loop for sampling, rollout trees and (later) search and serving.

Work comes as jobs: "go on from these tokens, for so many more, under these settings". Live rows
take jobs, all rows take a step together, and a job that ends leaves its row at once. What follows a
job (the children of a tree node) goes on from the finished row's cache: the first child in place,
the others from a parked copy, so nothing is read twice. Follow-ups are taken last in, first out,
which keeps few of them waiting.

Every draw comes from a stream keyed by the job, so that neither the other rows nor their order
changes an answer.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from mavis.decoding.guidance import Guidance, MixingRule
from mavis.decoding.guides import Guide
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Output, Request, stream
from mavis.decoding.tilt import RowSettings, draw, exact_kl, tilt, truncation
from mavis.decoding.value_model import ValueModel, objectives_of

PADDING = 64  # tokens: what one more call of a model costs


def no_follow_up(span: Output) -> Sequence[Request]:  # noqa: ARG001
    """A finished job is finished."""
    return ()


@torch.inference_mode()
def decode(
    reference: ReferencePolicy,
    networks: Sequence[ValueModel | Guide],
    jobs: Iterable[Request],
    *,
    rule: MixingRule = tilt,
    rows: int = 64,
    follow: Callable[[Output], Sequence[Request]] = no_follow_up,
) -> Iterator[Output]:
    """Run jobs, and the jobs that follow them, in the order in which they end.

    Args:
        reference: π_ref.
        networks: the value models, or other guides; none decodes the reference policy itself.
        jobs: where to begin; taken one by one as rows become free.
        rule: how values bend the reference policy.
        rows: how many rows take a step together.
        follow: what comes after a job; its `tokens` are the job's with the span's behind them.

    Yields:
        a span for every job.
    """
    parked = 0 if follow is no_follow_up else 2 * rows
    live = _LiveRows(reference, networks, rule, rows, parked)
    waiting = iter(jobs)
    stack: list[
        tuple[Request, int | None]
    ] = []  # follow-ups, each with the parked row it forks from
    while True:
        live.admit(stack, waiting)
        if live.count == 0:
            return
        for row in reversed(live.step()):  # from behind, as `release` closes the gap from there
            span = live.spans[row]
            yield span
            children = () if span.reason in {"end", "stop"} else follow(span)
            if children:
                live.fork(row, children, stack)
            else:
                live.release(row)


class _LiveRows:
    """Rows 0 … count − 1 are live; those parked behind them wait for children to fork from."""

    def __init__(
        self,
        reference: ReferencePolicy,
        networks: Sequence[ValueModel | Guide],
        rule: MixingRule,
        rows: int,
        parked: int,
    ) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}.")
        self.reference, self.size = reference, rows
        self.objectives = objectives_of(networks)
        self.vocabulary = reference.vocabulary
        self.states = Guidance(reference, networks, rule, rows + parked)
        self.parked: dict[int, int] = {}  # parked row -> children still to come
        self.free = list(range(rows, rows + parked))
        self.count = 0
        self.spans: list[Output] = []
        self.streams: list[np.random.Generator] = []
        self._settings: RowSettings | None = None

    def admit(self, stack: list[tuple[Request, int | None]], waiting: Iterator[Request]) -> None:
        """Fill the free rows: follow-ups first, the last one first; then new work."""
        fresh: list[int] = []
        while self.count < self.size:
            job, parked = stack.pop() if stack else (next(waiting, None), None)
            if job is None:
                break
            row = self._seat(job)
            if parked is None:
                fresh.append(row)
            else:
                self.states.copy(np.array([row]), np.array([parked]))
                self.parked[parked] -= 1
                if self.parked[parked] == 0:
                    del self.parked[parked]
                    self.free.append(parked)
        self._read(fresh)

    def step(self) -> list[int]:
        """Add a token to every live row that may have one; return the rows that are done."""
        done = [row for row, span in enumerate(self.spans) if span.job.limit == 0]
        for row in done:
            self.spans[row].reason = "length"
        if done:  # they have only been read, and now make room for what follows them
            return done
        rows = np.arange(self.count)
        pending = [[_last(span)] for span in self.spans]
        options, log_pi = self.states.step(rows, pending, self._sampling())
        uniform = [stream.random() for stream in self.streams]
        chosen = draw(log_pi, torch.tensor(uniform, dtype=torch.float64, device=log_pi.device))
        greedy = [span.job.sampling.greedy for span in self.spans]
        if any(greedy):
            likeliest = log_pi.argmax(-1)
            chosen = torch.where(torch.tensor(greedy, device=log_pi.device), likeliest, chosen)
        self.states.commit(rows, chosen)
        pick = chosen[:, None]
        log_ref = options.log_ref.gather(1, pick)[:, 0]
        ratio = log_pi.gather(1, pick)[:, 0] - log_ref
        kl, cut = exact_kl(log_pi, options.log_ref), truncation(options.log_ref)
        report = torch.stack([ratio, kl, cut, log_ref], dim=-1).tolist()  # [R][4]
        tokens = options.tokens.gather(1, pick)[:, 0].tolist()
        for row, (span, numbers) in enumerate(zip(self.spans, report, strict=True)):
            if not math.isfinite(sum(numbers)):
                raise self.states.fault(row, options, [*span.job.tokens, *span.tokens])
        return [row for row in rows.tolist() if self._record(row, tokens[row], *report[row])]

    def fork(
        self, row: int, children: Sequence[Request], stack: list[tuple[Request, int | None]]
    ) -> None:
        """Go on with the first child in place; let the others wait, by a copy if there is room."""
        first, *others = children
        parked = None
        if others and self.free:
            parked = self.free.pop()
            self.states.copy(np.array([parked]), np.array([row]))
            self.parked[parked] = len(others)
        stack.extend((job, parked) for job in reversed(others))
        self.spans[row], self.streams[row] = Output(first), stream(first.key)
        self._settings = None
        self._check(first)

    def release(self, row: int) -> None:
        """Give a row back, and close the gap with the last live row."""
        self.count -= 1
        if row != self.count:
            self.states.copy(np.array([row]), np.array([self.count]))
            self.spans[row], self.streams[row] = self.spans[-1], self.streams[-1]
        self.spans.pop()
        self.streams.pop()
        self._settings = None

    def _seat(self, job: Request) -> int:
        self._check(job)
        self.spans.append(Output(job))
        self.streams.append(stream(job.key))
        self._settings = None
        self.count += 1
        return self.count - 1

    def _read(self, rows: list[int]) -> None:
        """Read all but the last token of new rows; that one is read with the first step."""
        self.states.clear(np.array(rows, dtype=np.int64))
        for group in _alike(
            [row for row in rows if len(self.spans[row].job.tokens) > 1], self.spans
        ):
            tokens = [self.spans[row].job.tokens[:-1] for row in group]
            settings = RowSettings(*(column[group] for column in self._sampling()))
            self.states.read(np.array(group), tokens, settings)

    def _record(
        self, row: int, token: int, ratio: float, kl: float, cut: float, log_ref: float
    ) -> bool:
        """Write down a row's new token; whether the row is done."""
        span = self.spans[row]
        span.tokens.append(token)
        span.log_ratio.append(ratio)
        span.kl.append(kl)
        span.truncation.append(cut)
        span.log_ref.append(log_ref)
        if token in self.reference.ends:
            span.reason = "end"
        elif span.job.stop and self._stopped(span):
            span.reason = "stop"
        elif len(span.tokens) >= span.job.limit:
            span.reason = "length"
        return bool(span.reason)

    def _stopped(self, span: Output) -> bool:
        """Whether a stop string stands at the end of the response."""
        begun = span.job.tokens[len(span.job.tokens) - span.job.response :]
        return self.reference.spelling.stops([*begun, *span.tokens], span.job.stop)

    def _sampling(self) -> RowSettings:
        """The live rows' settings: weights [R, M], beta, temperature, top_k, top_p [R]."""
        if self._settings is None:
            rows = [span.job.sampling for span in self.spans]
            place = self.reference.model.device
            weights = [row.weights for row in rows]
            columns = zip(*(row.settings(self.vocabulary) for row in rows), strict=True)
            self._settings = RowSettings(
                torch.tensor(weights, dtype=torch.float32, device=place).reshape(len(rows), -1),
                *(torch.tensor(column, device=place) for column in columns),
            )
        return self._settings

    def _check(self, job: Request) -> None:
        job.sampling.check(self.objectives)


def _alike(rows: list[int], spans: Sequence[Output]) -> list[list[int]]:
    """Group rows by how much there is to read, as in one call all are padded to the longest."""
    groups: list[list[int]] = []
    total = 0
    for row in sorted(rows, key=lambda row: len(spans[row].job.tokens)):
        length = len(spans[row].job.tokens)
        if not groups or length * (len(groups[-1]) + 1) > total + length + PADDING:
            groups.append([])
            total = 0
        groups[-1].append(row)
        total += length
    return groups


def _last(span: Output) -> int:
    return int(span.tokens[-1] if span.tokens else span.job.tokens[-1])
