"""What a value model is of: the card beside its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mavis.cards import Card

Source = Literal["action", "state", "shared"]
REMEDY = "restore it from a copy, or let the `mavis fit` that made it write it again."


@dataclass(frozen=True, kw_only=True)
class ModelCard(Card):
    """Where a value model comes from; its objectives are its M outputs.

    Args:
        source: where its values come from.
        eta: the KL price of its training targets.
        rounds: of its fit.
    """

    FILE: ClassVar[str] = "value.json"
    KIND: ClassVar[str] = "value model"
    MAKER: ClassVar[str] = "mavis fit"
    REMEDY: ClassVar[str] = REMEDY

    source: Source
    eta: float | None = None
    rounds: int = 0


def read_card(folder: Path) -> ModelCard:
    """Read the card of a value model; see `Card.read`."""
    return ModelCard.read(folder)
