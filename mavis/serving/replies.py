"""Replies in the shapes of the `openai` package, whole or chunk by chunk."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Event, Ranked
from mavis.serving.fields import Asked
from mavis.serving.prepare import Job
from mavis.serving.text import Growing, token_text

REASONS = {"end": "stop", "stop": "stop", "length": "length"}
LEAST = -9999.0  # in place of −∞, which JSON cannot hold

Json = dict[str, Any]


@dataclass
class Reply:
    """One reply while it is written.

    Args:
        job: the prompt and settings.
        index: its place among the choices.
        growing: its text.
        events: a step of the decoder each.
        text: what has been said of it.
    """

    job: Job
    index: int
    growing: Growing
    events: list[Event] = field(default_factory=list)
    text: str = ""

    def add(self, event: Event) -> str:
        """Add a token; return the text that is certain now."""
        assert event.token is not None
        self.events.append(event)
        piece = self.growing.add(event.token)
        piece += self.growing.rest() if event.finished else ""
        self.text += piece
        return piece

    @property
    def reason(self) -> str | None:
        """Why it has ended, as clients know it; None while it has not."""
        return REASONS[self.events[-1].finished] if self.finished else None

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return bool(self.events and self.events[-1].finished)

    @property
    def spent(self) -> Json:
        """What it has cost, in nats."""
        kl = max(0.0, math.fsum(event.kl - event.truncation for event in self.events))
        return {"kl": kl, "kl_truncation": math.fsum(e.truncation for e in self.events)}


class Writer:
    """Writes the replies of one request.

    Args:
        asked: the request.
        jobs: its prompts.
        reference: whose tokens they are made of.
    """

    def __init__(self, asked: Asked, jobs: Sequence[Job], reference: ReferencePolicy) -> None:
        self.asked, self.jobs, self._reference = asked, jobs, reference
        kind = "chatcmpl" if asked.chat else "cmpl"
        self._id, self._created = f"{kind}-{uuid4().hex}", int(time.time())
        self.replies = [
            Reply(job, at * asked.n + copy, Growing(reference, job.stop))
            for at, job in enumerate(jobs)
            for copy in range(asked.n)
        ]

    @property
    def usage(self) -> CompletionUsage:
        """The tokens of the prompts and of the replies."""
        read = sum(len(job.tokens) for job in self.jobs)
        written = sum(len(reply.events) for reply in self.replies)
        return CompletionUsage(
            prompt_tokens=read, completion_tokens=written, total_tokens=read + written
        )

    def whole(self, echoed: Sequence[Json]) -> Json:
        """The response, once all replies have ended, with what was `echoed` of each prompt."""
        usage, shared = self.usage.model_dump(exclude_none=True), self._shared(True)
        if self.asked.chat:
            choices = [self._choice(reply) for reply in self.replies]
            return ChatCompletion.model_validate(
                {**self._head("chat.completion"), "choices": choices, "usage": usage, **shared}
            ).model_dump(mode="json", exclude_unset=True)
        choices = [
            self._text_choice(reply, echoed[reply.index // self.asked.n] if echoed else None)
            for reply in self.replies
        ]
        # Of the first token of an echoed prompt nothing is known, which the types do not foresee.
        return {**self._head("text_completion"), "choices": choices, "usage": usage, **shared}

    def opening(self, reply: Reply) -> Json | None:
        """The first chunk of a chat's reply, which says who speaks."""
        if not self.asked.chat:
            return None
        choice = {"index": reply.index, "delta": {"role": "assistant", "content": ""}}
        return self._chunk([choice | {"finish_reason": None}])

    def piece(self, reply: Reply, text: str, event: Event) -> Json:
        """The chunk of a token."""
        choice: Json = {"index": reply.index, "finish_reason": reply.reason}
        more: Json = {}
        if self.asked.attribution:
            choice["mavis"] = {"attribution": [self._parts(event)]}
        if reply.finished:
            choice["mavis"] = choice.get("mavis", {}) | reply.spent
            more = self._shared(False)
        if self.asked.chat:
            choice["delta"] = {"content": text}
            if self.asked.top is not None:
                choice["logprobs"] = {"content": [self._logprob(event)]}
        else:
            choice |= {"text": text, "logprobs": None}
            if self.asked.top is not None:
                choice["logprobs"] = self._legacy([event], reply.growing.offsets[-1:])
        return self._chunk([choice], **more)

    def closing(self) -> Json:
        """The chunk without choices that counts tokens."""
        return self._chunk([], usage=self.usage.model_dump(exclude_none=True))

    def _chunk(self, choices: list[Json], **more: Any) -> Json:
        kind = "chat.completion.chunk" if self.asked.chat else "text_completion"
        return {**self._head(kind), "choices": choices, **more}  # one a token: not validated

    def _head(self, kind: str) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.asked.model,
        }

    def _shared(self, spent: bool) -> Json:
        """What guided all replies, and what they have cost on average."""
        found: Json = {"weights": self.asked.weights, "beta": self.jobs[0].sampling.beta}
        if spent:
            every = [reply.spent for reply in self.replies]
            found |= {name: math.fsum(one[name] for one in every) / len(every) for name in every[0]}
        return {"mavis": found}

    def _choice(self, reply: Reply) -> Json:
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        found: Json = {"index": reply.index, "message": message, "finish_reason": reply.reason}
        logged = None
        if self.asked.top is not None:
            logged = {"content": [self._logprob(event) for event in reply.events], "refusal": None}
        return found | {"logprobs": logged, "mavis": self._own(reply)}

    def _text_choice(self, reply: Reply, echoed: Json | None) -> Json:
        prompt = self._reference.spelling.text(reply.job.tokens) if self.asked.echo else ""
        logged = None
        if self.asked.top is not None:
            offsets = [len(prompt) + offset for offset in reply.growing.offsets]
            logged = self._legacy(reply.events, offsets)
            if echoed is not None:
                logged = {name: echoed[name] + logged[name] for name in logged}
        text = prompt + reply.text
        found: Json = {
            "index": reply.index,
            "text": text,
            "finish_reason": reply.reason or "length",
        }
        return found | {"logprobs": logged, "mavis": self._own(reply)}

    def _own(self, reply: Reply) -> Json:
        own = reply.spent
        if self.asked.attribution:
            own["attribution"] = [self._parts(event) for event in reply.events]
        return own

    def _parts(self, event: Event) -> Json:
        """A token, and each objective's part in it: β·λ·(Q(s, a) − E[Q(s, ·)]), in nats."""
        assert event.token is not None
        named = dict(zip(self.asked.weights, event.parts, strict=True))
        return {"token": self.spelt(event.token), "parts": named}

    def _logprob(self, event: Event) -> Json:
        assert event.token is not None
        likely = [self._named(one.token, one.log_prob) for one in event.ranked]
        return self._named(event.token, event.log_prob) | {"top_logprobs": likely}

    def _named(self, token: int, log_prob: float) -> Json:
        text, raw = token_text(self._reference, token)
        return {"token": text, "logprob": log_prob, "bytes": list(raw)}

    def _legacy(self, events: Sequence[Event], offsets: Sequence[int]) -> Json:
        """Log-probabilities as `/v1/completions` has them, of tokens at places in the text."""
        found: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for event, offset in zip(events, offsets, strict=True):
            assert event.token is not None
            top = likely(self._reference, event.ranked)
            append(found, self.spelt(event.token), event.log_prob, top, offset)
        return found

    def spelt(self, token: int) -> str:
        """What a token looks like."""
        return token_text(self._reference, token)[0]


def likely(reference: ReferencePolicy, ranked: Sequence[Ranked]) -> dict[str, float]:
    """Log-probabilities by what tokens look like; of tokens that look alike the likelier one's."""
    found: dict[str, float] = {}
    for one in ranked:  # likeliest first
        found.setdefault(token_text(reference, one.token)[0], one.log_prob)
    return found


def append(
    table: Json, token: str, log_prob: float | None, top: Mapping[str, float] | None, offset: int
) -> None:
    """Add a token to log-probabilities as `/v1/completions` has them."""
    known = None if log_prob is None else max(log_prob, LEAST)
    row = {"tokens": token, "token_logprobs": known, "top_logprobs": top, "text_offset": offset}
    for name, value in row.items():
        table[name].append(value)
