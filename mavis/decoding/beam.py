"""Beam search: the most likely answers of a policy, whatever guides it.

The beams of all prompts are rows of the decoding core's caches and take their steps together; a
beam that goes on from another one's row copies it. Ended answers wait until no living beam can
still overtake them: a log-probability only falls.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mavis.decoding.guidance import Guidance
from mavis.decoding.policy import Completion, GuidedPolicy
from mavis.decoding.reference import Encoded
from mavis.decoding.request import SamplingParams
from mavis.decoding.tilt import Candidates, RowSettings, exact_kl, truncation
from mavis.prompts import Prompt


@dataclass(frozen=True)
class Beam:
    """An answer so far: its tokens, and what is summed over them, in nats."""

    score: float = 0.0  # log π
    tokens: tuple[int, ...] = ()
    log_ref: float = 0.0
    kl: float = 0.0
    truncation: float = 0.0
    reason: str = ""


@dataclass
class _Search:
    """One prompt's: the living beams by row, and the ended ones, best first."""

    prompt: Prompt
    start: Encoded
    alive: list[Beam] = field(default_factory=lambda: [Beam()])
    ended: list[Beam] = field(default_factory=list)

    def best(self, width: int) -> list[Beam]:
        return sorted([*self.ended, *self.alive], key=lambda beam: -beam.score)[:width]

    def settle(self, width: int) -> None:
        """Let go of living beams that can no longer be among the best."""
        self.ended = sorted(self.ended, key=lambda beam: -beam.score)[:width]
        if len(self.ended) == width:
            last = self.ended[-1].score
            self.alive = [beam for beam in self.alive if beam.score > last]


@torch.inference_mode()
def beam_search(
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    width: int = 4,
    max_tokens: int = 64,
) -> list[list[Completion]]:
    """Search for the most likely answers.

    Args:
        policy: what to ask: a guided policy, a mixture of others, or π_ref alone.
        prompts: texts or chats.
        sampling: weights, β, temperature and candidates, for all prompts.
        width: W, how many beams a prompt has.
        max_tokens: the longest answer.

    Returns:
        for each prompt up to W answers, most likely first.

    Raises:
        ValueError: a setting is out of range, or a prompt is empty or too long.
    """
    if width < 1 or max_tokens < 1:
        raise ValueError(f"width and max_tokens must be at least 1, got {width} and {max_tokens}.")
    sampling.check(policy.objectives)
    searches = []
    for at, prompt in enumerate(prompts):
        try:
            start = policy.reference.encode(prompt)
        except ValueError as error:
            raise ValueError(f"prompt {at}: {error}") from error
        if len(start.tokens) + max_tokens > policy.reference.context:
            raise ValueError(
                f"prompt {at} ({len(start.tokens)} tokens) and max_tokens ({max_tokens}) must fit "
                f"into the context of {policy.reference.context} tokens: shorten one of them."
            )
        searches.append(_Search(prompt, start))
    if not searches:
        return []
    states = Guidance(policy.reference, policy.networks, policy.rule, len(searches) * width)
    _begin(states, searches, width, _settings(policy, sampling, 1))
    for step in range(max_tokens):
        living = [
            (at * width + nth, search, beam)
            for at, search in enumerate(searches)
            for nth, beam in enumerate(search.alive)
        ]
        if not living:
            break
        rows = [row for row, _, _ in living]
        last = [beam.tokens[-1] if step else search.start.tokens[-1] for _, search, beam in living]
        settings = _settings(policy, sampling, len(rows))
        options, log_pi = states.step(np.array(rows), [[token] for token in last], settings)
        kl, cut = exact_kl(log_pi, options.log_ref), truncation(options.log_ref)
        grown = _Grown(options, log_pi, kl.tolist(), cut.tolist())
        for nth, (_, search, beam) in enumerate(living):
            if not math.isfinite(grown.kl[nth] + grown.truncation[nth]):
                raise states.fault(nth, options, [*search.start.tokens, *beam.tokens])
        parents: dict[int, int] = {}
        for at, search in enumerate(searches):
            mine = [nth for nth, row in enumerate(rows) if row // width == at]
            parents |= _grow(policy, search, mine, grown, at * width, width)
        moved = {row: rows[at] for row, at in parents.items() if row != rows[at]}
        if moved:
            states.copy(np.array(list(moved)), np.array(list(moved.values())))
    return [[_answer(policy, search, beam) for beam in search.best(width)] for search in searches]


class _Grown(NamedTuple):
    """One step of all living beams."""

    options: Candidates
    log_pi: Tensor  # [R, K]
    kl: list[float]  # [R]
    truncation: list[float]  # [R]


def _settings(policy: GuidedPolicy, sampling: SamplingParams, rows: int) -> RowSettings:
    """The same for all rows."""
    place = policy.reference.model.device
    numbers = sampling.settings(policy.reference.vocabulary)
    weights = torch.tensor([sampling.weights] * rows, device=place).reshape(rows, -1)
    return RowSettings(weights, *(torch.tensor([n] * rows, device=place) for n in numbers))


def _begin(
    states: Guidance, searches: Sequence[_Search], width: int, settings: RowSettings
) -> None:
    """Read all but the last token of each prompt, into its first row."""
    for at, search in enumerate(searches):
        if len(search.start.tokens) > 1:
            states.read(np.array([at * width]), [search.start.tokens[:-1]], settings)


def _grow(
    policy: GuidedPolicy, search: _Search, mine: list[int], grown: _Grown, first: int, width: int
) -> dict[int, int]:
    """Take one prompt's step; returns which row goes on from which beam."""
    if not mine:
        return {}
    scores = torch.tensor([beam.score for beam in search.alive], dtype=torch.float64)
    total = scores[:, None] + grown.log_pi[mine].double().cpu()  # [beams, K]
    size = total.shape[1]
    best = total.flatten().sort(descending=True)
    beams: list[Beam] = []
    parents: dict[int, int] = {}
    for score, flat in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if score == -np.inf or len(beams) == width:  # those that end take no living one's place
            break
        nth, pick = divmod(flat, size)
        row, parent = mine[nth], search.alive[nth]
        token = int(grown.options.tokens[row, pick])
        beam = Beam(
            score,
            (*parent.tokens, token),
            parent.log_ref + float(grown.options.log_ref[row, pick]),
            parent.kl + grown.kl[row],
            parent.truncation + grown.truncation[row],
        )
        reason = _reason(policy, search.start, beam.tokens)
        if reason:
            search.ended.append(replace(beam, reason=reason))
        else:
            parents[first + len(beams)] = row
            beams.append(beam)
    search.alive = beams
    search.settle(width)
    return {row: parent for row, parent in parents.items() if row - first < len(search.alive)}


def _reason(policy: GuidedPolicy, start: Encoded, tokens: Sequence[int]) -> str:
    if tokens[-1] in policy.reference.ends:
        return "end"
    said = start.stop and policy.reference.spelling.stops(tokens, start.stop)
    return "stop" if said else ""


def _answer(policy: GuidedPolicy, search: _Search, beam: Beam) -> Completion:
    return Completion(
        prompt=search.prompt,
        text=policy.reference.decode(beam.tokens, search.start.stop),
        tokens=list(beam.tokens),
        kl=beam.kl,
        kl_sampled=beam.score - beam.log_ref,
        kl_truncation=beam.truncation,
        log_ref=beam.log_ref,
        reason=beam.reason or "length",
    )
