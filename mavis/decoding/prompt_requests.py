"""What a policy is asked and answers: prompts with their settings, checked first; completions."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from mavis.decoding.arguments import (
    Numbers,
    Stop,
    Weights,
    Whole,
    numbers,
    plain_value,
    stops,
    vectors,
    whole_numbers,
)
from mavis.decoding.reference import Encoded, PromptTooLong, ReferencePolicy
from mavis.decoding.request import Output, SamplingParams
from mavis.prompts import Prompt


@dataclass(frozen=True)
class PromptRequest:
    """A prompt and its settings.

    Args:
        prompt: a text or a chat.
        sampling: weights, strength, temperature and candidates.
        limit: the longest reply, in tokens.
        seed: of the random draws.
        stop: strings that end the reply.
    """

    prompt: Prompt
    sampling: SamplingParams
    limit: int
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One reply of a policy."""

    prompt: Prompt
    text: str
    tokens: list[int]
    kl: float  # nats against the untruncated reference: exact sums over the candidates
    kl_sampled: float  # the same from the log-ratios of the sampled tokens
    kl_truncation: float  # the part that is due to top-k and top-p alone
    log_ref: float  # log-probability under the untruncated reference, nats
    reason: str  # "end", "stop" or "length"


def completion(reference: ReferencePolicy, prompt: Prompt, output: Output) -> Completion:
    """The reply to a prompt that an output spells."""
    return Completion(
        prompt=prompt,
        text=reference.decode(output.tokens, output.request.stop),
        tokens=output.tokens,
        kl=sum(output.kl),
        kl_sampled=sum(output.log_ratio),
        kl_truncation=sum(output.truncation),
        log_ref=sum(output.log_ref),
        reason=output.reason,
    )


def listed(prompts: Prompt | Iterable[Prompt]) -> list[Prompt]:
    """One prompt, or several, as a list of prompts.

    >>> listed("Why?"), listed(("Why?", "How?"))
    (['Why?'], ['Why?', 'How?'])

    Raises:
        ValueError: these are no prompts.
    """
    prompts = plain_value(prompts)
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes | Mapping | Set) or not isinstance(prompts, Iterable):
        kind = type(prompts).__name__
        raise ValueError(f"prompts must be a text, a chat or a list of these, got a {kind}.")
    asked: list[Any] = list(prompts)
    if asked and all(isinstance(one, Mapping) for one in asked):
        return [asked]  # the messages of one chat
    for at, one in enumerate(asked):
        if isinstance(one, Mapping):
            kind = type(one).__name__
            raise ValueError(f"prompt {at} must be a text or a list of messages, got a {kind}.")
    return asked


def requests(
    prompts: Prompt | Iterable[Prompt],
    objectives: Sequence[str],
    weights: float | Weights | Collection[Weights | Numbers] | None,
    beta: Numbers,
    temperature: Numbers,
    top_k: Whole,
    top_p: Numbers,
    max_tokens: Whole,
    seed: Whole,
    stop: Stop | None,
) -> list[PromptRequest]:
    """A request per prompt, from settings that are one for all or one for each.

    Raises:
        ValueError: a setting is of a wrong length, or no number.
    """
    asked = listed(prompts)
    count = len(asked)
    columns: dict[str, Sequence[Any]] = {
        "weights": vectors(weights, objectives, count),
        "beta": numbers("beta", beta, count),
        "temperature": numbers("temperature", temperature, count),
        "top_k": whole_numbers("top_k", top_k, count),
        "top_p": numbers("top_p", top_p, count),
    }
    samplings = [
        SamplingParams(**{name: column[at] for name, column in columns.items()})
        for at in range(count)
    ]
    rest = zip(
        whole_numbers("max_tokens", max_tokens, count),
        whole_numbers("seed", seed, count),
        stops(stop, count),
        strict=True,
    )
    return [
        PromptRequest(prompt, how, *others)
        for prompt, how, others in zip(asked, samplings, rest, strict=True)
    ]


def check(
    asked: Sequence[PromptRequest], objectives: Sequence[str], reference: ReferencePolicy
) -> None:
    """Raise ValueError for settings that cannot be, and name the prompt where they differ.

    Args:
        asked: the requests.
        objectives: the M axis of their weights.
        reference: π_ref, into whose context they must fit.
    """
    several = len({request.sampling for request in asked}) > 1
    for at, request in enumerate(asked):
        try:
            request.sampling.check(objectives)
        except ValueError as error:
            raise ValueError(f"prompt {at}: {error}" if several else str(error)) from error
        if request.limit % 1:
            raise ValueError(f"max_tokens must be a whole number, got {request.limit}.")
        if request.limit < 1:
            raise ValueError(f"max_tokens must be at least 1, got {request.limit} for prompt {at}.")
        if request.limit >= reference.context:
            raise ValueError(
                f"max_tokens ({request.limit}) must fit into the context of {reference.context} "
                f"tokens of {reference.name}, together with a prompt."
            )


def started(
    asked: Sequence[PromptRequest],
    reference: ReferencePolicy,
    refuse: Callable[[int, ValueError], None] | None = None,
) -> list[tuple[PromptRequest, Encoded]]:
    """Encode prompts, each of which must leave room for its longest reply.

    Args:
        asked: the requests.
        reference: π_ref.
        refuse: is told the number of a prompt that cannot be answered, and why; the others go on.

    Raises:
        PromptTooLong, ValueError: such a prompt, where nobody is to be told; it is named.
    """
    ready = []
    for at, request in enumerate(asked):
        try:
            ready.append((request, _start(request, at, reference)))
        except ValueError as error:
            if refuse is None:
                raise
            refuse(at, error)
    return ready


def _start(request: PromptRequest, at: int, reference: ReferencePolicy) -> Encoded:
    try:
        encoded = reference.encode(request.prompt)
    except ValueError as error:
        kind = PromptTooLong if isinstance(error, PromptTooLong) else ValueError
        raise kind(f"prompt {at}: {error}") from error
    if len(encoded.tokens) + request.limit > reference.context:
        raise PromptTooLong(
            f"prompt {at} ({len(encoded.tokens)} tokens) and max_tokens ({request.limit}) must "
            f"fit into the context of {reference.context} tokens: shorten one of them."
        )
    return encoded
