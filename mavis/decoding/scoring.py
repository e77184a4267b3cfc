"""Scoring given replies: how likely a policy finds every token, and what each objective adds."""

import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mavis.decoding.arguments import SHOWN
from mavis.decoding.guidance import PolicyRows
from mavis.decoding.prompt_requests import Completion, PromptRequest
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import row_settings
from mavis.decoding.tilt import Candidates, RowSettings, exact_kl, parts, truncation
from mavis.decoding.tilt import advantages as centred
from mavis.prompts import Prompt

SIDE_BY_SIDE = 32  # replies that are read together where values need that
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


def all_tokens(
    answers: Collection[Completion | str | Sequence[int]], prompts: int, reference: ReferencePolicy
) -> list[list[int]]:
    """The tokens of given answers, one to each prompt.

    Raises:
        ValueError: there are not as many as prompts; or as `tokens_of`.
    """
    if prompts != len(answers):
        raise ValueError(f"completions must be one per prompt ({prompts}), got {len(answers)}.")
    return [tokens_of(one, at, reference) for at, one in enumerate(answers)]


@dataclass(frozen=True)
class Step:
    """What a policy makes of R tokens that were chosen before.

    Args:
        reply: number of the reply that each of them is of [R].
        tokens: ids [R]; those of one reply come in its order, in this step and those after it.
        options: the candidates in their place.
        values: of the candidates [R, K, M].
        log_pi: log π of the candidates [R, K].
        logits: of the reference policy there [R, V].
        settings: how the rows sample.
    """

    reply: list[int]
    tokens: Tensor
    options: Candidates
    values: Tensor
    log_pi: Tensor
    logits: Tensor
    settings: RowSettings


def score(
    policy: PolicyRows, requests: Sequence[PromptRequest], replies: Sequence[Sequence[int]]
) -> list[Score]:
    """Score replies of T ≥ 1 tokens to encoded prompts.

    Raises:
        ValueError: a model gave numbers that are not finite; it is named.
    """
    reports: list[list[Tensor]] = [[] for _ in replies]
    for step in walk(policy, requests, replies):
        for reply, line in zip(step.reply, _report(step), strict=True):
            reports[reply].append(line)
    scores = []
    for request, tokens, lines in zip(requests, replies, reports, strict=True):
        log_prob, log_ref, kl, cut, *parts = torch.stack(lines).T.tolist()
        named = dict(zip(policy.guidance.objectives, parts, strict=True))
        scores.append(Score(request.prompt, list(tokens), log_prob, log_ref, kl, cut, named))
    return scores


@torch.inference_mode()
def walk(
    policy: PolicyRows, requests: Sequence[PromptRequest], replies: Sequence[Sequence[int]]
) -> Iterator[Step]:
    """Go through replies of T ≥ 1 tokens to encoded prompts, as the policy would have decoded them.

    Each takes one forward of each model where values need no more; where they are of the state
    after each candidate, replies are read side by side, a token of each at a time.

    Raises:
        ValueError: a model gave numbers that are not finite; it is named.
    """
    one_forward, rows = policy.guidance.one_forward, policy.cache.cache.rows
    for begin in range(0, len(replies), 1 if one_forward else rows):
        mine = list(range(begin, min(len(replies), begin + (1 if one_forward else rows))))
        _read_prompts(policy, [requests[at] for at in mine])
        if one_forward:
            yield from _one_reply(policy, requests[begin], replies[begin], begin)
            continue
        for at in range(max(len(replies[one]) for one in mine)):
            live = [one for one in mine if at < len(replies[one])]
            before = [[*requests[one].tokens, *replies[one][:at]] for one in live]
            index = np.array(live) - begin
            how = _settings(policy, [requests[one] for one in live])
            result = policy.step(index, [tokens[-1:] for tokens in before], how)
            yield _step(policy, live, [replies[one][at] for one in live], result, how, before)


