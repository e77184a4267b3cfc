"""Being told to stop: SIGTERM and SIGHUP end a command as an interrupt does.

Schedulers, containers and closed terminals stop a process by these signals. Left alone, they end
Python at once: nothing that is finished but not yet written is kept.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

NAMES = ("SIGTERM", "SIGHUP")  # the second is not there on Windows
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Terminated(BaseException):
    """This process was told to end; no error, and nobody on the way out may take it for one.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number  # as shells count: 143 for SIGTERM, 129 for SIGHUP


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within this block, such a signal raises `Terminated` in the main thread.

    So every `finally` and `with` on the way out does its work. A signal that somebody handles or
    ignores already (`nohup`) is left to them, and so are all of them in other threads, where Python
    cannot listen to any.
    """
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [one for one in SIGNALS if signal.getsignal(one) is signal.SIG_DFL]
    try:
        for one in ours:
            signal.signal(one, _stop)
        yield
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - as Python calls it
    raise Terminated(number)
