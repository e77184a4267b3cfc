"""What the reference policy and the current guided policy answer on held-out prompts."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.reference import ReferencePolicy, spare_threads
from mavis.decoding.request import SamplingParams
from mavis.decoding.spread import Covariance, within_prompts
from mavis.decoding.value_model import ValueModel, decoding
from mavis.evaluation.collect import Collector, World
from mavis.evaluation.evaluate import evaluate
from mavis.evaluation.samples import ScoredSamples
from mavis.objective import Objective
from mavis.prompts import Prompt
from mavis.reward import Units
from mavis.training.run_folder import METRICS, load_reference
from mavis.training.strength import Strength
from mavis.training.weightings import Weighting


class HeldOutPrompts(LightningDataModule):
    """The policies of a fit, what they answer to held-out prompts, and what follows from that.

    A data module of a fit sets these attributes, and adds what is learned from.
    """

    objectives: tuple[Objective, ...]
    prompts: dict[str, list[Prompt]]  # by split
    reference_name: str
    template: str | None
    template_args: dict[str, Any] | None
    max_tokens: int
    held_out: int  # validation prompts answered by the guided policy
    best_of: int  # reference answers to each prompt of a third of them
    rows: int  # answers that are sampled at once
    seed: int
    strength: Strength
    unguided: SamplingParams  # how the reference policy samples

    def __init__(self) -> None:
        super().__init__()
        self._baselines: dict[str, ScoredSamples] = {}  # by split

    @property
    def folder(self) -> Path:
        """The output folder of the run."""
        assert self.trainer is not None
        return Path(self.trainer.default_root_dir)

    @cached_property
    def reference(self) -> ReferencePolicy:
        """π_ref, on the device of this process."""
        assert self.trainer is not None
        device = str(self.trainer.strategy.root_device)
        how = (self.template, device, self.template_args)
        policy = load_reference(self.folder, self.reference_name, *how)
        spare_threads(policy.model)
        return policy

    @cached_property
    def collector(self) -> Collector:
        """Makes and scores this process's share of answers and trees."""
        assert self.trainer is not None
        barrier = self.trainer.strategy.barrier
        world = World(self.trainer.global_rank, self.trainer.world_size, barrier)
        return Collector(world, (self.folder / METRICS).is_file())

    def sampling(self, weights: Weighting = ()) -> SamplingParams:
        """The settings of a policy that objectives of these weights guide; () is the reference."""
        return replace(self.unguided, weights=weights, beta=self.strength_of(weights))

    def strength_of(self, weights: Weighting) -> float:
        """β of a policy that objectives of these weights guide."""
        return self.strength.beta * self.strength.relative(weights)

    @cached_property
    def units(self) -> tuple[Units, ...]:
        """Each reward's mean and standard deviation over the reference policy's answers."""
        return tuple(self.baseline("validation").units)

    @cached_property
    def covariance(self) -> Covariance:
        """Of the rewards within prompts, under the reference policy, in standard units."""
        return within_prompts(self.baseline("validation").standard(self.units))

    def baseline(self, split: str) -> ScoredSamples:
        """The reference policy's answers to the first third of the held-out prompts."""
        if split not in self._baselines:
            prompts = self.prompts[split][: -(-self.held_out // 3)]
            folder, policy = self.folder / "reference" / split, GuidedPolicy(self.reference)
            samples = self._evaluate(policy, prompts, folder, self.seed, self.best_of)
            self._baselines[split] = samples
        return self._baselines[split]

    def evaluate(
        self, network: ValueModel, split: str, folder: Path, weights: Weighting
    ) -> ScoredSamples:
        """The guided policy's answers to held-out prompts, one each; saved in `folder`.

        Where there are several weightings to measure, each is on the prompts of the baseline.
        """
        policy = GuidedPolicy(self.reference, (network,))
        count = self.held_out if len(weights) == 1 else -(-self.held_out // 3)
        prompts = self.prompts[split][:count]
        with decoding(network):  # not the draws that the units were measured on
            return self._evaluate(policy, prompts, folder, self.seed + 1, 1, weights)

    def _evaluate(
        self,
        policy: GuidedPolicy,
        prompts: Sequence[Prompt],
        folder: Path,
        seed: int,
        n: int,
        weights: Weighting = (),
    ) -> ScoredSamples:
        return evaluate(
            policy,
            prompts,
            self.objectives,
            self.sampling(weights),
            max_tokens=self.max_tokens,
            n=n,
            seed=seed,
            rows=self.rows,
            folder=folder,
            collector=self.collector,
        )
