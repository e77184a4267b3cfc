"""Signals that stop a process: SIGTERM and SIGHUP end a command as an interrupt does.

Schedulers, containers and closed terminals stop a process by these signals. Left alone, they end
Python at once: nothing that is finished but not yet written is kept.

What a signal or an interrupt raises while Python is in a destructor is lost: Python prints
"Exception ignored" and goes on. So it is raised once more, a moment later.
"""

import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

NAMES = ("SIGTERM", "SIGHUP")  # the second is not there on Windows
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

MOMENT = 0.1  # seconds, in which Python is out of the destructor


class Terminated(BaseException):
    """A signal asks this process to end. It is no error, and no handler may take it for one.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number  # as shells count: 143 for SIGTERM, 129 for SIGHUP


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within this block, such a signal raises `Terminated` in the main thread.

    So every `finally` and `with` on the way out does its work. A signal that is handled or ignored
    already (`nohup`) is left alone; other threads cannot handle signals, so there nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [one for one in SIGNALS if signal.getsignal(one) is signal.SIG_DFL]
    before, late = sys.unraisablehook, list[threading.Timer]()

    def ignored(lost: "sys.UnraisableHookArgs") -> None:
        if (number := _number(lost.exc_value)) is None:
            before(lost)
        else:
            late.append(threading.Timer(MOMENT, interrupt_main, [number]))
            late[-1].daemon = True
            late[-1].start()

    sys.unraisablehook = ignored
    try:
        for one in ours:
            signal.signal(one, _stop)
        yield
    finally:
        sys.unraisablehook = before
        for again in late:
            again.cancel()
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


def _number(error: BaseException | None) -> int | None:
    """The signal that raised this; None: none did."""
    if isinstance(error, Terminated):
        return error.status - 128
    return int(signal.SIGINT) if isinstance(error, KeyboardInterrupt) else None


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - as Python calls it
    raise Terminated(number)
