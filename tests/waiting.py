"""Waiting in tests for what other threads do."""

import threading
from collections.abc import Callable


def until(so: Callable[[], bool]) -> None:
    """Wait until something is so; it is an error if that never comes."""
    for _ in range(3000):
        if so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to be so")
