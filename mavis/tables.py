"""Tables: the rows in a file, whatever kind of file it is.

Files are read row by row, here and now, without a cache that could grow stale. What can be read
in more than one way is refused, with its line. Knows nothing of what the rows mean.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from mavis.error_text import message

_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DISGUISED = {
    b"PK\x03\x04": "it is a zip archive (or a spreadsheet): unpack it, or export it as CSV.",
    b"PAR1": "it is a Parquet file: let its name end in .parquet.",
    b"\x1f\x8b\x08": "it is compressed by gzip: let its name end in .gz.",
}
_SEPARATORS = ",;\t|"
_WIDEST = 10_000  # columns: what has more is no table
_TRIED = 1000  # records that decide between two possible separators
_SPACE = re.compile(r"[ \t\r\n]*")


class Record(dict[str, str]):
    """A row of a CSV file: its columns are named by the first line, whatever that holds."""


def suffix(path: Path) -> str:
    """The suffix of a file without .gz, in lower case; "" if it is none of `SUFFIXES`."""
    name = Path(path.stem) if path.suffix.lower() == ".gz" else path
    return name.suffix.lower() if name.suffix.lower() in SUFFIXES else ""


def read(path: Path) -> Iterator[Any]:
    """The rows of a file one by one: mappings of columns, or bare values.

    Raises:
        ValueError: The file is none of ours, is broken, or could be read in several ways.
    """
    kind = suffix(path)
    if not kind:
        raise ValueError(
            f"file must end in {', '.join(SUFFIXES)} (all but Parquet also with .gz after it),"
            f" got {str(path)!r}."
        )
    try:
        yield from _READERS[kind](path)
    except RecursionError as error:
        raise ValueError(f"file {str(path)!r} cannot be read: it is nested too deep.") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"file {str(path)!r} cannot be read: {message(error, 1000)}") from error


# Text


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb"))


def _lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a text in UTF-8, or in the encoding that its byte order mark names."""
    with _open(path) as binary:
        head = binary.read(4)
        for start, hint in _DISGUISED.items():
            if head.startswith(start):
                raise ValueError(hint)
        encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
        binary.seek(0)
        text = io.TextIOWrapper(binary, encoding, newline=newline)
        try:
            for number, line in enumerate(text, 1):
                if "\0" in line:
                    raise ValueError(
                        f"line {number} holds a NUL character: it is no text file, or one in"
                        " UTF-16 without a byte order mark; save it as UTF-8."
                    )
                yield line
        except UnicodeDecodeError as error:
            raise ValueError(_undecodable(path, encoding)) from error


