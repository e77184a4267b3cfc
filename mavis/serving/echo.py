"""Log-probabilities of a given prompt, as harnesses ask for them by `echo` and `logprobs`."""

from typing import Any

from mavis.decoding.guidance import PolicyRows
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import PromptRequest
from mavis.decoding.request import likeliest
from mavis.decoding.scoring import walk
from mavis.serving.prepare import Job
from mavis.serving.replies import append, likely
from mavis.serving.text import Growing, token_text


def logprobs(policy: GuidedPolicy, job: Job, top: int) -> dict[str, Any]:
    """What the guided policy finds of each token of a prompt; of the first nothing is known.

    Args:
        policy: what finds it; called in the decoder's thread.
        job: the prompt.
        top: how many of the likeliest tokens are named beside each.
    """
    reference = policy.reference
    first, *others = job.tokens
    growing = Growing(reference, ())
    for token in job.tokens:
        growing.add(token)
    offsets = iter(growing.offsets)
    found: dict[str, Any] = {
        name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    }
    append(found, token_text(reference, first)[0], None, None, next(offsets))
    if not others:
        return found
    rows = PolicyRows(reference, policy.guides, policy.rule, 1)
    asked = PromptRequest("", job.sampling, len(others), 0, tokens=[first])
    for step in walk(rows, [asked], [others]):
        for at, token in enumerate(step.tokens.tolist()):
            options = step.options
            inside = (options.tokens[at] == token) & (options.log_ref[at] > float("-inf"))
            log_prob = step.log_pi[at][inside].sum().item() if inside.any() else float("-inf")
            named = likely(reference, likeliest(options, step.log_pi, at, top))
            append(found, token_text(reference, token)[0], log_prob, named, next(offsets))
    return found
