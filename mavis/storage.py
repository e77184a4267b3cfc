"""What a run has finished, on disk, in small steps: killed at any moment, it goes on from there.

A `Shards` folder holds rows of one kind as Arrow tables, one sub-folder per write. A shard is made
under another name and renamed when it is whole, so what is there is complete; one that was damaged
since is put aside, and its rows are made again.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars, load_from_disk
from filelock import FileLock, Timeout

from mavis.checksums import DRAFT, DamagedError, check, install, seal

Row = dict[str, Any]

LONGEST = 20.0  # seconds that rows wait to be written together
CPU = "cpu_seconds"  # of a row


@dataclass(frozen=True)
class Shards:
    """A growing table in a folder.

    Args:
        folder: where.
        writer: number of the process that writes; each writes shards of its own.
    """

    folder: Path
    writer: int = 0

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows as a shard of their own, all or nothing."""
        if not rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shards = self.folder.glob(f"{self.writer:03d}-*")  # damaged ones keep their numbers
        taken = [int(shard.name[4:9]) for shard in shards if shard.suffix != DRAFT]
        final = self.folder / f"{self.writer:03d}-{1 + max(taken, default=-1):05d}"
        draft = final.with_name(final.name + DRAFT)
        shutil.rmtree(draft, ignore_errors=True)
        disable_progress_bars()
        Dataset.from_list(list(rows)).save_to_disk(draft)
        seal(draft)
        draft.rename(final)

    def rows(self) -> list[Row]:
        """All rows that any process has written and that are as they were written."""
        shards = sorted(self.folder.glob("*-*[0-9]")) if self.folder.is_dir() else []
        return [row for shard in shards for row in _rows(shard)]

    def gather(self, rows: Iterable[Row], size: int) -> None:
        """Write rows as they come, `size` at a time; what came before a failure is kept.

        Rows that are slow to make are not waited for: a process that is killed loses seconds.

        Each row holds the CPU time that it took, so that an interrupted run knows its whole cost.
        """
        waiting: list[Row] = []
        before, written = time.process_time(), time.monotonic()
        try:
            for row in rows:
                now = time.process_time()
                waiting.append(row | {CPU: now - before})
                before = now
                if len(waiting) >= size or time.monotonic() - written > LONGEST:
                    written = time.monotonic()
                    ready, waiting = waiting, []
                    self.append(ready)
        finally:
            self.append(waiting)


def _rows(shard: Path) -> list[Row]:
    """The rows of a shard; none if it is damaged: it is named, and put out of the way."""
    try:
        check(shard)
        rows: list[Row] = load_from_disk(shard).to_list()
        return rows
    except PermissionError:
        raise
    except (ValueError, OSError, LookupError, TypeError) as error:  # `datasets` has no one class
        if not shard.is_dir():  # another process came first
            return []
        aside = shard.with_name(shard.name + ".damaged")
        shard.rename(aside)
        file = error.file if isinstance(error, DamagedError) else shard
        print(
            f"mavis: {file} is damaged: {shard.name} is kept as {aside.name}, and what it held is "
            "made again.",
            file=sys.stderr,
        )
        return []


def spent(folders: Iterable[Path]) -> float:
    """CPU seconds that the rows of shards took, whichever processes made them."""
    return float(sum(row.get(CPU, 0.0) for folder in folders for row in Shards(folder).rows()))


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file with a checksum, all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + DRAFT)
    draft.write_text(json.dumps(legal(content), indent=2) + "\n", encoding="utf-8")
    install(draft, file)


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is none, or not what was written; it is named.
    """
    check(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON, so it is broken or not ours: {error}") from error


def legal(content: Any) -> Any:
    """What JSON can hold: null in place of NaN and infinities.

    >>> legal({"r2": math.nan, "kl": [0.5]})
    {'r2': None, 'kl': [0.5]}
    """
    if isinstance(content, dict):
        return {name: legal(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [legal(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file or folder under another name, and rename it when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + DRAFT)
    if draft.is_dir():  # of a process that was killed
        shutil.rmtree(draft)
    write(draft)
    if file.is_dir():
        old = file.with_name(file.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        file.rename(old)
        draft.rename(file)
        shutil.rmtree(old)
    else:
        draft.replace(file)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, until this one leaves it or dies.

    Raises:
        RuntimeError: another one is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise RuntimeError(
            f"another run is at work in {folder}: wait for it, or give another --out."
        ) from error


def check_same(folder: Path, what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to mix results of different settings in one folder.

    Raises:
        ValueError: a setting that was written down before has another value now.
    """
    for name, value in now.items():
        was = before.get(name, value)
        if was != value:
            digests = isinstance(value, list) and name in {"prompts", "rewards"}
            if digests or name == "reference_weights":
                difference = f"other {name.replace('_', ' ')}"
            else:
                difference = f"{name} = {was}, not {value}"
            raise ValueError(f"{folder} holds a {what} with {difference}: give another --out.")


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Cut a sequence into pieces of at most `size`."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
