"""Prompts: what they look like, and where they are read from.

A prompt is a string or a chat. Prompts come out in the order of their source, each once, and
splits that are cut here share none. Knows nothing of models or tokens.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Literal

from mavis.data_files import splits, usual
from mavis.dialogues import ASSISTANT, HUMAN, Message, is_nothing, parted
from mavis.tables import Record

Prompt = str | list[Message]

COLUMNS = (
    *("prompt", "question", "instruction", "messages", "conversations", "conversation"),
    *("chosen", "text"),
)
_REPLIES = ("chosen", "rejected")  # columns that hold replies, after their prompts or alone
_TENTHS = {8: "validation", 9: "test"}  # the rest of the tenths is for training


class BadRow(ValueError):  # noqa: N818 (reads as the fact)
    """A row of a source holds no prompt, or none that can be understood."""


def plain(prompt: Prompt) -> str:
    r"""The text that a reward is given for a prompt.

    A string stays as it is, a single user message is its content, and a longer chat becomes a
    dialogue with an open last turn, any system text first.

    >>> plain([{"role": "user", "content": "Why?"}])
    'Why?'
    >>> plain([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}])
    'Be kind.\n\nHuman: Why?\n\nAssistant:'
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    heads = {"user": HUMAN + " ", "assistant": ASSISTANT + " "}
    return "".join(heads.get(turn["role"], "") + turn["content"] for turn in prompt) + ASSISTANT


def digest(prompt: Prompt) -> str:
    """A short digest of a prompt, to find out whether a model has seen it in training.

    >>> digest("Why?") == digest([{"role": "user", "content": "Why?"}])
    True
    """
    return hashlib.sha256(plain(prompt).encode(errors="replace")).hexdigest()[:16]


