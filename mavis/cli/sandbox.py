"""`mavis sandbox build`: rebuild the shipped models, rewards and prompts from a seed.

Everything is written to a folder beside the target, which replaces the target at the end, so a
killed build changes nothing. This module is light to import; `mavis.sandbox.make` does the work.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

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
    from mavis.checksums import DRAFT
    from mavis.sandbox.make import make  # heavy
    from mavis.storage import write_whole

    target = Path(out) if out else ASSETS
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    card: dict[str, Any] = {}

    def write(folder: Path) -> None:
        folder.mkdir()
        with Progress(*columns, TimeElapsedColumn(), console=Console(file=sys.stderr)) as bars:
            card.update(make(folder, seed, dialogues, answers, bars))

    try:
        write_whole(target, write)
    finally:
        shutil.rmtree(target.with_name(target.name + DRAFT), ignore_errors=True)
    print(json.dumps({"out": str(target), **card}))
