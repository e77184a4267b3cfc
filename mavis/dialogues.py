"""Dialogues: chats and texts in which people and assistants take turns, cut before a reply.

A text or chat of a data set often holds the reply that a model is to learn. `parted` takes it
apart: what was asked, and what was replied. What it cannot understand it refuses.
"""

import json
import re
from collections.abc import Iterable, Mapping
from reprlib import repr as shortened
from typing import Any

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": "…"}

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
LONGEST = 1_000_000  # characters: no prompt is longer, but a file that was taken for text may be

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
# The same dialogue in other layouts, which are rewritten: "### Human: a### Assistant: b", and turns
# that begin on any line ("User: a", "**Human:** a", "[human]: a").
_NAME = r"(human|user|assistant)"
_HASHED = re.compile(rf"###[ \t]*{_NAME}[ \t]*:", re.IGNORECASE)
_LINES = re.compile(rf"(?:\A|\n)[ \t#*<\[>_-]*{_NAME}[ \t*>\]]*:(?:\*\*)?", re.IGNORECASE)
_INLINE = re.compile(r"\bAssistant[ \t]*:")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_SPEAKERS = {"system": "system", "user": "user", "assistant": "assistant"}
_SPEAKERS |= {"human": "user", "gpt": "assistant"}  # as ShareGPT calls them
# What precedes a reply in texts that were written for one model or another.
_REPLY_MARKS = (
    "<|im_start|>assistant",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<start_of_turn>model",
    "<|assistant|>",
    "<|Assistant|>",
    "<｜Assistant｜>",
    "[/INST]",
    "### Response:",
    "ASSISTANT:",
)
_HINTS = ("human", "user", "assistant", *map(str.lower, _REPLY_MARKS))
_CHAT = re.compile(r"\s*\[\s*\{")
_SPEAKER_KEY = re.compile(r"""["'](role|from)["']\s*:""")


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
    for name, turn in [("", first), *zip(turns[::2], turns[1::2], strict=True)]:
        role, content = _ROLES.get(name, "system"), turn.strip()
        if content and chat and chat[-1]["role"] == role:
            chat[-1] = {"role": role, "content": f"{chat[-1]['content']}\n\n{content}"}
        elif content:
            chat.append({"role": role, "content": content})
    return chat if chat and chat[-1]["role"] == "user" else None


def parted(value: Any, where: str) -> tuple[str | list[Message] | None, str | None]:
    r"""Take a text or a chat apart: the prompt, and the reply after it.

    A dialogue is cut after its last "Assistant:", a chat before the assistant's last message.

    Args:
        value: A text, a chat (role and content, or ShareGPT's from and value), either as an array
            or as JSON in a text.
        where: What to call it in errors.

    Returns:
        The prompt, None if a chat has no message of a user; and the reply, None if there is none.

    Raises:
        ValueError: It is empty, longer than `LONGEST`, or not to be understood.

    >>> parted("Human: Hi.\n\nAssistant: Hello.", "row 1")
    ('Human: Hi.\n\nAssistant:', 'Hello.')
    >>> parted([{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}], "row 1")
    ([{'role': 'user', 'content': 'Hi.'}], 'Hello.')
    """
    if hasattr(value, "tolist"):  # of numpy or pandas
        value = value.tolist()
    if isinstance(value, list | tuple):
        return _opening(value, where)
    if is_nothing(value):
        raise ValueError(f"empty prompt in {where}.")
    if not isinstance(value, str):
        raise ValueError(f"prompts must be strings or chats, got {_brief(value)} in {where}.")
    if len(value) > LONGEST:
        raise ValueError(_too_long(len(value), where))
    text = _whole(value)
    if _CHAT.match(text) and _SPEAKER_KEY.search(text):
        return _opening(_loaded(text, where), where)
    return _cut(text, where)


def is_nothing(value: Any) -> bool:
    """Whether this is what a table holds where there is no text."""
    return value is None or (isinstance(value, str | float) and (value == "" or value != value))


def _brief(value: Any) -> str:
    """A value as code, on one short line."""
    return " ".join(shortened(value).split())


# Texts


