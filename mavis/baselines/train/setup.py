"""What every baseline is trained with: the reference policy, prompts, rewards and their units."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import disable_progress_bars

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.prompt_filter import fitting_prompts
from mavis.decoding.reference import ReferencePolicy, spare_threads
from mavis.decoding.request import SamplingParams
from mavis.evaluation.evaluate import evaluate
from mavis.evaluation.samples import ScoredSamples
from mavis.hub import lasting
from mavis.objective import Objective
from mavis.options import TrainingOptions
from mavis.prompts import Prompt
from mavis.reward import identity

_LOGGERS = {  # the level from which libraries are heard while they train
    "trl": logging.ERROR,
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
}
_IGNORED = (
    ".*gradient_checkpointing",  # TRL and peft use names that newer transformers have changed
    ".*LeafSpec.*is deprecated",  # Lightning, against torch 2.13
    ".*does not have many workers",  # batches are made in memory
    ".*smaller than the logging interval",
    ".*in eval mode at the start",  # no dropout, on purpose
)


@dataclass(frozen=True)
class TrainingSetup:
    """Loads and measures what the trainings of one command share, once, when it is first used."""

    objectives: tuple[Objective, ...]
    config: TrainingOptions

    @cached_property
    def reference(self) -> ReferencePolicy:
        """π_ref."""
        config = self.config
        policy = ReferencePolicy.load(
            lasting(config.reference), config.template, config.device, config.template_args
        )
        spare_threads(policy.model)
        return policy

    @cached_property
    def source(self) -> str:
        """The data set of the prompts."""
        return self.config.source(self.objectives)

    @cached_property
    def held_out(self) -> list[Prompt]:
        """The validation prompts that trained models are measured on."""
        return self.prompts("validation")[: self.config.held_out]

    def prompts(self, split: str) -> list[Prompt]:
        """All prompts of a split that leave room for an answer, in the order of the seed."""
        config = self.config
        room = (config.column, config.max_tokens, config.seed)
        return fitting_prompts(self.reference, self.source, split, *room)

    def settings(self, objectives: Sequence[Objective]) -> dict[str, Any]:
        """Everything that a model trained on these objectives depends on, as its card has it."""
        return self.config.settings() | {
            "objectives": [one.name for one in objectives],
            "prompts": self.source,
            "rewards": [identity(one) for one in objectives],
            "reference_weights": self.reference.weights_digest,
        }

    def reference_answers(self, held_out: int) -> ScoredSamples:
        """The reference policy's answers to the first third of so many held-out prompts."""
        config = self.config
        return evaluate(
            GuidedPolicy(self.reference),
            self.held_out[: -(-held_out // 3)],
            self.objectives,
            SamplingParams(),
            max_tokens=config.max_tokens,
            n=config.best_of,
            seed=config.seed,
            rows=config.rows,
        )

    def answers(
        self, policy: GuidedPolicy, objectives: Sequence[Objective], sampling: SamplingParams
    ) -> ScoredSamples:
        """A trained policy's answers to the held-out prompts, one each."""
        config = self.config
        return evaluate(
            policy,
            self.held_out,
            objectives,
            sampling,
            max_tokens=config.max_tokens,
            seed=config.seed + 1,  # not the draws that the units were measured on
            rows=config.rows,
        )

    def card_entries(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What the cards of all trained models have in common."""
        return {
            "reference": self.reference.name,
            "fingerprint": self.reference.fingerprint,
            "template": self.reference.template,
            "template_args": self.config.template_args,
            "reference_weights": settings["reference_weights"],
            "rewards": tuple(settings["rewards"]),
            "seed": self.config.seed,
            "settings": settings,
        }


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep TRL and Lightning from talking over our own lines."""
    disable_progress_bars()
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        for message in _IGNORED:
            warnings.filterwarnings("ignore", message)
        try:
            for name, level in _LOGGERS.items():
                logging.getLogger(name).setLevel(level)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
