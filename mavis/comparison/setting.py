"""The setting that methods are compared in: prompts, draws, candidates, rewards, equal for all.

All of them answer and are scored by `evaluate`, so no method can be scored on other text.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mavis.comparison.methods import Chosen
from mavis.comparison.preferences import Weighting
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.collect import Collector
from mavis.evaluation.evaluate import evaluate
from mavis.evaluation.samples import ScoredSamples, side_by_side
from mavis.objective import Objective
from mavis.prompts import Prompt, digest
from mavis.reward import identity

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
        parts = []
        for seed in range(self.seeds if n == 1 else 1):
            policy, vector = choose(seed)
            sampling = SamplingParams(vector, strength, self.temperature, self.top_k)
            samples = evaluate(
                policy,
                self.prompts,
                self.objectives,
                sampling,
                max_tokens=self.max_tokens,
                n=n,
                seed=seed,
                rows=self.rows,
                collector=Collector(bars=False),  # a sweep has one already
            )
            parts.append(samples)
        return replace(side_by_side(parts), method=method, weights=weights, strength=strength)

    def speed(self, chosen: Chosen, strength: float) -> float:
        """Tokens per CPU second of a policy, answering the first prompts."""
        policy, vector = chosen
        sampling = SamplingParams(vector, strength, self.temperature, self.top_k)
        some = self.prompts[:TIMED]
        count = len(some)
        began = time.process_time()
        answers = policy.sample(
            some, [sampling] * count, [self.max_tokens] * count, [0] * count, rows=self.rows
        )
        return sum(len(a.tokens) for a in answers) / max(time.process_time() - began, 1e-9)
