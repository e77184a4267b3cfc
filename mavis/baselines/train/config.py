"""The options of `mavis tune` and of `mavis parm`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mavis.options import (
    PolicyOptions,
    PromptCount,
    TrainingOptions,
    at_least,
    check_alpha,
    positive,
)

DEFAULTS = {  # method -> number of optimizer steps, answers per step, learning rate if small
    "rloo": (48, 128, 1e-3),
    "grpo": (48, 128, 7e-4),
    "dpo": (176, 64, 5e-4),
    "sft": (100, 32, 5e-4),
}
BY_METHOD: Any = None  # placeholder for the default in `DEFAULTS`, until the method is known


@dataclass(frozen=True)
class TuneConfig(PolicyOptions, TrainingOptions):
    """Options of `mavis tune`, which trains one policy per weight vector.

    Args:
        out: output folder; each policy is saved in OUT/METHOD-WEIGHTS
        method: policy gradient (rloo, grpo), preference pairs (dpo) or supervised fine-tuning
            (sft), for which --prompts is a data set of whole dialogues
        eta: KL penalty per nat and response, in standard deviations of the weighted reward
        steps: number of optimizer steps (default: depends on the method)
        lr: learning rate (default: depends on the method and the model size)
        batch: answers per optimizer step (default: depends on the method)
        generations: answers sampled per prompt
        lora_rank: LoRA rank of the adapters trained with --lora
    """

    out: str = "runs/tuned"
    method: Literal["rloo", "grpo", "dpo", "sft"] = "rloo"
    divergence: Literal["reverse_kl", "forward_kl", "jsd", "alpha"] = "reverse_kl"
    eta: float = 0.5
    steps: int = BY_METHOD
    lr: float | None = None
    batch: int = BY_METHOD
    generations: int = 8
    lora_rank: int = 16

    def __post_init__(self) -> None:
        """Fill in the defaults that depend on the method, and check the values."""
        super().__post_init__()
        if self.method not in DEFAULTS:  # the parser checks this; calls from Python do not
            raise ValueError(f"method must be one of {', '.join(DEFAULTS)}, got {self.method!r}.")
        for name, size in zip(("steps", "batch"), DEFAULTS[self.method][:2], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, size)
        if self.method == "sft":
            object.__setattr__(self, "generations", 1)
        self._check_objectives()
        if self.divergence != "reverse_kl" and self.method != "dpo":
            raise ValueError(
                f"divergence can only be chosen for dpo: {self.method} always uses reverse_kl."
            )
        check_alpha(self.divergence, self.alpha)
        at_least(1, steps=self.steps, batch=self.batch, lora_rank=self.lora_rank)
        positive(eta=self.eta, lr=self.lr)
        if self.method != "sft":
            self._check_groups()

    @property
    def num_prompts(self) -> int:
        """The number of training prompts that all steps together consume."""
        return max(1, self.steps * self.batch // self.generations)

    def settings(self) -> dict[str, Any]:
        """Return the options that affect results; lora_rank is None for full models."""
        kept = super().settings()
        return kept | {"lora_rank": self.lora_rank if kept.pop("lora") else None}

    def default_lr(self, large: bool) -> float:
        """Return a tested rate for small models, else TRL's default, times ten for LoRA."""
        small = DEFAULTS[self.method][2]
        usual = 2e-5 if self.method == "sft" else 1e-6
        if large:
            return 10 * usual if self.lora else usual
        return 4 * small if self.lora else small

    def _check_objectives(self) -> None:
        if self.method == "sft" and self.names:
            raise ValueError(
                "objectives must be left out for sft: it learns from given replies, not rewards."
            )
        if self.method == "sft" and self.weights is not None:
            raise ValueError("weights must be left out for sft, which takes no objectives.")
        if self.method != "sft" and not self.names:
            raise ValueError("objectives must be named: add --objectives NAME[,NAME …].")

    def _check_groups(self) -> None:
        """Raise a ValueError if the answers do not divide into whole groups or pairs."""
        method, batch, generations = self.method, self.batch, self.generations
        if generations < 2 or (method == "dpo" and generations % 2):
            rule = "an even number" if method == "dpo" else "at least 2"
            raise ValueError(f"generations must be {rule} for {method}, got {generations}.")
        if batch % (2 if method == "dpo" else generations):
            rule = "even" if method == "dpo" else f"a multiple of generations ({generations})"
            raise ValueError(f"batch must be {rule} for {method}, got {batch}.")


@dataclass(frozen=True)
class ParmConfig(PromptCount, TrainingOptions):
    """Options of `mavis parm`, which trains an autoregressive reward model.

    Args:
        out: output folder of the model (default: runs/tuned/parm-OBJECTIVES)
        answers: answers sampled per prompt; any two of them form a preference pair
        epochs: number of passes over the training prompts
        batch: prompts per optimizer step
        lr: peak learning rate
        beta_r: factor β_r of the log-probabilities in the preference loss
        rank: LoRA rank, used for both the shared and the preference-conditioned adapter
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"limit": "num_prompts"}

    out: str | None = None
    answers: int = 8
    epochs: int = 6
    batch: int = 8
    lr: float = 5e-3
    beta_r: float = 0.05
    rank: int = 16

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if not self.names:
            raise ValueError("objectives must be named: add --objectives NAME[,NAME …].")
        positive(lr=self.lr, beta_r=self.beta_r)
        at_least(2, answers=self.answers)
        at_least(1, rank=self.rank, epochs=self.epochs, batch=self.batch)
        at_least(1, num_prompts=1 if self.num_prompts is None else self.num_prompts)

    @property
    def folder(self) -> str:
        """The folder in which the model is saved."""
        return self.out or f"runs/tuned/parm-{'+'.join(self.names)}"
