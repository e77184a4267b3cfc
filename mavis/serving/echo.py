"""Log-probabilities of a given prompt, as harnesses ask for them by `echo` and `logprobs`."""

from typing import Any

from mavis.decoding.guidance import PolicyRows
from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import PromptRequest
from mavis.decoding.request import likeliest
from mavis.decoding.scoring import walk
from mavis.serving.prepare import Job
from mavis.serving.replies import append


def logprobs(policy: GuidedPolicy, job: Job, top: int) -> dict[str, Any]:
    """What the guided policy finds of each token of a prompt; of the first nothing is known.

    Args:
        policy: what finds it; called in the decoder's thread.
        job: the prompt.
        top: how many of the likeliest tokens are named beside each.
    """

    def spell(tokens: list[int]) -> str:
        return str(policy.reference.tokenizer.decode(tokens))

    first, *others = job.tokens
    found: dict[str, Any] = {
        name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    }
    append(found, spell([first]), None, None, 0)
    offset = len(spell([first]))
    if not others:
        return found
    rows = PolicyRows(policy.reference, policy.guides, policy.rule, 1)
    asked = PromptRequest("", job.sampling, len(others), 0, tokens=[first])
    for step in walk(rows, [asked], [others]):
        for at, token in enumerate(step.tokens.tolist()):
            options = step.options
            inside = (options.tokens[at] == token) & (options.log_ref[at] > float("-inf"))
            log_prob = step.log_pi[at][inside].sum().item() if inside.any() else float("-inf")
            likely = likeliest(options, step.log_pi, at, top)
            named = {spell([one.token]): one.log_prob for one in likely}
            append(found, spell([token]), log_prob, named, offset)
            offset += len(spell([token]))
    return found