def _one_reply(
    policy: PolicyRows, request: PromptRequest, reply: Sequence[int], number: int
) -> Iterator[Step]:
    # The state before each token of the reply: that after the prompt, and after each token but one.
    read = [request.tokens[-1], *reply[:-1]]
    for begin in range(0, len(reply), AT_ONCE):
        part, tokens = read[begin : begin + AT_ONCE], reply[begin : begin + AT_ONCE]
        how = _settings(policy, [request] * len(part))
        result = policy.step(np.array([0]), [part], how, every=True)
        before = [[*request.tokens, *reply[: begin + at]] for at in range(len(part))]
        yield _step(policy, [number] * len(part), tokens, result, how, before)


def _read_prompts(policy: PolicyRows, requests: Sequence[PromptRequest]) -> None:
    """Read prompts but for their last tokens, each in a row of its own."""
    policy.clear(np.arange(len(requests)))
    longer = [at for at, one in enumerate(requests) if len(one.tokens) > 1]
    if longer:
        how = _settings(policy, [requests[at] for at in longer])
        policy.read(np.array(longer), [requests[at].tokens[:-1] for at in longer], how)


def _settings(policy: PolicyRows, requests: Sequence[PromptRequest]) -> RowSettings:
    device = policy.reference.model.device
    return row_settings([one.sampling for one in requests], policy.reference.vocabulary, device)


def _step(
    policy: PolicyRows,
    replies: list[int],
    tokens: Sequence[int],
    result: tuple[Candidates, Tensor],
    how: RowSettings,
    before: Sequence[Sequence[int]],
) -> Step:
    """Put a step together, and see that its numbers are finite."""
    options, log_pi = result
    values = torch.cat([options.log_ref.new_zeros((*log_pi.shape, 0)), *policy.guidance.values], -1)
    chosen = torch.tensor(tokens, device=log_pi.device)
    step = Step(replies, chosen, options, values, log_pi, policy.logits, how)
    # What is not finite is a model's fault, but for log π of one token, which may be −∞.
    report = _report(step)
    finite = report[:, 1:4].isfinite().all(-1) & ~report[:, 0].isnan()
    if not finite.all():
        at = int(finite.long().argmin())
        raise policy.fault(at, options, before[at])
    return step


def _report(step: Step) -> Tensor:
    """Log π, log π_ref, KL, truncation and the parts of R tokens [R, 4 + M]."""
    options, log_pi, how, tokens = step.options, step.log_pi, step.settings, step.tokens
    full = torch.log_softmax(step.logits / how.temperature[:, None], dim=-1)  # [R, V]
    # The reference is not truncated, so that it has a probability of every token.
    log_ref = full.gather(1, tokens[:, None])[:, 0]
    inside, pick = _taken(step)
    log_prob = torch.where(inside, log_pi.gather(1, pick)[:, 0], -torch.inf)
    columns = [log_prob, log_ref, exact_kl(log_pi, options.log_ref), truncation(options.log_ref)]
    weights = how.weights * how.beta[:, None]  # [R, M]
    shared = parts(options.log_ref, step.values, pick, weights)
    columns += list(torch.where(inside[:, None], shared, torch.nan).T)
    return torch.stack(columns, dim=-1)


def advantages(step: Step) -> Tensor:
    """Each objective's Q(s, a) − E[Q(s, ·)] of R tokens [R, M], whatever the strength.

    The mean is over the candidates under π_ref; a token that is none of them has NaN.
    """
    inside, pick = _taken(step)
    found = centred(step.options.log_ref, step.values, pick)
    return torch.where(inside[:, None], found, torch.nan)


def _taken(step: Step) -> tuple[Tensor, Tensor]:
    """Whether each token is among its candidates [R], and which of them it is [R, 1]."""
    options = step.options
    taken = (options.tokens == step.tokens[:, None]) & (options.log_ref > -torch.inf)  # [R, K]
    return taken.any(-1), taken.long().argmax(-1, keepdim=True)
