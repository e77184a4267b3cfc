"""Keep other libraries quiet on the command line, so that what stands there is ours.

Every library has a voice of its own: warnings, loggers, progress bars, telemetry. A person who runs
a command can act on none of it. Warnings of mavis itself always show, in a line each.
"""

import logging
import os
import sys
import warnings
from typing import TextIO

from mavis.hub import MavisWarning

_NEVER = {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_DISABLE_TELEMETRY": "true"}
_SETTINGS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # those of transformers, too
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",  # else it warns when a process forks
}


def settle(speak: bool = False) -> None:
    """Set what libraries read when they are imported; what the user has set stays as it is.

    Args:
        speak: whether they may say what they like. Nothing is ever sent to anybody.
    """
    for name, value in (_NEVER if speak else _NEVER | _SETTINGS).items():
        os.environ.setdefault(name, value)


def hush() -> None:
    """Show no warnings and no log records of libraries for the rest of this process.

    Python's own switches (`-W`, PYTHONWARNINGS) have the first word.
    """
    # A logger without a handler prints on stderr, unless the root logger has one.
    logging.getLogger().addHandler(logging.NullHandler())
    if not sys.warnoptions:
        # Filters would not do: libraries put filters of their own in front of ours when imported.
        warnings.showwarning = _show
        warnings.simplefilter("always", MavisWarning)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001 - the signature is Python's
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Print a warning of ours in a line; others not at all."""
    if issubclass(category, MavisWarning):
        print(f"mavis: warning: {message}", file=file or sys.stderr)
