"""A folder with a reward model of PARM: what its card says, for programs and for people."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from mavis.baselines.pblora import SCALE
from mavis.cards import TrainedCard
from mavis.checksums import check

CARD, WEIGHTS = "parm.json", "pblora.safetensors"


@dataclass(frozen=True, kw_only=True)
class ParmCard(TrainedCard):
    """Where an autoregressive reward model comes from; preferences are in the objectives' order.

    The reference policy wrote its training answers, and is what it adapts.

    Args:
        ranks: LoRA ranks of the shared and of the preference-conditioned adapter.
        scale: of the adapters.
        targets: names of the adapted layers, without their numbers.
        beta_r: factor β_r of the log-probabilities in the preference loss.
        measured: by preference.
    """

    FILE: ClassVar[str] = CARD
    KIND: ClassVar[str] = "reward model"
    MAKER: ClassVar[str] = "mavis parm"

    ranks: tuple[int, int]
    beta_r: float
    scale: float = SCALE
    targets: tuple[str, ...] = ()
    measured: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the card, and see that the weights beside it are those that were written."""
        card = super().read(folder)
        remedy = f"delete {CARD} beside it, and `mavis parm` trains it again."
        check(Path(folder) / WEIGHTS, remedy)
        return card

    def for_people(self) -> str:
        """The card as text."""
        lines = [
            f"# An autoregressive reward model of {', '.join(self.objectives)}",
            "",
            f"PBLoRA (ranks {self.ranks[0]} + {self.ranks[1]}, {self.parameters:,} parameters) "
            f"over {self.reference}; method PARM, arXiv 2505.06274 (GenARM, 2410.08193, for one "
            "objective).",
            "",
            f"Trained on answers to {len(self.prompts)} prompts in {self.train_seconds:.0f} s "
            f"({self.cpu_seconds:.0f} s of CPU). Settings: `{json.dumps(self.settings)}`.",
            "",
            "Held-out prompts; rewards in standard units, KL in nats per response:",
            "",
            f"| preference | 1/β_arm | {' | '.join(self.objectives)} | KL |",
            "|---|---" + "|---" * (len(self.objectives) + 1) + "|",
        ]
        for row in self.measured:
            alpha = ", ".join(f"{share:.2g}" for share in row["preference"])
            rewards = " | ".join(f"{row['reward'][name]:+.2f}" for name in self.objectives)
            lines.append(f"| {alpha} | {row['beta']:g} | {rewards} | {row['kl']:.2f} |")
        return "\n".join([*lines, ""])
