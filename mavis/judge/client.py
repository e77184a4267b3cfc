"""A chat model behind an OpenAI-compatible address: one question at a time, with patience.

Secrets (the API key, and whatever credentials the address holds) are sent and never shown: every
text that leaves this module has been through `clean`. Knows nothing of judging.
"""

import base64
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from urllib.error import URLError
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit
from urllib.request import HTTPErrorProcessor, Request, build_opener

from mavis.judge.answer import Answer

Messages = list[dict[str, str]]  # {"role": "user" | "assistant", "content": "…"}

KEY = "OPENAI_API_KEY"
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before another attempt
LONGEST = 60.0  # seconds that a server may tell us to wait
_REFUSED = (400, 413, 422)  # this question cannot be answered; another may be
_NOWHERE = (404, 405)  # nothing to ask at this address
_ASKED_AT = "/chat/completions"
_VERSION = re.compile(r"/v[0-9]+\w*(/|$)")  # in a path
_SECRET = 4  # characters; a shorter one guards nothing and may be a word of a reply


@dataclass
class Manner:
    """How an endpoint wants to be asked, as far as it has said so."""

    temperature: bool = True  # whether it takes a temperature
    versioned: bool = False  # whether it is behind a /v1 that the address lacks


@dataclass(frozen=True)
class Endpoint:
    """A model at an address.

    Args:
        url: the address that `/chat/completions` is behind, with or without a final `/v1`; may
            hold credentials.
        model: its name there.
        key: the API key, if one is needed. Credentials of the address go before it.
        timeout: seconds of silence that an attempt may last.
        wait: what passes the time between attempts.
        manner: how it wants to be asked; learned from its answers.

    Raises:
        ValueError: if an argument cannot be.
    """

    url: str = field(repr=False)
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0
    wait: Callable[[float], object] = time.sleep
    manner: Manner = field(default_factory=Manner, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is sent."""
        try:  # a port that is no number is only noticed when it is asked for
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
        """The address without what is secret in it."""
        parts = self._parts
        return self.clean(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")

    def ask(self, messages: Messages) -> str:
        """The model's reply, at temperature 0, or its own if it takes none.

        A question that is refused (too long, filtered) has the refusal in brackets as its reply.

        Raises:
            ConnectionError: if there is no answer, after several attempts.
            PermissionError: if the key is missing or wrong.
            LookupError: if there is no such model or address.
            ValueError: if this is no chat endpoint.
        """
        answer = self._attempt(messages)
        for pause in PAUSES:
            if not answer.transient:
                break
            self.wait(min(max(pause, answer.after), LONGEST))
            answer = self._attempt(messages)
        return self.clean(self._reply(answer))

    def clean(self, text: str) -> str:
        """A text without the secrets, wherever a server or a library has put them."""
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
        """The user and password of the address, as they are sent."""
        parts = self._parts
        if parts.username is None and parts.password is None:
            return ""
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        return base64.b64encode(pair.encode()).decode()

    def _attempt(self, messages: Messages) -> Answer:
        """Ask once; once more in another manner, if the answer asks for that.

        What has helped is kept for the questions that follow.
        """
        temperature, versioned = self.manner.temperature, self.manner.versioned
        answer = self._send(messages, temperature, versioned)
        if answer.status in _NOWHERE and not (versioned or _VERSION.search(self._parts.path)):
            other = self._send(messages, temperature, True)
            if other.status is not None:
                answer, versioned = other, other.status not in _NOWHERE
                self.manner.versioned |= versioned
        if temperature and answer.refuses("temperature"):
            answer = self._send(messages, False, versioned)
            if answer.status == 200:
                self.manner.temperature = False
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
        """The words of an answer, or an error that says why there are none."""
        said = _brief(self.clean(answer.message))
        status = f"HTTP {answer.status}: {said}" if answer.status else said
        if answer.transient:
            raise ConnectionError(f"no answer from {self.shown} ({status}).")
        if answer.status in _REFUSED:
            return f"({status})"
        if answer.status in (401, 403):
            raise PermissionError(
                f"{self.shown} wants another API key in the environment variable {KEY} ({status})."
            )
        if answer.status == 404:
            raise LookupError(f"{self.shown} is wrong or knows no model {self.model!r} ({status}).")
        if (words := answer.words) is None:
            raise ValueError(f"{self.shown} does not answer as a chat endpoint ({status}).")
        return words


class _AsItIs(HTTPErrorProcessor):
    """Passes every answer on; a redirection, followed, would take the key to another server."""

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:  # noqa: ARG002
        return response

    https_response = http_response


def _brief(text: str, width: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
