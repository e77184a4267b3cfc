"""Parse the response of a chat endpoint: the model's reply, or the server's error message."""

import json
import re
from dataclasses import dataclass
from email.message import Message
from typing import Any

from mavis.judge.verdicts import CUT

_WRONG = ("error", "message", "detail")  # keys of error messages
_UNFIT = (400, 422)  # statuses of a request that the model does not support


@dataclass(frozen=True)
class Answer:
    """A server's response, or the reason why there is none."""

    status: int | None  # None: no response
    body: str  # or why there is no response
    after: float = 0.0  # seconds that the server asks to wait

    @classmethod
    def read(cls, status: int, headers: Message, body: bytes) -> "Answer":
        """Build it from an HTTP response."""
        after = str(headers.get("Retry-After", ""))  # the other form, a date, is ignored
        seconds = float(after) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", after) else 0.0
        return cls(status, body.decode(errors="replace"), seconds)

    @property
    def transient(self) -> bool:
        """Whether another attempt may succeed."""
        return self.status is None or self.status in (408, 429) or self.status >= 500

    @property
    def words(self) -> str | None:
        """The model's reply, "" if it holds thoughts only; None if this is not a reply.

        The text parts of a reply are joined, and a refusal counts as a reply. A reply that the
        server has cut off ends with the line `CUT`.
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
        """Whether the request is refused with a message that names this field."""
        return self.status in _UNFIT and bool(re.search(rf"\b{name}\b", self.body))

    @property
    def message(self) -> str:
        """The server's error message in one of the usual forms, or else the whole body."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return self.body
        while isinstance(found, dict):
            found = next((found[name] for name in _WRONG if name in found), None)
        return found if isinstance(found, str) else self.body


def _text(content: Any) -> str:
    """Join the text of a message; parts of another kind, such as reasoning, are left out."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part if isinstance(part, str) else _part(part) for part in parts]
    return "".join(texts)


def _part(part: Any) -> str:
    known = isinstance(part, dict) and part.get("type", "text") in ("text", "output_text")
    text = part.get("text") if known else None
    return text if isinstance(text, str) else ""
