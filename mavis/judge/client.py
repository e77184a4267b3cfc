"""A client of an OpenAI-compatible chat endpoint: one question at a time, with retries.

An `Answer` is the server's response: the model's reply, or an error message.

Secrets (the API key and any credentials in the address) are sent but never shown: every text that
leaves this module has been through `clean`.
"""

import base64
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import URLError
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit
from urllib.request import HTTPErrorProcessor, Request, build_opener

from mavis.judge.verdicts import CUT

Messages = list[dict[str, str]]  # {"role": "user" | "assistant", "content": "…"}

KEY = "OPENAI_API_KEY"
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before another attempt
LONGEST = 60.0  # most seconds to wait when the server asks for a pause
_REFUSED = (400, 413, 422)  # this question cannot be answered; others may be
_UNFIT = (400, 422)  # the model does not support what the request asks for
_NOWHERE = (404, 405)  # there is no endpoint at this address
_ASKED_AT = "/chat/completions"
_VERSION = re.compile(r"/v[0-9]+\w*(/|$)")  # in a path
_WRONG = ("error", "message", "detail")  # keys of error messages
_SECRET = 4  # characters; a shorter secret may be an ordinary word of a reply


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
            text = _text(message.get("content")) or _text(message.get("refusal"))
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        if self.status != 200:
            return None
        return f"{text}\n{CUT}" if choice.get("finish_reason") == "length" else text

    def refuses(self, name: str) -> bool:
        """Whether the request is refused with a message that names this field."""
        return self.status in _UNFIT and bool(re.search(rf"\b{name}\b", self.body))

    @property
    def message(self) -> str:
        """The server's error message in one of the usual forms, or else the whole body."""
        try:
            message = json.loads(self.body)
        except ValueError:
            return self.body
        while isinstance(message, dict):
            message = next((message[name] for name in _WRONG if name in message), None)
        return message if isinstance(message, str) else self.body


@dataclass
class Endpoint:
    """A model at an endpoint; a ValueError is raised if an argument is invalid."""

    # Base address of `/chat/completions`, with or without a final `/v1`; may hold credentials.
    url: str = field(repr=False)
    model: str  # its name at the endpoint
    key: str = field(default="", repr=False)  # API key; credentials in the address go first
    timeout: float = 60.0  # seconds without a response after which an attempt fails
    wait: Callable[[float], object] = time.sleep  # between attempts
    # Learned from responses: whether it accepts a temperature, and needs /v1 after the address.
    temperature: bool = field(default=True, init=False)
    versioned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Check the arguments before anything is sent."""
        try:  # urlsplit checks the port only when it is read
            whole = bool(re.fullmatch(r"https?://[!-~]+", self.url) and self._parts.hostname)
            _ = self._parts.port
        except ValueError:
            whole = False
        if not whole:  # it is not repeated, as it may hold a password
            raise ValueError("url must be http(s)://HOST…, such as http://localhost:8000/v1.")
        if not self.model:
            raise ValueError("model must be the name of a model at the url, got none.")
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError(f"{KEY} must be plain characters in one line.")
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, got {self.timeout}.")

    @property
    def shown(self) -> str:
        """The address without its secrets."""
        parts = self._parts
        return self.clean(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")

    def ask(self, messages: Messages) -> str:
        """Ask at temperature 0, or without a temperature if the model accepts none.

        The reply to a refused question (too long, filtered) is the refusal in brackets.

        Raises:
            ConnectionError: if there is no answer after several attempts.
            PermissionError: if the key is missing or wrong.
            LookupError: if there is no such model or address.
            ValueError: if the address is not a chat endpoint.
        """
        answer = self._attempt(messages)
        for pause in PAUSES:
            if not answer.transient:
                break
            self.wait(min(max(pause, answer.after), LONGEST))
            answer = self._attempt(messages)
        return self.clean(self._reply(answer))

    def clean(self, text: str) -> str:
        """Replace all secrets in a text by asterisks."""
        parts = self._parts
        secrets = {self.key, self._credentials, parts.username or "", parts.password or ""}
        secrets |= {value for _, value in parse_qsl(parts.query)}
        secrets |= {unquote(secret) for secret in secrets}
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***") if len(secret) >= _SECRET else text
        return text

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def _credentials(self) -> str:
        """The user and password of the address, encoded for basic authentication."""
        parts = self._parts
        if parts.username is None and parts.password is None:
            return ""
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        return base64.b64encode(pair.encode()).decode()

    def _attempt(self, messages: Messages) -> Answer:
        """Ask once, and again with /v1 or without a temperature if the response calls for it.

        A change that helps is kept for later questions.
        """
        temperature, versioned = self.temperature, self.versioned
        answer = self._send(messages, temperature, versioned)
        if answer.status in _NOWHERE and not (versioned or _VERSION.search(self._parts.path)):
            other = self._send(messages, temperature, True)
            if other.status is not None:
                answer, versioned = other, other.status not in _NOWHERE
                self.versioned |= versioned
        if temperature and answer.refuses("temperature"):
            answer = self._send(messages, False, versioned)
            if answer.status == 200:
                self.temperature = False
        return answer

    def _send(self, messages: Messages, temperature: bool, versioned: bool) -> Answer:
        parts = self._parts
        path = parts.path.rstrip("/").removesuffix(_ASKED_AT)
        bare = parts._replace(
            netloc=parts.netloc.rpartition("@")[2],
            path=path + ("/v1" if versioned else "") + _ASKED_AT,
            fragment="",
        )
        body: dict[str, object] = {"model": self.model, "messages": messages}
        if temperature:
            body["temperature"] = 0
        headers = {"Content-Type": "application/json", "User-Agent": "mavis"}
        if credentials := self._credentials:
            headers["Authorization"] = f"Basic {credentials}"
        elif self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = Request(bare.geturl(), json.dumps(body).encode(), headers)
        try:
            with build_opener(_AsItIs).open(request, timeout=self.timeout) as answer:
                return Answer.read(answer.status, answer.headers, answer.read())
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            return Answer(None, str(reason) or type(reason).__name__)

    def _reply(self, answer: Answer) -> str:
        """Return the reply, or raise an error that says why there is none."""
        message = _brief(self.clean(answer.message))
        status = f"HTTP {answer.status}: {message}" if answer.status else message
        if answer.transient:
            raise ConnectionError(f"no answer from {self.shown} ({status}).")
        if answer.status in _REFUSED:
            return f"({status})"
        if answer.status in (401, 403):
            raise PermissionError(
                f"{self.shown} refuses the API key; set {KEY} in the environment ({status})."
            )
        if answer.status == 404:
            raise LookupError(f"{self.shown} is wrong or knows no model {self.model!r} ({status}).")
        if (words := answer.words) is None:
            raise ValueError(f"{self.shown} does not answer as a chat endpoint ({status}).")
        return words


class _AsItIs(HTTPErrorProcessor):
    """Does not follow redirections, which would send the key to another server."""

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:  # noqa: ARG002
        return response

    https_response = http_response


def _brief(text: str, width: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _text(content: Any) -> str:
    """Join the text of a message; parts of another kind, such as reasoning, are left out."""
    if isinstance(content, list):
        return "".join(map(_text, content))
    if isinstance(content, dict) and content.get("type", "text") in ("text", "output_text"):
        content = content.get("text")
    return content if isinstance(content, str) else ""
