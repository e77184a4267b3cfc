"""What a policy is to be tuned by, and on what."""

from dataclasses import dataclass

from mavis.baselines.train.data import Demonstration, WeightedReward
from mavis.decoding.reference import ReferencePolicy
from mavis.prompts import Prompt


@dataclass(frozen=True)
class TuneConfig:
    """How a policy is trained; everything that decides what comes out, but for the data."""

    method: str
    steps: int
    lr: float
    batch: int  # answers per step
    generations: int  # answers per prompt
    eta: float
    divergence: str
    alpha: float | None
    max_tokens: int
    lora_rank: int | None  # None trains all parameters
    seed: int

    @property
    def prompts(self) -> int:
        """How many prompts the steps have need of."""
        return max(1, self.steps * self.batch // self.generations)


@dataclass(frozen=True)
class TrainingData:
    """What a policy is trained on."""

    reference: ReferencePolicy
    scales: tuple[WeightedReward, ...]
    prompts: tuple[Prompt, ...]
    dialogues: tuple[Demonstration, ...]  # of sft
    rows: int  # answers that are made, or trained on, side by side


def default_lr(method: str, large: bool, lora: bool) -> float:
    """A learning rate that was tried (small models), or the one of TRL, ten times it for LoRA."""
    small = {"rloo": 1e-3, "grpo": 7e-4, "dpo": 5e-4, "sft": 5e-4}[method]
    usual = 2e-5 if method == "sft" else 1e-6
    if large:
        return 10 * usual if lora else usual
    return 4 * small if lora else small
