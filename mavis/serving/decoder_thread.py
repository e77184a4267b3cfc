"""One thread steps the decoder; requests come and go by a queue of commands.

Nothing else touches the decoder or the models. A step serves all rows, whatever their weights, so
that a request that comes while others are running takes part in the next step.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from mavis.decoding.decoder import Decoder
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import Event, Request

T = TypeVar("T")
# Called in the decoder's thread: the place of a copy and its event, or what has ended all of them.
Tell = Callable[[int, Event | Exception], None]


class Full(Exception):  # noqa: N818 (reads as the fact)
    """As many replies are being written, or wait, as there is room for."""


class Stopped(Exception):  # noqa: N818 (reads as the fact)
    """No more requests are taken."""


@dataclass(eq=False)
class _Job:
    """The replies to one prompt."""

    copies: Sequence[Request]
    tell: Tell
    running: dict[int, int]  # place of a copy, by its number in the decoder
    left: int  # copies that have not ended
    root: int | None = None  # number of the request that reads the prompt for all copies


class DecoderThread:
    """Answers requests until it is closed.

    Args:
        policy: π_ref and its value models.
        rows: replies that are written at once.
        waiting: replies that may wait for a row.
    """

    def __init__(self, policy: GuidedPolicy, rows: int, waiting: int) -> None:
        self.policy, self.rows, self.room = policy, rows, rows + waiting
        self._decoder = self._fresh()
        self._commands: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._jobs: dict[int, _Job] = {}  # by ticket
        self._tickets: dict[int, int] = {}  # ticket, by a number in the decoder
        self._numbers, self._lock = count(1), threading.Lock()
        self._open, self._over = True, threading.Event()
        self.in_flight = 0  # replies that are being written or wait
        self._thread = threading.Thread(target=self._run, name="mavis-decoder", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Replies that have a row."""
        return min(self.in_flight, self.rows)

    @property
    def open(self) -> bool:
        """Whether new requests are taken."""
        return self._open and self._thread.is_alive()

    def submit(self, copies: Sequence[Request], tell: Tell) -> int:
        """Let replies to one prompt be written.

        Args:
            copies: a request for each; they differ in nothing but their random stream.
            tell: what to call with every event.

        Returns:
            a ticket for `cancel`.

        Raises:
            Full: there is no room for them.
            Stopped: it is closing.
        """
        with self._lock:
            if not self._open:
                raise Stopped
            if self.in_flight + len(copies) > self.room:
                raise Full
            self.in_flight += len(copies)
        ticket = next(self._numbers)
        self._commands.put(lambda: self._begin(ticket, _Job(copies, tell, {}, len(copies))))
        return ticket

    def cancel(self, ticket: int) -> None:
        """Forget the replies of a ticket; those that have ended are gone already."""
        self._commands.put(lambda: self._forget(ticket))

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Run something with the models between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # the caller's: it hears of it by the future
                future.set_exception(error)

        self._commands.put(run)
        return future

    def close(self, patience: float) -> None:
        """Take no more requests; wait so many seconds for those that there are, then end them."""
        with self._lock:
            self._open = False
        self._commands.put(lambda: None)  # wakes the thread
        self._over.wait(patience)
        self._commands.put(self._thread_ends)
        self._thread.join(30.0)

    # In the decoder's thread

    def _run(self) -> None:
        try:
            while True:
                self._obey()
                if not self._decoder.idle:
                    self._step()
                elif not self._open:
                    self._over.set()
        except _End:
            self._fail_all(Stopped("the server is stopping."))
        finally:
            self._open = False
            self._over.set()

    def _obey(self) -> None:
        """Do what was asked for in the meantime; wait for it where there is nothing else to do."""
        wait = self._decoder.idle
        while True:
            try:
                command = self._commands.get(block=wait)
            except Empty:
                return
            command()
            wait = False

    def _begin(self, ticket: int, job: _Job) -> None:
        self._jobs[ticket] = job
        first = job.copies[0]
        try:
            if len(job.copies) == 1:
                self._added(ticket, job, [self._decoder.add(first)])
            else:  # the prompt is read once, and the copies fork from there
                root = replace(first, limit=0, hold=True, top=0, attributed=False)
                job.root = self._decoder.add(root)
                self._tickets[job.root] = ticket
        except Exception as error:  # what the checks of the server let through
            self._end(ticket, error)

    def _added(self, ticket: int, job: _Job, numbers: Sequence[int]) -> None:
        job.running |= {number: place for place, number in enumerate(numbers)}
        self._tickets |= dict.fromkeys(numbers, ticket)

    def _step(self) -> None:
        try:
            events = self._decoder.step()
        except Exception as error:  # its rows may have read more than they said: begin anew
            self._decoder = self._fresh()
            self._fail_all(error)
            return
        for event in events:
            ticket = self._tickets[event.id]
            job = self._jobs[ticket]
            if event.id == job.root:
                del self._tickets[event.id]
                job.root = None
                self._added(ticket, job, self._decoder.fork(event.id, job.copies))
                continue
            job.tell(job.running[event.id], event)
            if event.finished:
                del self._tickets[event.id], job.running[event.id]
                self._ended(ticket, job, 1)

    def _ended(self, ticket: int, job: _Job, count: int) -> None:
        job.left -= count
        with self._lock:
            self.in_flight -= count
        if not job.left:
            del self._jobs[ticket]

    def _forget(self, ticket: int) -> None:
        job = self._jobs.get(ticket)
        if job is None:
            return
        for number in [*job.running, *([] if job.root is None else [job.root])]:
            self._decoder.cancel(number)
            del self._tickets[number]
        self._ended(ticket, job, job.left)

    def _end(self, ticket: int, error: Exception) -> None:
        job = self._jobs[ticket]
        self._forget(ticket)
        job.tell(0, error)

    def _fail_all(self, error: Exception) -> None:
        self._tickets.clear()
        for ticket, job in list(self._jobs.items()):
            self._ended(ticket, job, job.left)
            job.tell(0, error)

    def _fresh(self) -> Decoder:
        policy = self.policy
        return Decoder(policy.reference, policy.guides, policy.rule, self.rows)

    def _thread_ends(self) -> Any:
        raise _End


class _End(Exception):  # noqa: N818 (reads as the fact)
    """The decoder's thread is to end."""
