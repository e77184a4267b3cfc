"""The one way to measure a policy: it answers prompts, and every objective scores the answers."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import listed
from mavis.decoding.request import SamplingParams
from mavis.evaluation.collect import Collector
from mavis.evaluation.samples import NUMBERS, ScoredSamples
from mavis.objective import Objective, find
from mavis.prompts import Prompt, plain
from mavis.storage import Row, chunks

PARTS = 16  # answers that are begun together, in rows of the decoder: few enough to be kept often


def evaluate(
    policy: GuidedPolicy,
    prompts: Prompt | Iterable[Prompt],
    objectives: Sequence[Objective | str],
    sampling: SamplingParams | None = None,
    max_tokens: int = 64,
    n: int = 1,
    seed: int = 0,
    rows: int = 64,
    folder: Path | None = None,
    collector: Collector | None = None,
) -> ScoredSamples:
    """Answer prompts with a policy, and score the answers by every objective.

    Args:
        policy: who answers; `GuidedPolicy(reference)` is the reference policy.
        prompts: texts or chats, P of them.
        objectives: M objectives, or names of installed ones.
        sampling: weights, strength and candidates, the same for all prompts; None weighs every
            objective of the policy 1, at the strength that it was trained for.
        max_tokens: the longest answer.
        n: answers to each prompt, S.
        seed: of the random draws.
        rows: how many answers are written side by side.
        folder: where answers and scores are kept, for a run that goes on; None keeps nothing.
        collector: the processes that do this together, and who counts what it takes.

    Returns:
        texts, tokens, rewards [P, S, M] and KL [P, S] of the answers.

    Raises:
        ValueError: there is no prompt, a setting is out of range, a reward fails, or the folder
            holds answers to other prompts.
    """
    asked = listed(prompts)
    if not asked:
        raise ValueError("prompts must hold at least one prompt to evaluate a policy on, got none.")
    judges = [find(one) if isinstance(one, str) else one for one in objectives]
    if sampling is None:
        sampling = SamplingParams((1.0,) * len(policy.objectives), policy.beta)
    collector = collector or Collector()

    # The answer to a prompt does not depend on what is asked beside it, so neither parts nor an
    # interruption change it.
    def make(missing: Sequence[int]) -> Iterator[Row]:
        for part in chunks(missing, max(1, PARTS * rows // max(1, n))):
            some = [asked[index] for index in part]
            yield from _answer_rows(policy, some, part, sampling, max_tokens, n, seed, rows)

    made = collector.make(folder, make, asked, "answers", "prompts")
    seconds = collector.seconds["made"]  # rewards are no part of decoding
    rewards = collector.score(folder, made, judges)
    return ScoredSamples(
        objectives=tuple(judge.name for judge in judges),
        responses=[row["responses"] for row in made],
        tokens=[row["tokens"] for row in made],
        rewards=np.stack(rewards),
        # Folders from before `log_ref` was kept go without it.
        numbers={
            name: np.array([row.get(name, [math.nan] * n) for row in made]) for name in NUMBERS
        },
        seconds=seconds,
        weights=sampling.weights,
        strength=sampling.beta,
    )


def _answer_rows(
    policy: GuidedPolicy,
    prompts: Sequence[Prompt],
    numbers: Sequence[int],
    sampling: SamplingParams,
    max_tokens: int,
    n: int,
    seed: int,
    rows: int,
) -> Iterator[Row]:
    """A row for each prompt, with its n answers."""
    count = len(prompts)
    limits, seeds = [max_tokens] * count, [seed] * count
    answers = policy.sample(prompts, [sampling] * count, limits, seeds, n, rows)
    for prompt, index, mine in zip(prompts, numbers, chunks(answers, n), strict=True):
        yield {
            "index": index,
            "prompt": plain(prompt),
            "responses": [a.text for a in mine],
            "tokens": [a.tokens for a in mine],
        } | {name: [getattr(a, name) for a in mine] for name in NUMBERS}
