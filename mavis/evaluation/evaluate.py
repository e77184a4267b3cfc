"""The one way to measure a policy: it answers prompts, and every objective scores the answers."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_requests import Completion, listed
from mavis.decoding.request import SamplingParams
from mavis.evaluation.collect import Collector
from mavis.evaluation.samples import NUMBERS, ScoredSamples
from mavis.objective import Objective, find
from mavis.prompts import Prompt, plain
from mavis.storage import Row, chunks

PARTS = 16  # answers that are sampled together, per decoding row: few, so that they are saved often


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
        policy: the policy; `GuidedPolicy(reference)` is the reference policy.
        prompts: texts or chats, P of them.
        objectives: M objectives, or names of installed ones.
        sampling: weights, strength and candidates, the same for all prompts; None means weight 1
            for each objective of the policy, at the strength that it was trained for.
        max_tokens: maximum answer length in tokens.
        n: number of answers to each prompt, S.
        seed: seed of all random draws.
        rows: batch size: answers that are decoded at the same time.
        folder: where answers and scores are saved, so that an interrupted run resumes; None saves
            nothing.
        collector: shares the work among processes, and measures the time.

    Returns:
        texts, tokens, rewards [P, S, M] and KL [P, S] of the answers.

    Raises:
        ValueError: there is no prompt, a setting is out of range, a reward fails, or the folder
            holds answers to other prompts.
    """
    prompt_list = listed(prompts)
    if not prompt_list:
        raise ValueError("prompts must hold at least one prompt to evaluate a policy on, got none.")
    scored = [find(one) if isinstance(one, str) else one for one in objectives]
    if sampling is None:
        sampling = SamplingParams((1.0,) * len(policy.objectives), policy.beta)
    collector = collector or Collector()

    # The answer to a prompt does not depend on the other prompts, so neither parts nor an
    # interruption change it.
    def make(missing: Sequence[int]) -> Iterator[Row]:
        for part in chunks(missing, max(1, PARTS * rows // max(1, n))):
            several, count = [prompt_list[index] for index in part], len(part)
            settings = ([sampling] * count, [max_tokens] * count, [seed] * count)
            answers = policy.sample(several, *settings, n, rows)
            yield from map(_answer_row, part, several, chunks(answers, n))

    made = collector.make(folder, make, prompt_list, "answers", "prompts")
    seconds = collector.seconds["made"]  # without the rewards
    rewards = collector.score(folder, made, scored)
    return ScoredSamples(
        objectives=tuple(one.name for one in scored),
        responses=[row["responses"] for row in made],
        tokens=[row["tokens"] for row in made],
        rewards=np.stack(rewards),
        # Older folders have no `log_ref`.
        numbers={
            name: np.array([row.get(name, [math.nan] * n) for row in made]) for name in NUMBERS
        },
        seconds=seconds,
        weights=sampling.weights,
        strength=sampling.beta,
    )


def _answer_row(index: int, prompt: Prompt, answers: Sequence[Completion]) -> Row:
    return {
        "index": index,
        "prompt": plain(prompt),
        "responses": [answer.text for answer in answers],
        "tokens": [answer.tokens for answer in answers],
    } | {name: [getattr(answer, name) for answer in answers] for name in NUMBERS}
