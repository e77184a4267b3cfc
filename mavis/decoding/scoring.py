"""Scoring given replies: how likely a policy finds every token, and what each objective adds."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mavis.decoding.arguments import SHOWN
from mavis.decoding.guidance import PolicyRows
from mavis.decoding.prompt_requests import Completion, PromptRequest
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import row_settings
from mavis.decoding.tilt import Candidates, RowSettings, exact_kl, truncation
from mavis.prompts import Prompt

AT_ONCE = 128  # tokens that are scored together: their logits are [128, V]


@dataclass(frozen=True)
class Score:
    """How likely a policy finds a reply, token by token, in nats.

    Args:
        prompt: that it replies to.
        tokens: T of them.
        log_prob: log π of each; −∞ for a token that top-k or top-p leaves out.
        log_ref: log π_ref of each; π_ref is not truncated.
        kl: KL(π ‖ π_ref) at the state before each.
        truncation: −log π_ref(C) there, what top-k and top-p alone cost.
        parts: by objective, its part in the tilt of each token, β·λ·(Q(s, a) − E[Q(s, ·)]), the
            mean being over the candidates under π_ref; NaN for a token that is left out.
    """

    prompt: Prompt
    tokens: list[int]
    log_prob: list[float]
    log_ref: list[float]
    kl: list[float]
    truncation: list[float]
    parts: dict[str, list[float]]


def tokens_of(
    answer: Completion | str | Sequence[int], at: int, reference: ReferencePolicy
) -> list[int]:
    """The tokens of a given answer, which is that of prompt number `at`.

    Raises:
        ValueError: it is no answer, has no tokens, or some that the reference does not know.
    """
    if isinstance(answer, str):
        tokens = list(reference.tokenizer(answer, add_special_tokens=False).input_ids)
    else:
        given = answer.tokens if isinstance(answer, Completion) else answer
        try:
            tokens = [operator.index(token) for token in given]
        except TypeError as error:
            raise ValueError(
                "completions must be answers of a policy, texts, or lists of token ids, got "
                f"{repr(given)[:SHOWN]} for prompt {at}."
            ) from error
    if not tokens:
        raise ValueError(f"completions must have tokens, got none for prompt {at}.")
    if unknown := [token for token in tokens if not 0 <= token < reference.vocabulary]:
        raise ValueError(
            f"completions must be of tokens that {reference.name} knows, got {unknown[0]} for "
            f"prompt {at}."
        )
    return tokens


@torch.inference_mode()
def score(policy: PolicyRows, request: PromptRequest, tokens: Sequence[int]) -> Score:
    """Score a reply to a prompt: in one forward of each model, unless values are of states.

    The first row of the policy is used; the prompt is encoded, and the reply T ≥ 1 tokens.

    Raises:
        ValueError: a model gave numbers that are not finite; it is named.
    """
    row, device = np.array([0]), policy.reference.model.device
    size = AT_ONCE if policy.guidance.one_forward else 1
    settings = row_settings([request.sampling] * size, policy.reference.vocabulary, device)
    policy.clear(row)
    if len(request.tokens) > 1:
        first = settings.select(torch.tensor([0], device=device))
        policy.read(row, [request.tokens[:-1]], first)
    # The state before each token of the reply: that after the prompt, and after each token but one.
    read = [request.tokens[-1], *tokens[:-1]]
    reports = []
    for begin in range(0, len(tokens), size):
        part, reply = read[begin : begin + size], tokens[begin : begin + size]
        how = settings.select(torch.arange(len(part), device=device))
        options, log_pi = policy.step(row, [part], how, every=size > 1)
        report = _report(policy, options, log_pi, torch.tensor(reply, device=device), how)
        # What is not finite is a model's fault, but for log π, which may be −∞.
        finite = report[:, 1:4].isfinite().all(-1) & ~report[:, 0].isnan()
        if not finite.all():
            at = int(finite.long().argmin())
            raise policy.fault(at, options, [*request.tokens, *tokens[: begin + at]])
        reports.append(report)
    log_prob, log_ref, kl, cut, *parts = torch.cat(reports).T.tolist()
    named = dict(zip(policy.guidance.objectives, parts, strict=True))
    return Score(request.prompt, list(tokens), log_prob, log_ref, kl, cut, named)


def _report(
    policy: PolicyRows, options: Candidates, log_pi: Tensor, tokens: Tensor, how: RowSettings
) -> Tensor:
    """Log π, log π_ref, KL, truncation and the parts of T tokens [T, 4 + M]."""
    full = torch.log_softmax(policy.logits / how.temperature[:, None], dim=-1)  # [T, V]
    # The reference is not truncated, so that it has a probability of every token.
    log_ref = full.gather(1, tokens[:, None])[:, 0]
    taken = (options.tokens == tokens[:, None]) & (options.log_ref > -torch.inf)  # [T, K]
    inside, pick = taken.any(-1), taken.long().argmax(-1, keepdim=True)
    log_prob = torch.where(inside, log_pi.gather(1, pick)[:, 0], -torch.inf)
    columns = [log_prob, log_ref, exact_kl(log_pi, options.log_ref), truncation(options.log_ref)]
    shares = torch.softmax(options.log_ref, dim=-1)[..., None]  # [T, K, 1] of π_ref, over C
    at = 0
    for values in policy.guidance.values:  # [T, K, M]
        weights = how.weights[:, at : at + values.shape[-1]] * how.beta[:, None]  # [T, M]
        at += values.shape[-1]
        # Values are known up to a number per state, which the tilt does not feel: without their
        # mean, what is left is what the objective makes of this token, against the others.
        mean = torch.where(shares > 0, shares * values, 0.0).sum(1)
        chosen = values.gather(1, pick[..., None].expand(-1, -1, values.shape[-1]))[:, 0]
        parts = torch.where(weights == 0, 0.0, weights * (chosen - mean))
        columns += list(torch.where(inside[:, None], parts, torch.nan).T)
    return torch.stack(columns, dim=-1)