def read_prompts(
    source: str,
    split: str | None = "train",
    column: str | None = None,
    limit: int | None = None,
    *,
    unique: bool = True,
    on_bad_row: Literal["stop", "skip"] = "stop",
    quiet: bool = False,
) -> list[Prompt]:
    """Read prompts from the sandbox, a file, a folder, a function or the hub.

    Args:
        source: `sandbox/prompts`; a .json, .jsonl, .csv, .tsv, .txt or .parquet file (all but
            Parquet also compressed, as .gz); a folder with such files, as a clone from the hub or
            with one per split, or one saved by `datasets`; `MODULE:FUNCTION`, which returns
            prompts or rows; or a hub name. Folders and hub names may end in `:CONFIGURATION`.
        split: The part to read, or None for all. A source without a validation or test part
            gives up a tenth of its training prompts for each, chosen by a hash of the text.
        column: The column to read. By default the first of `COLUMNS` that is there, or the only
            one. Of a Human/Assistant dialogue everything up to the last "Assistant:" is taken,
            of a chat everything before the assistant's last message. An `instruction` is
            followed by the row's `input`, as in the Alpaca data.
        limit: Return at most this many prompts; the rows after them may stay unread.
        unique: Whether to leave out a prompt that has come before. False keeps every row.
        on_bad_row: Whether a row without a prompt that can be understood stops the reading, or
            is skipped; one line then reports how many were.
        quiet: Whether to leave out that line.

    Raises:
        FileNotFoundError: A missing file, folder or data set.
        ValueError: A file that cannot be read, an unknown split or column, or no prompts at all.
        BadRow: A row that holds no prompt (it is named, counted from 1).
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; leave it out to read all.")
    if on_bad_row not in ("stop", "skip"):
        raise ValueError(f"on_bad_row must be stop or skip, got {on_bad_row!r}.")
    parts = splits(source)
    present = {usual(name) for name in parts}
    missing = [name for name in _TENTHS.values() if name not in present and "train" in present]
    if split and usual(split) not in {*present, *missing}:
        raise ValueError(f"split {split!r} is not in {source!r}, which has {', '.join(parts)}.")
    home = "train" if split and usual(split) in missing else split
    rows = _Rows(source, column, unique, on_bad_row == "skip")
    candidates = (
        prompt
        for name, read in parts.items()
        if home is None or usual(name) == usual(home)
        for prompt in rows.prompts(read())
    )
    cut = missing if split and home and usual(home) == "train" else []
    prompts = _part(candidates, usual(split or ""), cut, limit)
    if not prompts:
        part = f" for split {split!r}" if split else ""
        why = f": {rows.report()}" if rows.skipped else "."
        if rows.seen and cut and not rows.skipped:
            why = (
                f": from the {len(rows.seen)} in it {', '.join(['train', *cut])} are cut, which"
                " takes more. Give more, or a folder with a file for each."
            )
        raise ValueError(f"no prompts in {source!r}{part}{why}")
    if rows.skipped and not quiet:
        _print_once(rows.report())
    return prompts


@cache  # a source may be read for each of its splits
def _print_once(line: str) -> None:
    print(f"mavis: {line}", file=sys.stderr)


# Splits


def _part(
    candidates: Iterator[Prompt], split: str, missing: list[str], limit: int | None
) -> list[Prompt]:
    """The prompts of a split, where those of the missing ones are among the training prompts.

    Reads on only until there are enough.
    """
    names = ["train", *missing] if missing else []
    prompts: list[Prompt] = []
    sizes: Counter[str] = Counter()
    for prompt in candidates:
        prompts.append(prompt)
        sizes[_home(plain(prompt), missing) if missing else split] += 1
        if limit and sizes[split] >= limit and all(sizes[name] for name in names):
            break
    if missing:
        chosen = _cut(list(dict.fromkeys(map(plain, prompts))), missing)
        prompts = [prompt for prompt in prompts if chosen[plain(prompt)] == split]
    return prompts[:limit]


def _home(text: str, missing: list[str]) -> str:
    """Which split a text belongs to, by nothing but the text."""
    name = _TENTHS.get(_hash(text) % 10, "train")
    return name if name in missing else "train"


def _cut(texts: list[str], missing: list[str]) -> dict[str, str]:
    """Which split each text belongs to, where only "train" is there and others are missing.

    A text's place depends on nothing but the text, unless a part would stay empty.
    """
    home = {text: _home(text, missing) for text in texts}
    names = ["train", *missing]
    for name in names:
        sizes = Counter(home.values())
        if len(texts) >= len(names) and not sizes[name]:
            largest = max(names, key=lambda other: sizes[other])
            home[min((t for t in texts if home[t] == largest), key=_hash)] = name
    return home


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


# From rows to prompts


class _Rows:
    """Reads rows as prompts, and keeps count of those that hold none."""

    def __init__(self, source: str, column: str | None, unique: bool, skip: bool) -> None:
        self.source, self.column, self.unique, self.skip = source, column, unique, skip
        self.seen: set[str] = set()
        self.skipped = self.count = 0
        self.first = ""  # what is wrong with the first row that was skipped

    def prompts(self, rows: Iterable[Any]) -> Iterator[Prompt]:
        """The prompts in rows, each once if so wanted."""
        for number, row in enumerate(rows, 1):
            self.count += 1
            try:
                prompt = self._prompt(row, f"row {number} of {self.source!r}")
            except BadRow as error:
                if not self.skip:
                    raise
                self.skipped += 1
                self.first = self.first or str(error)
                continue
            if prompt is None:
                continue
            text = plain(prompt)
            if not self.unique or text not in self.seen:
                self.seen.add(text)
                yield prompt

    def report(self) -> str:
        """What was skipped, in a line."""
        return (
            f"{self.skipped} of {self.count} rows of {self.source!r} were skipped, the first"
            f" because of this: {self.first}"
        )

    def _prompt(self, row: Any, where: str) -> Prompt | None:
        if isinstance(row, Mapping):
            self.column = self.column or _column(row, self.source)
        try:
            prompt, _ = exchange(row, self.column, where)
            if prompt is not None and not plain(prompt).strip():
                raise ValueError(f"empty prompt in {where}.")
            if prompt is None and not self.unique:  # every row counts
                raise ValueError(f"nobody asks anything in the chat in {where}.")
        except ValueError as error:
            raise BadRow(str(error)) from error
        return prompt


def exchange(row: Any, column: str | None, where: str) -> tuple[Prompt | None, str | None]:
    """The prompt in a row, and the reply after it in the same column, if there is one.

    Args:
        row: A mapping of columns, or a bare value.
        column: Where the prompt is, in a mapping.
        where: What to call the row in errors.

    Raises:
        ValueError: The column is missing, or what it holds cannot be understood.
    """
    if not isinstance(row, Mapping):
        return parted(row, where)
    if column not in row:
        raise ValueError(f"column {column!r} is not in {where}, which has {_names(row)}.")
    prompt, reply = parted(row[column], where)
    if column in _REPLIES and isinstance(prompt, str) and not prompt.endswith(ASSISTANT.strip()):
        raise ValueError(
            f"{column} in {where} is no dialogue, so it may be a reply alone: name the column of"
            " the prompts."
        )
    more = row.get("input") if column == "instruction" else None
    if is_nothing(more):
        return prompt, reply
    if not isinstance(prompt, str) or not isinstance(more, str):
        raise ValueError(f"instruction and input must both be texts in {where}.")
    if not prompt.strip():
        raise ValueError(f"empty prompt in {where}.")
    return (f"{prompt}\n\n{more}" if more.strip() else prompt), reply


def _column(row: Mapping[str, Any], source: str) -> str:
    names = list(row)
    known = [name for name in COLUMNS if name in names]
    if known:
        return known[0]
    if len(names) != 1:
        raise ValueError(
            f"column must be given for {source!r}: it has {_names(names)},"
            f" and none of {', '.join(COLUMNS)}."
        )
    if isinstance(row, Record):
        raise ValueError(
            f"column must be given for {source!r}: its first line, {_names(names)}, may be a prompt"
            f" or the column's name; put a line with one of {', '.join(COLUMNS)} before it."
        )
    return names[0]


def _names(columns: Iterable[object]) -> str:
    names = ", ".join(map(str, columns)) or "no columns"
    return names if len(names) <= 200 else f"{names[:200]} …"
