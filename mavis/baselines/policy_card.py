"""A tuned policy's folder: what its card says, how it is called, and what it was trained on.

The card, `tuned.json`, is written last: its presence says that the folder is whole. Knows nothing
of training.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mavis.checksums import check
from mavis.reward import Units

CARD = "tuned.json"
DEFAULT_METHOD = "rloo"


@dataclass(frozen=True)
class TunedCard:
    """Where a tuned policy comes from.

    Args:
        method: `rloo`, `grpo`, `dpo` or `sft`.
        objectives: what it was trained for; none after `sft`.
        weights: λ of each.
        units: standard units of each, in which the weighted rewards were summed.
        reference: the policy that it started from, and keeps close to.
        fingerprint: of the tokenizer.
        template: dotted name of the function that wrote the prompts out, if not a chat template.
        divergence: the distance that training charged for.
        eta: its price.
        seed: of every random draw.
        train_seconds: wall-clock time of the training, sampling included, measuring not.
        cpu_seconds: of the process, for the same.
        parameters: how many were trained.
        lora: whether the folder holds an adapter for the reference, not a model.
        prompts: digests of what it was trained on (see `prompts.digest`).
        settings: every option that decides what comes out.
        measured: on held-out prompts, rewards in standard units and KL in nats.
    """

    method: str
    objectives: tuple[str, ...]
    weights: tuple[float, ...]
    units: tuple[Units, ...]
    reference: str
    fingerprint: str
    template: str | None
    divergence: str
    eta: float
    seed: int
    train_seconds: float
    cpu_seconds: float
    parameters: int
    lora: bool
    prompts: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the columns are equally long."""
        if not len(self.objectives) == len(self.weights) == len(self.units):
            raise ValueError(
                f"objectives, weights and units must be equally many, got {len(self.objectives)}, "
                f"{len(self.weights)} and {len(self.units)}."
            )

    @property
    def label(self) -> str:
        """What the policy is called."""
        return label(self.objectives, self.weights)

    def save(self, folder: Path) -> None:
        """Write the card into a folder that is otherwise whole."""
        from mavis.storage import write_json

        write_json(folder / CARD, asdict(self))


def read_tuned(folder: str | Path) -> TunedCard:
    """Read the card of a tuned policy.

    Raises:
        FileNotFoundError: the folder holds none: no tuned policy, or one still in training.
        ValueError: the card is broken.
    """
    file = Path(folder) / CARD
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no tuned policy ({CARD} is missing): `mavis tune` makes one."
        )
    check(file)
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = {name.name: content[name.name] for name in fields(TunedCard)}
        known["units"] = tuple(Units(**units) for units in known["units"])
        for name in ("objectives", "weights", "prompts"):
            known[name] = tuple(known[name])
        measured = known["measured"].items()
        known["measured"] = {k: math.nan if v is None else v for k, v in measured}
        return TunedCard(**known)
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is no card of a tuned policy: {error}") from error
    except KeyError as error:
        raise ValueError(f"{file} is no card of a tuned policy: it lacks {error}.") from error


def label(objectives: Sequence[str], weights: Sequence[float]) -> str:
    """What a policy for weighted objectives is called; a weight of 0 is left out.

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
    """Where `mavis tune` keeps a policy: other methods, and adapters, never meet in a folder.

    >>> tuned_folder("runs/tuned", ["humor"], [1.0], "dpo", "jsd").as_posix()
    'runs/tuned/dpo-humor-jsd'
    """
    words = [method, label(objectives, weights)]
    words += [divergence] if divergence != "reverse_kl" else []
    words += ["lora"] if lora else []
    return Path(out) / "-".join(word for word in words if word)


def readme(card: TunedCard) -> str:
    """The card for people, as the hub shows it."""
    base = card.reference
    goal = ", ".join(f"{n} × {w:g}" for n, w in zip(card.objectives, card.weights, strict=True))
    numbers = "\n".join(f"| {name} | {value:.3f} |" for name, value in card.measured.items())
    return f"""---
library_name: {"peft" if card.lora else "transformers"}
tags: [mavis, {card.method}]
---

# {card.method}: {card.label or "replies"}

{"An adapter for" if card.lora else "A policy tuned from"} `{base}` by `mavis tune`, method
{card.method}{f", for {goal} (rewards in standard units)" if goal else ""}, at a price of
{card.eta:g} per nat of KL ({card.divergence}). Everything else is in `{CARD}`.

On held-out prompts (rewards in standard units, the reference's are 0; KL in nats per response):

| | |
|---|---|
{numbers}
"""
