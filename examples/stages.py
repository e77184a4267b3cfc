"""Stages of work in a fixed order: which are finished, how long they took, how long it will take.

A file holds the seconds of every stage, so that a later start skips what is finished and knows how
fast this machine is. The commands of a stage run in processes of their own.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

TICK = 60.0  # seconds between two lines about a stage that runs
OVERDUE = 0.25  # of the time that a stage has taken, once that is more than was expected
KEPT = 60.0  # seconds that are as expected, so that a short stage alone does not set the pace


class Stop(Exception):  # noqa: N818 (reads as the fact)
    """Work cannot go on; the message is a whole sentence for people.

    Args:
        message: what is wrong, where, and what to do.
        status: the exit status of the process.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Stage:
    """A piece of work.

    Args:
        name: what it is called.
        minutes: how long it takes on two cores.
        work: what is called, and may be called again after an interruption.
        makes: files and folders that are there when it is finished.
        key: stands for everything it depends on; without one it is never finished for good.
        fixed: whether its time says nothing of the machine's speed.
    """

    name: str
    minutes: float
    work: Callable[[], None]
    makes: tuple[Path, ...] = ()
    key: str = ""
    fixed: bool = False


class Book:
    """The seconds of every stage, in a file: `{name: {"seconds": …, "finished": key or null}}`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.entries: dict[str, dict[str, Any]] = dict(json.loads(file.read_text("utf-8")))
        except (FileNotFoundError, ValueError, TypeError):  # what is finished finds out again
            self.entries = {}

    def seconds(self, stage: Stage) -> float:
        """How long a stage has taken, in all starts."""
        return float(self.entries.get(stage.name, {}).get("seconds", 0.0))

    def was_finished(self, stage: Stage) -> bool:
        """Whether a stage has come to its end, with these settings or with others."""
        return bool(self.entries.get(stage.name, {}).get("finished"))

    def is_finished(self, stage: Stage) -> bool:
        """Whether a stage need not run."""
        finished = self.entries.get(stage.name, {}).get("finished")
        made = all(path.exists() for path in stage.makes)
        return bool(stage.key) and finished == stage.key and made

    def write(self, stage: Stage, seconds: float, finished: bool) -> None:
        """Write down how long a stage has taken up to now."""
        entry = {"seconds": seconds, "finished": stage.key if finished else None}
        self.entries[stage.name] = entry
        draft = self.file.with_name(self.file.name + ".part")
        draft.write_text(json.dumps(self.entries, indent=2) + "\n", encoding="utf-8")
        draft.replace(self.file)


def seconds_left(stages: Sequence[Stage], seconds: Sequence[float], at: int) -> float:
    """How long the stages from `at` on will take, at the pace of those before it.

    Args:
        stages: all stages.
        seconds: how long they have taken, up to the one that is running.
        at: the stage that is running.

    >>> stages = [Stage("a", 10.0, print), Stage("b", 1.0, print)]
    >>> seconds_left(stages, [120.0], 0), seconds_left(stages, [1260.0, 0.0], 1)
    (540.0, 120.0)
    """
    past = [(60 * s.minutes, t) for s, t in zip(stages[:at], seconds, strict=False) if not s.fixed]
    pace = (KEPT + sum(t for _, t in past)) / (KEPT + sum(expected for expected, _ in past))
    ahead = [60 * s.minutes * (1.0 if s.fixed else pace) for s in stages[at:]]
    # A stage that takes longer than expected has a quarter of its time before it, for all we know.
    return max(ahead[0] - seconds[at], OVERDUE * (seconds[at] > ahead[0]) * seconds[at]) + sum(
        ahead[1:]
    )


def run_all(stages: Sequence[Stage], file: Path, check: Callable[[], None]) -> None:
    """Run the stages that are not finished, and say how far they have got.

    Args:
        stages: all stages, in their order.
        file: where their times are kept.
        check: called before anything that takes minutes.
    """
    book = Book(file)
    finished = [book.is_finished(stage) for stage in stages]
    if not all(done for done, stage in zip(finished, stages, strict=True) if stage.key):
        check()
    for at, stage in enumerate(stages):
        if finished[at]:
            minutes = book.seconds(stage) / 60
            print(
                f"[{at + 1}/{len(stages)}] {stage.name}: finished ({minutes:.1f} min)", flush=True
            )
        else:
            _run_one(stages, book, at)
    total = sum(map(book.seconds, stages)) / 60
    print(f"all {len(stages)} stages are finished, in {total:.1f} min")


def _run_one(stages: Sequence[Stage], book: Book, at: int) -> None:
    """Run a stage; its time counts, whatever ends it."""
    stage, began = stages[at], time.monotonic()
    before = 0.0 if book.was_finished(stage) else book.seconds(stage)

    def spent() -> float:
        return before + time.monotonic() - began

    def tick() -> None:
        with suppress(OSError):  # a full disk: the work says so itself
            book.write(stage, spent(), finished=False)
        if not sys.stderr.isatty():  # there the command draws bars
            print(_line(stages, book, at), flush=True)

    book.write(stage, before, finished=False)
    print(_line(stages, book, at), flush=True)
    try:
        with _every(TICK, tick):
            stage.work()
    except BaseException:
        book.write(stage, spent(), finished=False)
        raise
    book.write(stage, spent(), finished=True)


def _line(stages: Sequence[Stage], book: Book, at: int) -> str:
    """How far a stage has got, and all of them."""
    seconds = [book.seconds(stage) for stage in stages[: at + 1]]
    left = seconds_left(stages, seconds, at)
    return (
        f"[{at + 1}/{len(stages)}] {stages[at].name}: {sum(seconds) / 60:.1f} min done, "
        f"about {left / 60:.0f} min left"
    )


@contextmanager
def _every(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Within this block, call something again and again."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(seconds):
            call()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run(words: Sequence[str], keep: Path | None = None, listen: bool = False) -> tuple[int, str]:
    """Run a command in a process of its own, which ends when this one is interrupted or ended.

    Args:
        words: the command.
        keep: a file for what it prints, which is still printed.
        listen: whether to read what it says on stderr, in place of showing it.

    Returns:
        its exit status, and what it said on stderr.
    """
    start = partial(
        subprocess.Popen[str],
        words,
        stdout=subprocess.PIPE if keep else None,
        stderr=subprocess.PIPE if listen else None,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},  # lines come in their order
        start_new_session=True,  # an interrupt comes to this process alone, which passes it on once
    )
    lines = []
    with ThreadPoolExecutor(1) as pool:
        # In a thread, which no signal breaks off: a child that has been started is always known.
        started = pool.submit(start)
        try:
            child = started.result()
            if keep is not None:
                assert child.stdout is not None
                for line in child.stdout:
                    print(line, end="", flush=True)
                    lines.append(line)
            _, said = child.communicate()
        except BaseException as error:
            child = started.result()
            interrupted = isinstance(error, KeyboardInterrupt)
            child.send_signal(signal.SIGINT if interrupted else signal.SIGTERM)
            child.wait()
            raise
    if keep is not None and child.returncode == 0:
        draft = keep.with_name(keep.name + ".part")
        draft.write_text("".join(lines), encoding="utf-8")
        draft.replace(keep)
    return child.returncode, said or ""
