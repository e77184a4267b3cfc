"""One request from its first token to its last, or to its client's leaving."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from mavis.decoding.request import Event
from mavis.serving.decoder_thread import DecoderThread, Full, Stopped
from mavis.serving.echo import logprobs
from mavis.serving.errors import Refused
from mavis.serving.fields import Asked
from mavis.serving.meters import Meters
from mavis.serving.prepare import Job
from mavis.serving.replies import Reply, Writer
from mavis.serving.settings import Settings

RETRY = 2  # seconds that a client is asked to wait when there is no room

News = tuple[int, Event | Exception]


class Session:
    """The replies to a request; `close`, which must follow in any case, gives their rows back."""

    def __init__(
        self,
        asked: Asked,
        jobs: list[Job],
        decoding: DecoderThread,
        settings: Settings,
        meters: Meters,
    ) -> None:
        self.asked, self.jobs, self.settings = asked, jobs, settings
        self._decoding, self._meters = decoding, meters
        self.writer = Writer(asked, jobs, decoding.policy.reference)
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._tickets: list[int] = []
        self._echoes: list[Future[dict[str, Any]]] = []
        self._deadline = self._loop.time() + settings.seconds

    def begin(self) -> None:
        """Let the replies be written.

        Raises:
            Refused: there is no room for them, or the server is stopping.
        """
        asked = [(job.copies, self._tell(at)) for at, job in enumerate(self.jobs) if job.limit]
        try:
            self._tickets += self._decoding.submit(asked, self._loop)
            self._echoes += self._echoed()
        except (Full, Stopped) as error:
            self.close()
            raise _refusal(error) from error
        self._meters.tokens.labels("prompt").inc(sum(len(job.tokens) for job in self.jobs))

    def close(self) -> None:
        """Give the rows back; if replies are still being written, their client has gone."""
        if any(not reply.finished for reply in self.writer.replies if reply.job.limit):
            self._meters.unfinished.inc()
        for ticket in self._tickets:
            self._decoding.cancel(ticket)
        for echo in self._echoes:
            echo.cancel()

    def _tell(self, at: int) -> Any:
        first = at * self.asked.n

        def tell(copy: int, event: Event | Exception) -> None:
            self._news.put_nowait((first + copy, event))

        return tell

    def _echoed(self) -> "list[Future[dict[str, Any]]]":
        top, policy = self.asked.top, self._decoding.policy
        if not self.asked.echo or top is None:
            return []
        return [self._decoding.call(partial(logprobs, policy, job, top)) for job in self.jobs]

    async def echoed(self) -> list[dict[str, Any]]:
        """The log-probabilities of each prompt's tokens, where they are asked for.

        Raises:
            Refused: it has taken too long, or a model failed.
        """
        waiting = asyncio.gather(*map(asyncio.wrap_future, self._echoes))
        try:
            return list(await asyncio.wait_for(waiting, self._deadline - self._loop.time()))
        except TimeoutError as error:
            raise self._late() from error
        except (ValueError, RuntimeError, Stopped) as error:
            raise _refusal(error) from error

    def _late(self) -> Refused:
        return Refused(504, f"the reply took more than {self.settings.seconds:g} s.")

    async def events(self) -> AsyncIterator[tuple[Reply, str, Event] | None]:
        """Every token as it comes, with the text that has become certain; None: none for a while.

        Raises:
            Refused: a model failed, the server is stopping, or it has taken too long.
        """
        left = sum(1 for reply in self.writer.replies if reply.job.limit)
        begun, last = time.monotonic(), dict[int, float]()
        while left:
            patience = min(self.settings.keep_alive, self._deadline - self._loop.time())
            if patience <= 0:
                raise self._late()
            try:
                async with asyncio.timeout(patience):
                    at, event = await self._news.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(event, Exception):
                raise _refusal(event) from event
            now, reply = time.monotonic(), self.writer.replies[at]
            if at in last:
                self._meters.next.observe(now - last[at])
            else:
                self._meters.first.observe(now - begun)
            last[at] = now
            self._meters.written.inc()
            left -= bool(event.finished)
            yield reply, reply.add(event), event


def _refusal(error: Exception) -> Refused:
    """What a client is told of errors of the decoder's thread."""
    if isinstance(error, Full):
        return Refused(429, "as many replies as there is room for are being written.", retry=RETRY)
    if isinstance(error, Stopped):
        return Refused(503, "the server is stopping.", retry=RETRY)
    return Refused(500, f"the reply could not be written: {error}")
