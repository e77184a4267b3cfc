"""Prompts: what they look like, and where they are read from.

A prompt is a string or a chat. Prompts come out in the order of their source, each once, and
splits that are cut here share none. Knows nothing of models or tokens.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mavis.sources import splits

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": "…"}
Prompt = str | list[Message]

COLUMNS = ("prompt", "question", "instruction", "messages", "chosen", "text")

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
_TENTHS = {8: "validation", 9: "test"}  # the rest of the tenths is for training


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
    heads = {"user": _HUMAN + " ", "assistant": _ASSISTANT + " "}
    return "".join(heads.get(turn["role"], "") + turn["content"] for turn in prompt) + _ASSISTANT


def digest(prompt: Prompt) -> str:
    """A name for a prompt, by which it is told whether a model has seen it in training.

    >>> digest("Why?") == digest([{"role": "user", "content": "Why?"}])
    True
    """
    return hashlib.sha256(plain(prompt).encode(errors="replace")).hexdigest()[:16]


def dialogue(text: str) -> list[Message] | None:
    r"""The messages of a Human/Assistant text with an open last turn, else None.

    Empty turns are dropped and neighbours of one role joined, because chat templates want the
    roles to alternate.

    >>> dialogue("\n\nHuman: Hi.\n\nAssistant:")
    [{'role': 'user', 'content': 'Hi.'}]
    >>> dialogue("Hi.") is None
    True
    """
    first, *turns = _TURN.split(text.rstrip())  # text before the first turn, role, text, role, …
    if len(turns) < 4 or turns[-2:] != ["Assistant", ""]:
        return None
    chat: list[Message] = []
    for name, said in itertools.chain([("", first)], zip(turns[::2], turns[1::2], strict=True)):
        role, content = _ROLES.get(name, "system"), said.strip()
        if content and chat and chat[-1]["role"] == role:
            chat[-1] = {"role": role, "content": f"{chat[-1]['content']}\n\n{content}"}
        elif content:
            chat.append({"role": role, "content": content})
    return chat if chat and chat[-1]["role"] == "user" else None


def read_prompts(
    source: str,
    split: str | None = "train",
    column: str | None = None,
    limit: int | None = None,
    unique: bool = True,
) -> list[Prompt]:
    """Read prompts from the sandbox, a file, a folder, a function or the hub.

    Args:
        source: `sandbox/prompts`; a .json, .jsonl, .csv, .txt or .parquet file (all but Parquet
            also with .gz behind it); a folder with one such file per split, or one saved by
            `datasets`; `MODULE:FUNCTION`, which returns prompts; or a hub name, with
            `:CONFIGURATION` behind it where the data set needs one.
        split: The part to read, or None for all. A source without a validation or test part
            gives up a tenth of its training prompts for each, chosen by a hash of the text.
        column: The column to read. By default the first of `COLUMNS` that is there, or the only
            one. Of a Human/Assistant dialogue everything up to the last "Assistant:" is taken,
            of a chat everything before the assistant's last message.
        limit: Return at most this many prompts.
        unique: Return each prompt once; otherwise as often as it comes.

    Raises:
        FileNotFoundError: A missing file, folder or data set.
        ValueError: An unknown split or column, an empty prompt (the row is named, counted from
            1), or no prompts at all.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; leave it out to read all.")
    parts = splits(source)
    present = {_usual(name) for name in parts}
    missing = [name for name in _TENTHS.values() if name not in present and "train" in present]
    if split and _usual(split) not in {*present, *missing}:
        raise ValueError(f"split {split!r} is not in {source!r}, which has {', '.join(parts)}.")
    home = "train" if split and _usual(split) in missing else split
    prompts = [
        (plain(prompt), prompt)
        for name, rows in parts.items()
        if home is None or _usual(name) == _usual(home)
        for prompt in _prompts(rows(), column, source)
    ]
    if unique:
        prompts = list(dict(prompts).items())
    if split and home and _usual(home) == "train":
        chosen = _cut(list(dict(prompts)), missing)
        prompts = [(text, one) for text, one in prompts if chosen[text] == _usual(split)]
    if not prompts:
        raise ValueError(f"no prompts in {source!r}" + (f" for split {split!r}." if split else "."))
    return [prompt for _, prompt in prompts][:limit]


def _usual(split: str) -> str:
    """One spelling for the splits that have several."""
    return next((name for name, known in _SPELLINGS.items() if split in known), split)


def _cut(texts: list[str], missing: list[str]) -> dict[str, str]:
    """Which split each text belongs to, where only "train" is there and others are missing.

    A text's place depends on nothing but the text, unless a part would stay empty.
    """
    marks = {text: _mark(text) for text in texts}
    usual = {text: _TENTHS.get(mark % 10, "train") for text, mark in marks.items()}
    home = {text: name if name in missing else "train" for text, name in usual.items()}
    names = ["train", *missing]
    for name in names:
        sizes = Counter(home.values())
        if len(texts) >= len(names) and not sizes[name]:
            giver = max(names, key=lambda other: sizes[other])
            home[min((t for t in texts if home[t] == giver), key=lambda t: marks[t])] = name
    return home


def _mark(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


# From rows to prompts


def _prompts(rows: Iterable[Any], column: str | None, source: str) -> Iterator[Prompt]:
    for number, row in enumerate(rows, 1):
        where = f"row {number} of {source!r}"
        value = row
        if isinstance(row, Mapping):
            column = column or _column(list(row), source)
            if column not in row:
                raise ValueError(f"column {column!r} is not in {where}, which has {_names(row)}.")
            value = row[column]
        prompt = _prompt(value, where)
        if prompt is None:
            continue
        if not plain(prompt).strip():
            raise ValueError(f"empty prompt in {where}.")
        yield prompt


def _column(names: list[str], source: str) -> str:
    known = [name for name in COLUMNS if name in names]
    if not known and len(names) != 1:
        raise ValueError(
            f"column must be given for {source!r}: it has {_names(names)},"
            f" and none of {', '.join(COLUMNS)}."
        )
    return known[0] if known else names[0]


def _names(columns: Iterable[object]) -> str:
    return ", ".join(map(str, columns)) or "no columns"


def _prompt(value: Any, where: str) -> Prompt | None:
    if isinstance(value, list | tuple):
        return _opening(value, where)
    if value is None or value == "":
        raise ValueError(f"empty prompt in {where}.")
    if not isinstance(value, str):
        raise ValueError(f"prompts must be strings or chats, got {value!r} in {where}.")
    if value.startswith(_HUMAN):
        head, mark, _ = value.rpartition(_ASSISTANT)
        if not mark:
            raise ValueError(f"the dialogue in {where} has no 'Assistant:' turn.")
        return head + mark
    return value


def _opening(chat: Iterable[Any], where: str) -> list[Message] | None:
    """The chat before the assistant's last message; None if the user said nothing there."""
    opening = []
    for turn in chat:
        if not (
            isinstance(turn, Mapping)
            and turn.get("role") in ("system", "user", "assistant")
            and isinstance(turn.get("content"), str)
        ):
            raise ValueError(
                "a chat must be a list of {role: system|user|assistant, content: text},"
                f" got {turn!r} in {where}."
            )
        opening.append({"role": turn["role"], "content": turn["content"]})
    while opening and opening[-1]["role"] == "assistant":
        opening.pop()
    if not any(turn["role"] == "user" for turn in opening):
        return None
    if not opening[-1]["content"].strip():
        raise ValueError(f"empty prompt in {where}.")
    return opening
