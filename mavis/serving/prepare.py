"""From what a request asks to requests of the decoder, checked before anything is written."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import PromptRequest
from mavis.decoding.reference import PromptTooLong
from mavis.decoding.request import Request, SamplingParams
from mavis.serving.errors import Refused
from mavis.serving.fields import Asked


@dataclass(frozen=True)
class Job:
    """The replies to one prompt of a request.

    Args:
        tokens: the prompt.
        sampling: how its replies are drawn.
        limit: the longest reply, in tokens.
        stop: strings that end one.
        copies: a request of the decoder for each reply.
    """

    tokens: list[int]
    sampling: SamplingParams
    limit: int
    stop: tuple[str, ...]
    copies: Sequence[Request]


def jobs(asked: Asked, policy: GuidedPolicy, longest: int, most: int) -> list[Job]:
    """Encode the prompts of a request, and spell out its replies.

    A reply has the random stream that `GuidedPolicy.generate` gives it: the same prompt, settings
    and seed have the same replies there and here.

    Args:
        asked: the request.
        policy: what answers it.
        longest: the most tokens that a prompt and its reply may have.
        most: replies that there is room for.

    Raises:
        Refused: a prompt cannot be answered, or a setting cannot be.
    """
    if len(asked.prompts) * asked.n > most:
        raise Refused(400, f"prompts times n may be {most} here: ask in parts.", "n")
    try:
        (how,) = policy.requests(
            "?",
            asked.weights or None,
            asked.beta,
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
        )
        how.sampling.check(policy.objectives)
        return [_job(asked, policy, longest, how, prompt) for prompt in asked.prompts]
    except ValueError as error:
        raise Refused(400, str(error)) from error


def _job(
    asked: Asked,
    policy: GuidedPolicy,
    longest: int,
    how: PromptRequest,
    prompt: object,
) -> Job:
    tokens, stop = _encoded(asked, policy, prompt)
    left = longest - len(tokens)
    limit = max(1, left) if asked.limit is None else asked.limit
    if left < limit:
        name = "messages" if asked.chat else "prompt"
        raise Refused(
            400,
            f"the prompt has {len(tokens)} tokens and {limit} are asked for, and together they may "
            f"be {longest}: shorten one of them.",
            name,
        )
    stop = (*stop, *asked.stop)
    # Equal prompts with a seed have equal replies, as in `generate`; without one they have not.
    seed = secrets.randbits(63) if asked.seed is None else asked.seed
    copies = [
        Request(
            tokens,
            limit,
            how.sampling,
            (seed, *tokens, "sample", copy),
            stop,
            top=asked.top or 0,
            attributed=asked.attribution,
            endless=asked.endless,
        )
        for copy in range(asked.n)
    ]
    for copy in copies[:1]:
        copy.check(policy.reference)
    return Job(tokens, how.sampling, limit, stop, copies)


def _encoded(
    asked: Asked, policy: GuidedPolicy, prompt: object
) -> tuple[list[int], tuple[str, ...]]:
    """The tokens of a prompt, and the strings at which its reply ends."""
    reference = policy.reference
    if asked.chat:
        try:
            encoded = reference.encode(prompt)  # type: ignore[arg-type]
        except PromptTooLong as error:
            raise Refused(400, str(error), "messages") from error
        return encoded.tokens, encoded.stop
    if isinstance(prompt, str):
        return reference.continued(prompt), ()
    return list(prompt), ()  # type: ignore[call-overload]