def _undecodable(path: Path, encoding: str) -> str:
    """Where a text is not what it should be; decoders work on chunks and count no lines."""
    if encoding.startswith("utf-8"):
        with _open(path) as binary:
            for number, line in enumerate(binary, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = f"byte {line[error.start]:#04x} at place {error.start + 1}"
                    return f"line {number} is not UTF-8 ({byte}): save the file as UTF-8."
    return f"it begins as {encoding.upper()} but does not go on so: save it as UTF-8."


def _text(path: Path) -> Iterator[str]:
    lines = (line.rstrip("\r\n") for line in _lines(path) if line.strip())
    for number, line in enumerate(lines):
        if number == 0 and line.lstrip().startswith('{"') and line.rstrip().endswith("}"):
            raise ValueError("its first line is a JSON object: let its name end in .jsonl.")
        if number == 0 and "\t" in line.strip():
            raise ValueError("its first line has a tab: let its name end in .tsv if it is a table.")
        yield line


# JSON


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {twice[:60]!r} twice")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _values(text: str) -> Iterator[Any]:
    """The JSON values in a text, one after another."""
    at = 0
    while (at := cast(re.Match[str], _SPACE.match(text, at)).end()) < len(text):
        value, at = _DECODER.raw_decode(text, at)
        yield value


def _json_lines(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_lines(path), 1):
        try:
            if line.strip():
                yield _DECODER.decode(line.strip())
        except json.JSONDecodeError as error:
            whole = number == 1 and line.strip() in ("[", "{")
            hint = "; if the file is a single JSON value, let its name end in .json" * whole
            place = f"{error.msg} at place {error.colno}"
            raise ValueError(f"line {number} is not JSON ({place}){hint}.") from error
        except ValueError as error:
            raise ValueError(f"line {number}: {error}.") from error


def _json(path: Path) -> Iterator[Any]:
    try:
        values = list(_values("".join(_lines(path))))
    except json.JSONDecodeError as error:
        place = f"{error.msg} at place {error.colno}"
        raise ValueError(f"line {error.lineno} is not JSON ({place}).") from error
    if len(values) == 1 and isinstance(values[0], list):
        return iter(values[0])
    if len(values) == 1 and isinstance(values[0], dict):
        return iter(table(values[0]))
    return iter(values)


def table(whole: Mapping[str, Any]) -> list[Any]:
    """The rows of a file that is a single mapping: columns of one length, a list of rows, or a row.

    Raises:
        ValueError: Lists of several lengths, which are neither.

    >>> table({"prompt": ["a", "b"], "id": [1, 2]})
    [{'prompt': 'a', 'id': 1}, {'prompt': 'b', 'id': 2}]
    >>> table({"version": 1, "data": [{"prompt": "a"}]})
    [{'prompt': 'a'}]
    """
    lists = {name: value for name, value in whole.items() if isinstance(value, list)}
    if not lists or any(map(_is_chat, lists.values())):
        return [whole]
    if len(lists) == 1:
        (rows,) = lists.values()
        if rows and all(isinstance(row, Mapping) for row in rows):
            return rows
    if len(lists) < len(whole):
        return [whole]
    if len({len(column) for column in lists.values()}) > 1:
        raise ValueError(
            f"it holds lists of several lengths ({', '.join(lists)[:200]}), neither rows nor"
            " columns: give a list of rows, one file per split."
        )
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _is_chat(value: list[Any]) -> bool:
    return bool(value) and all(
        isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value
    )


# CSV


def _records(path: Path, separator: str, spaced: bool = False) -> Iterator[list[str]]:
    csv.field_size_limit(2**31 - 1)  # the module's own limit of 128 KiB is below many a dialogue
    reader = csv.reader(
        _lines(path, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced
    )
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise ValueError(
            f"line {reader.line_num} ends no record ({error}): is a quotation mark left open,"
            " or one inside a text not doubled?"
        ) from error


def _csv(path: Path) -> Iterator[Record]:
    separator = _separator(path)
    header = next(_records(path, separator), [])
    spaced = any(name.startswith(" ") for name in header[1:])  # "a, b": a space after each comma
    records = _records(path, separator, spaced)
    names = [name.strip() for name in next(records, [])]
    if len(set(filter(None, names))) < len([*filter(None, names)]):
        raise ValueError(f"a column comes twice: {', '.join(names)[:200]}.")
    for number, record in enumerate(records, 1):
        if len(record) != len(names):
            amount = "more" if len(record) > len(names) else "fewer"
            raise ValueError(
                f"row {number} has {amount} cells than there are columns: texts that hold"
                f" {separator!r} or a line break must be quoted."
            )
        yield Record(zip(names, record, strict=True))


def _separator(path: Path) -> str:
    """What separates the columns: what divides the header, and fits the rows if several do."""
    usual = "\t" if ".tsv" in path.name.lower() else ","
    wide = [separator for separator in _SEPARATORS if len(_header(path, separator)) > 1]
    if not wide or (usual == "\t" and usual in wide):
        return usual
    fitting = [separator for separator in wide if len(wide) == 1 or _fits(path, separator)]
    if len(fitting) != 1:
        raise ValueError(
            f"its columns may be separated by {' or '.join(map(repr, wide))}: quote the names and"
            " texts that hold any of these."
        )
    return fitting[0]


def _header(path: Path, separator: str) -> list[str]:
    try:
        header = next(_records(path, separator), [])
    except ValueError as error:
        if isinstance(error.__cause__, csv.Error):  # quoted for another separator
            return []
        raise
    if len(header) > _WIDEST:
        raise ValueError(f"its first line has {len(header):,} cells, too many to be a header.")
    return header


def _fits(path: Path, separator: str) -> bool:
    try:
        sizes = {len(record) for record in islice(_records(path, separator), _TRIED)}
    except ValueError:
        return False
    return len(sizes) == 1


# Parquet


def _parquet(path: Path) -> Iterator[Any]:
    from pyarrow import parquet  # type: ignore[import-untyped]

    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError(f"a column comes twice: {', '.join(names)[:200]}.")
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _text,
    ".parquet": _parquet,
}
SUFFIXES = tuple(_READERS)