def _whole(text: str) -> str:
    """The text with halves of surrogate pairs, which nothing can store, joined or replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str(text)  # numpy's strings are of a class of their own


def _cut(text: str, where: str) -> tuple[str, str | None]:
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):  # as in most texts
        return text, None
    plainer = text.replace("\r\n", "\n").replace("\r", "\n")
    begun = plainer if plainer.startswith(HUMAN) else plainer.lstrip()
    for layout in (_TURN, _HASHED, _LINES):
        first, *parts = layout.split(begun)
        if layout is _LINES and not f"\n{first}".endswith("\n"):
            continue  # turns that follow a text without a blank line may be a part of it
        turns = [(name.lower(), turn) for name, turn in zip(parts[::2], parts[1::2], strict=True)]
        asked = next((at for at, turn in enumerate(turns) if turn[0] != "assistant"), len(turns))
        if not any(name == "assistant" for name, _ in turns[asked:]):
            continue
        while turns[-1][0] != "assistant":
            turns.pop()
        if not any(turn.strip() for name, turn in turns if name != "assistant"):
            raise ValueError(f"empty prompt in {where}.")
        if layout is _TURN:  # as it should be: it is left as it is
            head, mark, reply = begun.rpartition(ASSISTANT)
            return head + mark, reply.strip() or None
        return _rewritten(first, turns), turns[-1][1].strip() or None
    _check_plain(begun, where)
    return text, None


def _rewritten(first: str, turns: list[tuple[str, str]]) -> str:
    """The dialogue up to its last "Assistant:", with a blank line before every turn."""
    heads = [ASSISTANT if name == "assistant" else HUMAN for name, _ in turns[:-1]]
    written = [f"{head} {turn.strip()}" for head, (_, turn) in zip(heads, turns, strict=False)]
    return first.strip() + "".join(written) + ASSISTANT


def _check_plain(text: str, where: str) -> None:
    """Refuse what is no dialogue but holds a turn of one, or a reply in another layout."""
    turns = list(_LINES.finditer(text))
    answers = [turn for turn in turns if turn[1].lower() == "assistant"]
    if turns and turns[0] not in answers and not text[: turns[0].start()].strip():
        raise ValueError(f"the dialogue in {where} has no 'Assistant:' turn.")
    if turns:  # "Human: a Assistant: b"
        answers += _INLINE.finditer(text)
    ends = [(turn.end(), turn[0].strip()) for turn in answers]
    ends += [(text.rindex(mark) + len(mark), mark) for mark in _REPLY_MARKS if mark in text]
    end, mark = max(ends, default=(len(text), ""))
    if text[end:].strip():
        raise ValueError(
            f"the text in {where} goes on behind {mark!r}, so it may hold a reply: give the prompt"
            " alone, a Human/Assistant dialogue or a list of messages."
        )


# Chats


def _loaded(text: str, where: str) -> list[Any]:
    try:
        chat = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the text in {where} looks like a list of messages, but is not JSON: {_brief(text)}."
        ) from error
    return chat if isinstance(chat, list) else [chat]


def _opening(chat: Iterable[Any], where: str) -> tuple[list[Message] | None, str | None]:
    turns = [(_known(_role(turn), turn, where), turn) for turn in chat]
    replies = []
    while turns and turns[-1][0] == "assistant":
        replies.append(turns.pop()[1])
    if not any(role == "user" for role, _ in turns):
        return None, None
    opening = [{"role": role, "content": _known(_text(turn), turn, where)} for role, turn in turns]
    if not opening[-1]["content"].strip():
        raise ValueError(f"empty prompt in {where}.")
    size = sum(len(turn["content"]) for turn in opening)
    if size > LONGEST:
        raise ValueError(_too_long(size, where))
    reply = _text(replies[0]) if len(replies) == 1 else None
    return opening, (reply or "").strip() or None


def _role(turn: Any) -> str | None:
    name = (turn.get("role") or turn.get("from")) if isinstance(turn, Mapping) else None
    return _SPEAKERS.get(name) if isinstance(name, str) else None


def _text(turn: Mapping[str, Any]) -> str | None:
    """The text of a message, if it is nothing but text."""
    content = turn.get("content", turn.get("value"))
    if hasattr(content, "tolist"):
        content = content.tolist()
    if turn.get("tool_calls") or turn.get("function_call"):
        return None
    if isinstance(content, list) and all(_is_text(part) for part in content):
        content = "".join(part if isinstance(part, str) else part["text"] for part in content)
    return _whole(content) if isinstance(content, str) else None


def _is_text(part: Any) -> bool:
    """Whether a part of a message's content is a text, and no image or sound."""
    if not isinstance(part, Mapping):
        return isinstance(part, str)
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _known(value: str | None, turn: Any, where: str) -> str:
    """A message's role or text as it is; an error if it is None, which means not understood."""
    if value is None:
        raise ValueError(
            "a chat must be a list of {role: system|user|assistant, content: text}, without tools"
            f" or images, got {_brief(turn)} in {where}."
        )
    return value


def _too_long(size: int, where: str) -> str:
    return (
        f"the prompt in {where} has {size:,} characters, more than {LONGEST:,}:"
        " is this the right file and column?"
    )
