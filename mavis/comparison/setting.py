"""The ground that methods are compared on: prompts, draws, candidates, rewards, the same for all.

There is one function that answers and one that scores, so no method can be scored on other text.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mavis.comparison.methods import Chosen
from mavis.comparison.preferences import Weighting
from mavis.comparison.samples import NUMBERS, Array, ScoredSamples
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.collect import PER_SCORING
from mavis.objective import Objective
from mavis.prompts import Prompt, digest, plain
from mavis.reward import identity, score
from mavis.storage import chunks

TIMED = 64  # prompts whose answers are timed


@dataclass(frozen=True)
class Setting:
    """What is the same for every method.

    Args:
        reference: π_ref.
        objectives: whose rewards all answers get.
        prompts: P held-out prompts.
        seeds: S, how many answers to each.
        best_of: how many answers of π_ref the best is taken of.
        max_tokens: the longest answer.
        temperature: of π_ref, and of every policy mixed into it.
        top_k: candidates per token; 0 is the whole vocabulary.
        rows: how many answers are written side by side.
    """

    reference: ReferencePolicy
    objectives: tuple[Objective, ...]
    prompts: list[Prompt]
    seeds: int
    best_of: int
    max_tokens: int
    temperature: float
    top_k: int
    rows: int

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The objectives' names."""
        return tuple(objective.name for objective in self.objectives)

    @cached_property
    def fingerprint(self) -> str:
        """Of the prompts, all together."""
        return hashlib.sha256("".join(map(digest, self.prompts)).encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """What points must have in common to be compared."""
        return {
            "reference": self.reference.name,
            "template": self.reference.template,
            "template_args": self.reference.template_args,
            "objectives": list(self.names),
            "rewards": [identity(objective) for objective in self.objectives],
            "prompts": [digest(prompt) for prompt in self.prompts],
            "seeds": self.seeds,
            "best_of": self.best_of,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
        }

    def point(
        self,
        method: str,
        weights: Weighting,
        strength: float,
        choose: Callable[[int], Chosen],
        n: int = 1,
    ) -> ScoredSamples:
        """Have all prompts answered and scored.

        Args:
            method: whose point it is.
            weights: λ [M].
            strength: that multiplies them.
            choose: the policy of each seed.
            n: answers to a prompt from one seed; more than 1 makes the S axis of one seed's.
        """
        started = time.perf_counter()
        many = len(self.prompts)
        columns = []
        for seed in range(self.seeds if n == 1 else 1):
            policy, vector = choose(seed)
            sampling = SamplingParams(
                vector, strength, temperature=self.temperature, top_k=self.top_k
            )
            limits, draws = [self.max_tokens] * many, [seed] * many
            answers = policy.sample(self.prompts, [sampling] * many, limits, draws, n, self.rows)
            columns.append(answers)
        seconds = time.perf_counter() - started
        if n == 1:
            grid = [list(answers) for answers in zip(*columns, strict=True)]  # [P][S]
        else:
            grid = [list(part) for part in chunks(columns[0], n)]
        texts = [[answer.text for answer in answers] for answers in grid]
        return ScoredSamples(
            method=method,
            weights=weights,
            strength=strength,
            responses=texts,
            tokens=[[answer.tokens for answer in answers] for answers in grid],
            rewards=self._rewards(texts),
            numbers={
                name: np.array([[getattr(a, name) for a in answers] for answers in grid])
                for name in NUMBERS
            },
            seconds=seconds,
        )

    def speed(self, chosen: Chosen, strength: float) -> float:
        """Tokens per CPU second of a policy, answering the first prompts."""
        policy, vector = chosen
        sampling = SamplingParams(vector, strength, temperature=self.temperature, top_k=self.top_k)
        some = self.prompts[:TIMED]
        count = len(some)
        began = time.process_time()
        answers = policy.sample(
            some, [sampling] * count, [self.max_tokens] * count, [0] * count, rows=self.rows
        )
        return sum(len(a.tokens) for a in answers) / max(time.process_time() - began, 1e-9)

    def _rewards(self, texts: Sequence[Sequence[str]]) -> Array:
        """Every objective's reward of every answer [P, S, M]: the one place where any is scored."""
        prompts = [
            plain(p) for p, answers in zip(self.prompts, texts, strict=True) for _ in answers
        ]
        replies = [text for answers in texts for text in answers]
        rows = list(zip(prompts, replies, strict=True))
        columns = []
        for objective in self.objectives:
            scores: list[float] = []
            for some in chunks(rows, PER_SCORING):
                asked, said = ([row[side] for row in some] for side in (0, 1))
                scores += score(
                    objective.name, objective.reward, asked, said, objective.scores_thoughts
                ).tolist()
            columns.append(scores)
        rewards: Array = np.array(columns, dtype=np.float64).T
        return rewards.reshape(len(texts), -1, len(self.objectives))
