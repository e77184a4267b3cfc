"""What a policy is asked: a prompt with all its settings, checked before anything is written."""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
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
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams
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
    samplings = zip(
        vectors(weights, objectives, count),
        numbers("beta", beta, count),
        numbers("temperature", temperature, count),
        whole_numbers("top_k", top_k, count),
        numbers("top_p", top_p, count),
        strict=True,
    )
    rest = zip(
        whole_numbers("max_tokens", max_tokens, count),
        whole_numbers("seed", seed, count),
        stops(stop, count),
        strict=True,
    )
    return [
        PromptRequest(prompt, SamplingParams(*how), *others)
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
