"""What a policy is asked and answers: prompts with their settings, checked first; completions."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from mavis.decoding.arguments import (
    AllWeights,
    Numbers,
    Stop,
    Whole,
    numbers,
    plain_value,
    stops,
    vectors,
    whole_numbers,
)
from mavis.decoding.guidance import MixingRule
from mavis.decoding.reference import PromptTooLong, ReferencePolicy
from mavis.decoding.request import Output, SamplingParams, try_rule
from mavis.prompts import Prompt

Refuse = Callable[[int, ValueError], None]  # the number of a prompt, and why it has no answer


class CandidateSettings(TypedDict, total=False):
    """Which tokens an answer is made of; see `GuidedPolicy.generate`."""

    temperature: Numbers
    top_k: Whole
    top_p: Numbers


class AnswerSettings(CandidateSettings, total=False):
    """The same, and where an answer ends."""

    max_tokens: Whole
    stop: Stop | None


class RequestSettings(AnswerSettings, total=False):
    """The same, and the seed of its random draws."""

    seed: Whole


@dataclass(frozen=True)
class PromptRequest:
    """A prompt and its settings.

    Args:
        prompt: a text or a chat.
        sampling: weights, strength, temperature and candidates.
        limit: the longest reply, in tokens.
        seed: of the random draws.
        stop: strings that end the reply.
        tokens: the prompt, once it is encoded.
    """

    prompt: Prompt
    sampling: SamplingParams
    limit: int
    seed: int
    stop: tuple[str, ...] = ()
    tokens: Sequence[int] = ()


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
    weights: AllWeights,
    beta: Numbers,
    temperature: Numbers = 1.0,
    top_k: Whole = 40,
    top_p: Numbers = 1.0,
    max_tokens: Whole = 64,
    seed: Whole = 0,
    stop: Stop | None = None,
) -> list[PromptRequest]:
    """A request per prompt, from settings that are one for all or one for each.

    Raises:
        ValueError: a setting is of a wrong length, or no number.
    """
    asked = listed(prompts)
    count = len(asked)
    samplings = map(
        SamplingParams,
        vectors(weights, objectives, count),
        numbers("beta", beta, count),
        numbers("temperature", temperature, count),
        whole_numbers("top_k", top_k, count),
        numbers("top_p", top_p, count),
    )
    limits = whole_numbers("max_tokens", max_tokens, count)
    seeds = whole_numbers("seed", seed, count)
    return list(map(PromptRequest, asked, samplings, limits, seeds, stops(stop, count)))


def ready(
    asked: Sequence[PromptRequest],
    objectives: Sequence[str],
    rule: MixingRule,
    reference: ReferencePolicy,
    refuse: Refuse | None = None,
) -> list[PromptRequest]:
    """Check all settings, and encode the prompts, which must leave room for their longest replies.

    Where there is a `refuse`, it is called for a prompt that cannot be answered; the others go on.

    Raises:
        ValueError: settings that cannot be.
        PromptTooLong, ValueError: a prompt that cannot be answered, without `refuse`; it is named.
    """
    _check(asked, objectives, reference)
    try_rule(rule, [request.sampling for request in asked])
    encoded = []
    for at, request in enumerate(asked):
        try:
            encoded.append(_start(request, at, reference))
        except ValueError as error:
            if refuse is None:
                raise
            refuse(at, error)
    return encoded


def _start(request: PromptRequest, at: int, reference: ReferencePolicy) -> PromptRequest:
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
    return replace(request, tokens=encoded.tokens, stop=(*encoded.stop, *request.stop))


def _check(
    asked: Sequence[PromptRequest], objectives: Sequence[str], reference: ReferencePolicy
) -> None:
    """Raise ValueError for settings that cannot be; the prompt is named where they differ."""
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
