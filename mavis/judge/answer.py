"""What a chat endpoint answers: the model's words in it, or what the server says is wrong.

Knows nothing of how it was asked.
"""

import json
import re
from dataclasses import dataclass
from email.message import Message
from typing import Any

from mavis.judge.verdicts import CUT

_WRONG = ("error", "message", "detail")  # where servers say what is wrong
_UNFIT = (400, 422)  # the request is not one that the model takes


@dataclass(frozen=True)
class Answer:
    """A server's answer, or the lack of one."""

    status: int | None  # None: none came
    body: str  # or why none came
    after: float = 0.0  # seconds that the server asked to wait

    @classmethod
    def read(cls, status: int, headers: Message, body: bytes) -> "Answer":
        """Take in an HTTP answer."""
        after = str(headers.get("Retry-After", ""))  # the other form, a date, is not worth it
        seconds = float(after) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", after) else 0.0
        return cls(status, body.decode(errors="replace"), seconds)

    @property
    def transient(self) -> bool:
        """Whether it may be better next time."""
        return self.status is None or self.status in (408, 429) or self.status >= 500

    @property
    def words(self) -> str | None:
        """What the model said ("" if it kept to its thoughts), None if this is no reply.

        A reply in parts is put together from those that are text; a refusal is what it said. A
        reply that the server has cut off ends with the line `CUT`.
        """
        try:
            choice = json.loads(self.body)["choices"][0]
            message = choice["message"]
            said = _text(message.get("content")) or _text(message.get("refusal"))
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        if self.status != 200:
            return None
        return f"{said}\n{CUT}" if choice.get("finish_reason") == "length" else said

    def refuses(self, name: str) -> bool:
        """Whether the request is refused and a field of this name may be why: it is spoken of."""
        return self.status in _UNFIT and bool(re.search(rf"\b{name}\b", self.body))

    @property
    def message(self) -> str:
        """What a server says is wrong, in the usual forms, or else all of it."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return self.body
        while isinstance(found, dict):
            found = next((found[name] for name in _WRONG if name in found), None)
        return found if isinstance(found, str) else self.body


def _text(content: Any) -> str:
    """A message's text, whole or in parts. Parts of another kind, such as reasoning, are none."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part if isinstance(part, str) else _part(part) for part in parts]
    return "".join(texts)


def _part(part: Any) -> str:
    known = isinstance(part, dict) and part.get("type", "text") in ("text", "output_text")
    text = part.get("text") if known else None
    return text if isinstance(text, str) else ""
