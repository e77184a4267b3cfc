"""How much a command says beside its results: `-q` no bars, `-v` what libraries say, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Loudness = Literal["quiet", "normal", "verbose"]

_now: ContextVar[Loudness] = ContextVar("loudness", default="normal")


@contextmanager
def loudness(level: Loudness) -> Iterator[None]:
    """Say as much within this block."""
    token = _now.set(level)
    try:
        yield
    finally:
        _now.reset(token)


def quiet() -> bool:
    """Whether only results and errors are wanted."""
    return _now.get() == "quiet"


def verbose() -> bool:
    """Whether libraries may speak."""
    return _now.get() == "verbose"
