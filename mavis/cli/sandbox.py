"""`mavis sandbox build`: rebuild the shipped models, rewards and prompts from a seed.

Everything is written to a folder beside the target, which replaces the target at the end, so a
killed build changes nothing. This module is light to import; `mavis.sandbox.make` does the work.
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
FEWEST = 64  # minimum number of training dialogues, and of training answers


def build(
    out: str | None = None, seed: int = 0, dialogues: int = 60000, answers: int = 60000
) -> None:
    """Rebuild the sandbox: its reference model, reward classifiers and prompts.

    Args:
        out: output folder, which is replaced if it exists (default: the folder in the package)
        seed: seed of all random draws; the same seed gives the same files on the same machine
        dialogues: number of dialogues that the reference model is trained on
        answers: number of good and corrupted answers that the reward models are trained on

    Raises:
        ValueError: there are too few dialogues or answers to train on.
    """
    for name, value in {"dialogues": dialogues, "answers": answers}.items():
        if value < FEWEST:
            raise ValueError(f"{name} must be at least {FEWEST}, got {value}.")
    from mavis.sandbox.make import make  # heavy

    target = Path(out) if out else ASSETS
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars = Progress(*columns, TimeElapsedColumn(), console=Console(file=sys.stderr))
    with _replacing(target) as folder, bars:
        card = make(folder, seed, dialogues, answers, bars)
    print(json.dumps({"out": str(target), **card}))


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a fresh folder that replaces `target` on success and is deleted on failure."""
    # Hidden names that only this process has: nothing of the user's lies there.
    fresh = target.with_name(f".{target.name}-{os.getpid()}-new")
    stale = target.with_name(f".{target.name}-{os.getpid()}-old")
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if target.is_dir():
            target.rename(stale)
        elif target.exists():
            target.unlink()
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)
