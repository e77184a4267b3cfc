"""Progress bars with rates, on stderr, for whatever takes longer than a moment."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mavis.loudness import quiet

T = TypeVar("T")


class _Rate(TextColumn):
    """Finished units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Show the rate of a task, once there is one."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self._unit}/s" if speed else "", style="cyan")


def drawn() -> bool:
    """Whether bars are wanted and stderr is a terminal: a file would get empty or broken lines."""
    return not quiet() and Console(stderr=True).is_terminal


def track(
    items: Iterable[T], what: str, unit: str, total: int, done: int = 0, printing: bool = False
) -> Iterator[T]:
    """Pass items on, and show how far it has got.

    Args:
        items: what to go through.
        what: what is being done, for people.
        unit: what one item is called, in the plural.
        total: how many there are in all.
        done: how many of them were there before.
        printing: whether each item is printed on stdout when it comes: the bar steps aside.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not drawn()) as progress:
        task = progress.add_task(what, total=total, completed=done)
        for item in items:
            if printing:
                progress.stop()  # while it is drawn, what is printed goes through it to stderr
            yield item
            if printing:
                progress.start()
            progress.advance(task)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep `transformers` from bars of its own over files that are read or written in a moment.

    Downloads keep theirs, and so does whatever the user loads outside.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented to be there
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    shown, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    if not shown:
        yield
        return
    logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.enable_progress_bar()  # with those of downloads
        if not downloads:
            disable_progress_bars()
