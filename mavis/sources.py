"""Sources of rows: where a data set lies, which splits it has, and what is in its files.

Local files are read here and now, without a cache that could grow stale; `datasets` is imported
for its own folders and for the hub only. Knows nothing of what the rows mean.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mavis.names import locate, reachable

Rows = Iterable[Any]  # mappings of columns, or bare values

SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".parquet")
_SHARD = re.compile(r"-\d+-of-\d+$")


def splits(source: str) -> dict[str, Callable[[], Rows]]:
    """Find the splits of a source; none is read before it is called.

    Args:
        source: `sandbox/NAME`, a local file or folder, `MODULE:FUNCTION`, or
            `HUB-NAME[:CONFIGURATION]`. What has no splits of its own is all "train".

    Raises:
        FileNotFoundError: A missing file, folder or data set.
        ValueError: A function that cannot be imported.
    """
    if source.endswith((*SUFFIXES, ".gz")) and not Path(source).expanduser().is_file():
        raise FileNotFoundError(f"prompts {source!r}: there is no such file.")
    head, colon, tail = source.partition(":")
    if colon and "/" not in source and not Path(source).exists():
        return {"train": function(source, "prompts")}
    place = Path(locate(head if colon else source, "prompts"))
    if place.is_dir():
        return _folder(place)
    if place.exists():
        return {"train": partial(_rows, [place])}
    return _hub(reachable(head, "prompts", "dataset"), tail or None)


def _folder(place: Path) -> dict[str, Callable[[], Rows]]:
    if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
        from datasets import DatasetDict, load_from_disk

        saved = load_from_disk(str(place))
        parts = saved if isinstance(saved, DatasetDict) else {"train": saved}
        return {str(name): partial(iter, part) for name, part in parts.items()}
    files: dict[str, list[Path]] = {}
    for path in sorted(place.iterdir()):
        if _suffix(path):
            files.setdefault(_SHARD.sub("", path.name.split(".")[0]), []).append(path)
    if not files:
        raise FileNotFoundError(
            f"prompts folder {str(place)!r} holds no {', '.join(SUFFIXES)} file and no data set."
        )
    return {name: partial(_rows, paths) for name, paths in files.items()}


def _hub(name: str, configuration: str | None) -> dict[str, Callable[[], Rows]]:
    from datasets import get_dataset_split_names, load_dataset

    names = get_dataset_split_names(name, configuration)
    return {split: partial(load_dataset, name, configuration, split=split) for split in names}


def _suffix(path: Path) -> str:
    """The suffix that says what is in a file, "" if it is none of ours."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return suffix if suffix in SUFFIXES else ""


def _rows(paths: list[Path]) -> list[Any]:
    return [row for path in paths for row in _read(path)]


def _read(path: Path) -> list[Any]:
    suffix = _suffix(path)
    if not suffix:
        raise ValueError(f"file must end in {', '.join(SUFFIXES)}, got {str(path)!r}.")
    try:
        if suffix == ".parquet":
            return _parquet(path)
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
        return _READERS[suffix](text)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise ValueError(f"file {str(path)!r} cannot be read: {error}") from error


def _parquet(path: Path) -> list[Any]:
    from pyarrow import parquet  # type: ignore[import-untyped]

    return list(parquet.read_table(path).to_pylist())


def _json(text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError:
        return _json_lines(text)
    return rows if isinstance(rows, list) else [rows]


def _json_lines(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON ({error}).") from error
    return rows


def _csv(text: str) -> list[Any]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = reader.fieldnames or ()
    if len(set(names)) < len(names):
        raise ValueError(f"a column comes twice: {', '.join(names)}.")
    rows = list(reader)
    for number, row in enumerate(rows, 1):
        if None in row:  # where the reader puts what is too much
            raise ValueError(f"row {number} has more cells than there are columns.")
    return rows


def _lines(text: str) -> list[Any]:
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


_READERS = {".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".txt": _lines}


def function(path: str, what: str) -> Callable[..., Any]:
    """The function behind `MODULE.FUNCTION` or `MODULE:FUNCTION`."""
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{what} {path!r} cannot be imported ({error}); is its folder on PYTHONPATH?"
        ) from error
    if not callable(found):
        raise ValueError(f"{what} must be a function, but {path!r} is {found!r}.")
    return found  # type: ignore[no-any-return]
