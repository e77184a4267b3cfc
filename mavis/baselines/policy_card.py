"""The card of a tuned policy, and the name of its folder.

The card, `tuned.json`, is written last: with it the folder is complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mavis.cards import TrainedCard

CARD = "tuned.json"
DEFAULT_METHOD = "rloo"


@dataclass(frozen=True, kw_only=True)
class TunedCard(TrainedCard):
    """Where a tuned policy comes from; after `sft`, it has no objectives.

    Args:
        method: `rloo`, `grpo`, `dpo` or `sft`.
        weights: λ of each objective.
        divergence: between policy and reference, for which training charged a price.
        eta: the price of a nat.
        lora: whether the folder holds an adapter for the reference, not a model.
    """

    FILE: ClassVar[str] = CARD
    KIND: ClassVar[str] = "tuned policy"
    MAKER: ClassVar[str] = "mavis tune"
    COLUMNS: ClassVar[tuple[str, ...]] = ("objectives", "weights", "units")

    method: str
    weights: tuple[float, ...]
    divergence: str
    eta: float
    lora: bool
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The policy's name by its weighted objectives."""
        return label(self.objectives, self.weights)

    def for_people(self) -> str:
        """The card as the hub shows it."""
        base, both = self.reference, zip(self.objectives, self.weights, strict=True)
        goal = ", ".join(f"{name} × {weight:g}" for name, weight in both)
        numbers = "\n".join(f"| {name} | {value:.3f} |" for name, value in self.measured.items())
        return f"""---
library_name: {"peft" if self.lora else "transformers"}
tags: [mavis, {self.method}]
---

# {self.method}: {self.label or "replies"}

{"An adapter for" if self.lora else "A policy tuned from"} `{base}` by `mavis tune`, method
{self.method}{f", for {goal} (rewards in standard units)" if goal else ""}, at a price of
{self.eta:g} per nat of KL ({self.divergence}). Everything else is in `{CARD}`.

On held-out prompts (rewards in standard units, the reference's are 0; KL in nats per response):

| | |
|---|---|
{numbers}
"""


def label(objectives: Sequence[str], weights: Sequence[float]) -> str:
    """The name of a policy for weighted objectives; those of weight 0 are left out.

    >>> label(["humor"], [1.0]), label(["humor", "helpfulness"], [0.5, 0.5])
    ('humor', 'humor0.5_helpfulness0.5')
    >>> label(["humor", "helpfulness"], [0.0, 1.0])
    'helpfulness'
    """
    kept = [(name, weight) for name, weight in zip(objectives, weights, strict=True) if weight]
    if len(kept) == 1 and kept[0][1] == 1:
        return kept[0][0]
    return "_".join(f"{name}{weight:g}" for name, weight in kept)


def tuned_folder(
    out: str | Path,
    objectives: Sequence[str],
    weights: Sequence[float],
    method: str = DEFAULT_METHOD,
    divergence: str = "reverse_kl",
    lora: bool = False,
) -> Path:
    """Where `mavis tune` keeps a policy, apart from those of other methods and from adapters.

    >>> tuned_folder("runs/tuned", ["humor"], [1.0], "dpo", "jsd").as_posix()
    'runs/tuned/dpo-humor-jsd'
    """
    words = [method, label(objectives, weights)]
    words += [divergence] if divergence != "reverse_kl" else []
    words += ["lora"] if lora else []
    return Path(out) / "-".join(word for word in words if word)
