"""What the decoder is asked for, and what it gives back: requests, events and outputs.

Every request names its random stream, so that neither the rows beside it nor their order change
its answer. `SamplingParams` is the one place that names the settings of a request.
"""

import hashlib
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mavis.decoding.guidance import MixingRule
from mavis.decoding.reference import PromptTooLong, ReferencePolicy
from mavis.decoding.tilt import Candidates, RowSettings

Key = tuple[int | str, ...]  # names a random stream

STRONGEST = 1e4  # the most a tilt or a temperature may scale by: beyond it float32 is too coarse


@dataclass(frozen=True)
class SamplingParams:
    """How one row samples.

    Args:
        weights: λ, one per objective [M]; any real numbers.
        beta: strength of the tilt; 0 is the reference policy with the same top-k.
        temperature: of the reference policy; 0 takes the likeliest token of the policy at
            temperature 1, whose log-probabilities and KL are then what is reported.
        top_k: how many candidates; 0, or more than there are tokens, is the whole vocabulary.
        top_p: probability mass of candidates, in (0, 1].
    """

    weights: tuple[float, ...] = ()
    beta: float = 2.0
    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 1.0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0

    def check(self, objectives: Sequence[str]) -> None:
        """Raise ValueError for settings that no row can have."""
        if len(self.weights) != len(objectives):
            legend = f"M = {len(objectives)}: {', '.join(objectives) or 'none'}"
            raise ValueError(
                f"weights must have one entry per objective ({legend}), got {len(self.weights)}."
            )
        numbers = {"beta": self.beta, "temperature": self.temperature, "top_p": self.top_p}
        numbers |= {f"weights.{n}": w for n, w in zip(objectives, self.weights, strict=True)}
        for name, value in numbers.items():
            if not np.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}.")
        for name, weight in zip(objectives, self.weights, strict=True):
            if abs(self.beta * weight) > STRONGEST:
                raise ValueError(
                    f"beta · weights.{name} must be at most {STRONGEST:g} in size (values are in "
                    f"standard units), got {self.beta * weight:g}."
                )
        if not (self.greedy or 1 / STRONGEST <= self.temperature <= STRONGEST):
            raise ValueError(
                f"temperature must be 0 (the likeliest token) or {1 / STRONGEST:g} to "
                f"{STRONGEST:g}, got {self.temperature}."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.top_k % 1:
            raise ValueError(f"top_k must be a whole number, got {self.top_k}.")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (all), got {self.top_k}.")


def row_settings(
    rows: Sequence[SamplingParams], vocabulary: int, device: torch.device
) -> RowSettings:
    """The settings of R rows as tensors; V is the size of the vocabulary.

    Greedy rows have the temperature 1, as the tilt divides by it.
    """

    def column(name: str, kind: torch.dtype) -> Tensor:
        return torch.tensor([getattr(row, name) for row in rows], dtype=kind, device=device)

    temperature = column("temperature", torch.float32)
    temperature[temperature == 0] = 1.0
    top_k = [min(row.top_k or vocabulary, vocabulary) for row in rows]
    return RowSettings(
        weights=column("weights", torch.float32).reshape(len(rows), -1),
        beta=column("beta", torch.float32),
        temperature=temperature,
        top_k=torch.tensor(top_k, dtype=torch.long, device=device),
        top_p=column("top_p", torch.float32),
    )


def try_rule(rule: MixingRule, samplings: Collection[SamplingParams]) -> None:
    """Show a rule all settings, on states of one candidate: what it refuses, it refuses now."""
    if samplings:
        weights = torch.tensor([sampling.weights for sampling in samplings])  # [n, M]
        nothing = torch.zeros(len(samplings), 1)
        beta = torch.tensor([sampling.beta for sampling in samplings])
        rule(nothing, torch.zeros_like(weights)[:, None], weights, beta)


@dataclass(frozen=True)
class Request:
    """Go on from `tokens`, for at most `limit` more.

    Args:
        tokens: prompt and response so far; not empty.
        limit: how many tokens to add at most; 0 only reads.
        sampling: how.
        key: names the request's random stream; equal keys, equal draws.
        stop: strings that end a response; they are no part of it.
        response: how many of the last tokens are response (a stop string may begin in them).
        hold: whether its row waits, when the request has ended, for `Decoder.fork` or
            `Decoder.cancel`.
        ranked: in place of drawing, read all tokens and report so many of the likeliest next ones;
            with `hold`, `Decoder.fork` goes on with the tokens that are picked from them.
        top: report so many of the likeliest tokens beside every one that is added.
        attributed: report each objective's part in the tilt of every token that is added.
        candidates: report so many of the reference's likeliest candidates for every token that is
            added.
        endless: go on past end tokens, up to `limit` or a stop string.
        tag: the caller's own.
    """

    tokens: Sequence[int]
    limit: int
    sampling: SamplingParams
    key: Key
    stop: tuple[str, ...] = ()
    response: int = 0
    hold: bool = False
    ranked: int = 0
    top: int = 0
    attributed: bool = False
    candidates: int = 0
    endless: bool = False
    tag: Any = None

    def __post_init__(self) -> None:
        """Refuse stop strings that nothing, or everything, ends with."""
        if isinstance(self.stop, str):
            raise ValueError(
                f"stop must be a sequence of strings, got {self.stop!r}: put it in [ ]."
            )
        for string in self.stop:
            if not string or string.encode(errors="replace").decode() != string:
                raise ValueError(f"stop strings must be text, and not empty, got {string!r}.")

    def check(self, reference: ReferencePolicy) -> None:
        """Raise ValueError for what no row of a reference policy can have.

        That is tokens that it lacks, negative numbers, and (PromptTooLong) more tokens than its
        context has room for.
        """
        vocabulary, context = reference.vocabulary, reference.context
        if not len(self.tokens):
            raise ValueError("a request must have tokens to go on from, got none.")
        if unknown := [token for token in self.tokens if not 0 <= token < vocabulary]:
            raise ValueError(
                f"tokens of a request must be in 0 … {vocabulary - 1}, got {unknown[0]}."
            )
        for name in ("limit", "ranked", "top", "candidates"):
            if (number := getattr(self, name)) < 0:
                raise ValueError(f"{name} of a request must be at least 0, got {number}.")
        if len(self.tokens) + self.limit > context:
            raise PromptTooLong(
                f"tokens ({len(self.tokens)}) and limit ({self.limit}) of a request must fit into "
                f"the context of {context} tokens of {reference.name}: shorten one of them."
            )


@dataclass(frozen=True)
class Ranked:
    """A likely next token."""

    token: int
    log_prob: float  # log π, nats
    log_ref: float  # log π_ref, nats


def likeliest(options: Candidates, log_pi: Tensor, at: int, count: int) -> tuple[Ranked, ...]:
    """The likeliest candidates of a row; among equals those that come first."""
    if not count:
        return ()
    order = log_pi[at].sort(descending=True, stable=True).indices[:count]
    columns = (options.tokens[at][order], log_pi[at][order], options.log_ref[at][order])
    every = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(Ranked(*one) for one in every if one[1] > -torch.inf)


class Proposed(NamedTuple):
    """What the reference would say at a state, the likeliest token first; K tokens."""

    tokens: npt.NDArray[np.int32]  # [K]
    log_ref: npt.NDArray[np.float32]  # [K] as in `tilt.Candidates`; −∞ = no candidate


def proposed(options: Candidates, wanted: Sequence[int]) -> list[Proposed | None]:
    """So many of the likeliest candidates of each of R rows; none where 0 are wanted."""
    if not any(wanted):
        return [None] * len(wanted)
    tokens = options.tokens[:, : max(wanted)].int().cpu().numpy()
    log_ref = options.log_ref[:, : max(wanted)].float().cpu().numpy()
    return [
        Proposed(tokens[at, :most], log_ref[at, :most]) if most else None
        for at, most in enumerate(wanted)
    ]


@dataclass(frozen=True)
class Event:
    """What one step has added to a request: a token, or only the news that it has ended."""

    id: int  # of the request
    token: int | None = None  # none where it was only read
    log_prob: float = 0.0  # log π of the token, nats
    log_ref: float = 0.0  # log π_ref of the token, nats; π_ref is not truncated
    kl: float = 0.0  # KL(π ‖ π_ref) at the state before the token, nats
    truncation: float = 0.0  # −log π_ref(C) there, nats: what top-k and top-p alone cost
    finished: str = ""  # why the request has ended: "end", "stop" or "length"; "" if it has not
    ranked: tuple[Ranked, ...] = ()  # the likeliest tokens here, where the request asks for them
    parts: tuple[float, ...] = ()  # [M] of the tilt, by objective, where the request asks for them
    candidates: Proposed | None = None  # the reference's, where the request asks for them


@dataclass
class Output:
    """What a request has added so far: one entry per new token, and why it ended."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    log_ratio: list[float] = field(default_factory=list)  # log π/π_ref of the token, nats
    kl: list[float] = field(default_factory=list)  # KL(π ‖ π_ref) at the state before it, nats
    truncation: list[float] = field(default_factory=list)  # −log π_ref(C|s) there, nats
    log_ref: list[float] = field(default_factory=list)  # log π_ref(a|s) of the token, nats
    candidates: list[Proposed] = field(default_factory=list)  # if the request asks for them
    reason: str = ""  # "end", "stop" or "length"

    def add(self, event: Event) -> None:
        """Write down what a step has added."""
        if event.token is not None:
            self.tokens.append(event.token)
            self.log_ratio.append(event.log_prob - event.log_ref)
            self.kl.append(event.kl)
            self.truncation.append(event.truncation)
            self.log_ref.append(event.log_ref)
            if event.candidates is not None:
                self.candidates.append(event.candidates)
        self.reason = event.finished


def stream(key: Key) -> np.random.Generator:
    """The random stream that a key names, on every machine."""
    plain = tuple(part if isinstance(part, str) else operator.index(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
