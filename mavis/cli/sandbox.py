"""`mavis sandbox build`: the shipped models, rewards and prompts again, from a seed.

Everything is written beside the target and takes its place at the end, so a killed build changes
nothing. Light to import; `make` does the work.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ASSETS = Path(__file__).parents[1] / "sandbox" / "assets"
FEWEST = 64  # dialogues or answers to train on


def build(
    out: str | None = None, seed: int = 0, dialogues: int = 60000, answers: int = 60000
) -> None:
    """Make the sandbox anew: reference model, reward classifiers and prompts.

    Args:
        out: Folder to put them in; replaced if it is there. Default: the package's own.
        seed: Seed of everything; the same seed gives the same files on the same machine.
        dialogues: How many dialogues the reference model reads.
        answers: How many answers, good and spoilt, the reward models read, twice.

    Raises:
        ValueError: if there are too few dialogues or answers to train on.
    """
    for name, value in {"dialogues": dialogues, "answers": answers}.items():
        if value < FEWEST:
            raise ValueError(f"{name} must be at least {FEWEST}, got {value}.")
    from mavis.sandbox.make import make  # heavy

    target = Path(out) if out else ASSETS
    with _replacing(target) as folder, _bars() as bars:
        card = make(folder, seed, dialogues, answers, bars)
    print(json.dumps({"out": str(target), **card}))


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a folder to write in; it becomes `target` if all goes well and vanishes if not."""
    fresh = target.with_name(f".{target.name}-{os.getpid()}-new")
    stale = target.with_name(f".{target.name}-{os.getpid()}-old")
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if target.exists():
            target.rename(stale)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)


def _bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=Console(file=sys.stderr))
