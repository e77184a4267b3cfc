"""How much a command prints beside its results: `-q` no bars, `-v` what libraries print, too.

Libraries print warnings, log records, progress bars and telemetry notices, none of which a person
who runs a command can act on; so they are silenced. Warnings of mavis itself always show, in a
line each.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from mavis.hub import MavisWarning

Loudness = Literal["quiet", "normal", "verbose"]

_NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_DISABLE_TELEMETRY": "true"}
_SETTINGS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # those of transformers, too
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",  # else it warns when a process forks
}

_now: ContextVar[Loudness] = ContextVar("loudness", default="normal")


@contextmanager
def loudness(level: Loudness) -> Iterator[None]:
    """Set how much is printed within this block."""
    token = _now.set(level)
    try:
        yield
    finally:
        _now.reset(token)


def quiet() -> bool:
    """Whether only results and errors are wanted."""
    return _now.get() == "quiet"


def verbose() -> bool:
    """Whether libraries may print, too."""
    return _now.get() == "verbose"


def settle(speak: bool = False) -> None:
    """Set what libraries read when they are imported; what the user has set stays as it is.

    Args:
        speak: whether they may print what they like. No telemetry is ever sent.
    """
    for name, value in (_NO_TELEMETRY if speak else _NO_TELEMETRY | _SETTINGS).items():
        os.environ.setdefault(name, value)


def hush() -> None:
    """Show no warnings and no log records of libraries for the rest of this process.

    Python's own switches (`-W`, PYTHONWARNINGS) come first.
    """
    # A logger without a handler prints on stderr, unless the root logger has one.
    logging.getLogger().addHandler(logging.NullHandler())
    if not sys.warnoptions:
        # Filters would not do: libraries put filters of their own in front of ours when imported.
        warnings.showwarning = _show
        warnings.simplefilter("always", MavisWarning)


def _show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning of ours in a line; others not at all."""
    if issubclass(category, MavisWarning):
        print(f"mavis: warning: {message}", file=sys.stderr)
