"""The setting of a comparison: the same prompts, draws, candidates and rewards for all methods.

Every method generates and is scored through `evaluate`, so all are scored on the same kind of text.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mavis.comparison.config import ParetoConfig
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

TIMED = 64  # prompts that decoding speed is measured on
HELD_EQUAL = ("seeds", "best_of", "max_tokens", "temperature", "top_k")  # options of every point


@dataclass(frozen=True)
class Setting:
    """Everything that is held equal for all methods."""

    reference: ReferencePolicy  # π_ref
    objectives: tuple[Objective, ...]  # their rewards score every answer
    prompts: list[Prompt]  # P held-out prompts
    config: ParetoConfig  # of which `HELD_EQUAL` and the batch size are used here

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the objectives."""
        return tuple(objective.name for objective in self.objectives)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all prompts."""
        return hashlib.sha256("".join(map(digest, self.prompts)).encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """Return the settings that points must share to be compared."""
        return {
            "reference": self.reference.name,
            "template": self.reference.template,
            "template_args": self.reference.template_args,
            "objectives": list(self.names),
            "rewards": [identity(objective) for objective in self.objectives],
            "prompts": [digest(prompt) for prompt in self.prompts],
            **{name: getattr(self.config, name) for name in HELD_EQUAL},
        }

    def sampling(self, weights: Weighting, strength: float) -> SamplingParams:
        """Return the sampling settings of a policy."""
        config = self.config
        return SamplingParams(weights, strength, config.temperature, config.top_k)

    def point(
        self,
        method: str,
        weights: Weighting,
        strength: float,
        choose: Callable[[int], Chosen],
        n: int = 1,
    ) -> ScoredSamples:
        """Answer all prompts with a method's policies at weights λ [M], and score the answers.

        `choose` returns the policy of a seed. If n > 1 answers are drawn for each prompt, all are
        from the policy of the first seed.
        """
        parts = []
        for seed in range(self.config.seeds if n == 1 else 1):
            policy, vector = choose(seed)
            samples = evaluate(
                policy,
                self.prompts,
                self.objectives,
                self.sampling(vector, strength),
                max_tokens=self.config.max_tokens,
                n=n,
                seed=seed,
                rows=self.config.rows,
                collector=Collector(bars=False),  # the sweep shows a progress bar of its own
            )
            parts.append(samples)
        return replace(side_by_side(parts), method=method, weights=weights, strength=strength)

    def speed(self, chosen: Chosen, strength: float) -> float:
        """Measure a policy's tokens per CPU second on the first `TIMED` prompts."""
        policy, vector = chosen
        prompts = self.prompts[:TIMED]
        sampling = [self.sampling(vector, strength)] * len(prompts)
        lengths, streams = [self.config.max_tokens] * len(prompts), [0] * len(prompts)
        began = time.process_time()
        answers = policy.sample(prompts, sampling, lengths, streams, rows=self.config.rows)
        return sum(len(a.tokens) for a in answers) / max(time.process_time() - began, 1e-9)
