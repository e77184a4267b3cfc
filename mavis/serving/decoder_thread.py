"""One thread steps the decoder; requests come and go by a queue of commands.

Nothing else touches the decoder or the models. A step serves all rows, whatever their weights, so
that a request that comes while others are running takes part in the next step.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from mavis.decoding.decoder import Decoder
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import Event, Request

T = TypeVar("T")
# Called with the place of a copy and its event, or with what has ended all of them.
Tell = Callable[[int, Event | Exception], None]
News = list[tuple[Tell, int, Event | Exception]]


class Full(Exception):  # noqa: N818 (reads as the fact)
    """As many replies are being written, or wait, as there is room for."""


class Stopped(Exception):  # noqa: N818 (reads as the fact)
    """No more requests are taken."""


@dataclass(eq=False)
class _Job:
    """The replies to one prompt."""

    copies: Sequence[Request]
    tell: Tell
    loop: asyncio.AbstractEventLoop | None
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
        # What is to be done with the models, one thing between two steps.
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._jobs: dict[int, _Job] = {}  # by ticket
        self._tickets: dict[int, int] = {}  # ticket, by a number in the decoder
        self._numbers, self._lock = count(1), threading.Lock()
        self._open, self._over = True, threading.Event()
        self.in_flight = 0  # replies that are being written or wait, and calls that wait
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

    def submit(
        self,
        asked: Sequence[tuple[Sequence[Request], Tell]],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> list[int]:
        """Let the replies to some prompts be written: to all of them, or to none.

        Args:
            asked: for each prompt a request for each reply, which differ in nothing but their
                random streams, and what to call with every event.
            loop: where it is called; None: in the decoder's thread. A loop is woken once a step.

        Returns:
            a ticket for each prompt, for `cancel`.

        Raises:
            Full: there is no room for them.
            Stopped: it is closing.
        """
        self._reserve(sum(len(copies) for copies, _ in asked))
        tickets = []
        for copies, tell in asked:
            tickets.append(ticket := next(self._numbers))
            job = _Job(copies, tell, loop, {}, len(copies))
            self._commands.put(partial(self._begin, ticket, job))
        return tickets

    def _reserve(self, count: int) -> None:
        with self._lock:
            if not self._open:
                raise Stopped
            if self.in_flight + count > self.room:
                raise Full
            self.in_flight += count

    def _release(self, count: int) -> None:
        with self._lock:
            self.in_flight -= count

    def cancel(self, ticket: int) -> None:
        """Forget the replies of a ticket; those that have ended are gone already."""
        self._commands.put(lambda: self._forget(ticket))

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Run something with the models between two steps; it takes the place of a reply.

        Raises:
            Full: there is no room for it.
            Stopped: it is closing.
        """
        self._reserve(1)
        future: Future[T] = Future()
        self._commands.put(partial(self._calls.append, (future, work)))
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
                try:
                    self._obey()
                    self._step()
                except _End:
                    return
                except Exception as error:  # its rows may have read more than they said
                    self._decoder = self._fresh()
                    self._fail_all(error)
        finally:
            self._open = False
            self._end_all()
            self._over.set()

    def _end_all(self) -> None:
        """Let everybody know who still waits for something."""
        with suppress(Empty):
            while True:
                with suppress(_End):
                    self._commands.get_nowait()()
        self._fail_all(Stopped())
        for future, _ in self._calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(Stopped())

    @property
    def _idle(self) -> bool:
        return self._decoder.idle and not self._calls

    def _obey(self) -> None:
        """Do what was asked for in the meantime; wait for it where there is nothing else to do."""
        if self._idle and not self._open:
            self._over.set()
        wait = self._idle
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
        """Do one thing that waits for its turn, and add a token to every running reply."""
        if self._calls:
            self._do(*self._calls.popleft())
        news: dict[asyncio.AbstractEventLoop | None, News] = {}
        for event in [] if self._decoder.idle else self._decoder.step():
            ticket = self._tickets[event.id]
            job = self._jobs[ticket]
            if event.id == job.root:
                del self._tickets[event.id]
                job.root = None
                self._added(ticket, job, self._decoder.fork(event.id, job.copies))
                continue
            place = job.running[event.id]
            if event.finished:
                del self._tickets[event.id], job.running[event.id]
                self._ended(ticket, job, 1)
            news.setdefault(job.loop, []).append((job.tell, place, event))
        for loop, some in news.items():
            _deliver(loop, some)

    def _do(self, future: "Future[Any]", work: Callable[[], Any]) -> None:
        self._release(1)
        if not future.set_running_or_notify_cancel():  # nobody waits for it any more
            return
        try:
            future.set_result(work())
        except Exception as error:  # the caller's: it hears of it by the future
            future.set_exception(error)

    def _ended(self, ticket: int, job: _Job, count: int) -> None:
        job.left -= count
        self._release(count)
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
        _deliver(job.loop, [(job.tell, 0, error)])

    def _fail_all(self, error: Exception) -> None:
        self._tickets.clear()
        for ticket, job in list(self._jobs.items()):
            self._ended(ticket, job, job.left)
            _deliver(job.loop, [(job.tell, 0, error)])

    def _fresh(self) -> Decoder:
        policy = self.policy
        return Decoder(policy.reference, policy.guides, policy.rule, self.rows)

    def _thread_ends(self) -> Any:
        raise _End


def _deliver(loop: asyncio.AbstractEventLoop | None, news: News) -> None:
    """Tell what there is to be told, in a loop or here."""
    if loop is None:
        _tell(news)
        return
    with suppress(RuntimeError):  # the server has stopped: nobody listens any more
        loop.call_soon_threadsafe(_tell, news)


def _tell(news: News) -> None:
    for tell, place, event in news:
        tell(place, event)


class _End(Exception):  # noqa: N818 (reads as the fact)
    """The decoder's thread is to end."""
