"""What a value model is of: the card beside its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mavis.cards import Card
from mavis.decoding.spread import Covariance

Source = Literal["action", "state", "shared"]
REMEDY = "restore it from a copy, or let the `mavis fit` that made it write it again."


@dataclass(frozen=True, kw_only=True)
class ModelCard(Card):
    """Where a value model comes from; its objectives are its M outputs.

    Args:
        source: where its values come from.
        layers: whose states are read side by side, of the trunk for `state` values, of the
            reference policy for `shared` ones: 0 the embeddings, l the states after layer l; empty:
            the last hidden state.
        eta: the KL price of its training targets.
        rounds: of its fit.
        strengths: pairs of a strength β and the KL to the reference that is expected at it with a
            weight of 1, in nats per answer of the fit's length, beside truncation; of several
            objectives the mean over those alone and all equally, each at its share of β.
        covariance: of its values [M, M], by which the strength follows from the weights of several
            objectives (see `spread`); empty: of one objective, or not known.
        head_width: of the hidden layer of the head (see `value_heads.Residual`); 0: there is none.
    """

    FILE: ClassVar[str] = "value.json"
    KIND: ClassVar[str] = "value model"
    MAKER: ClassVar[str] = "mavis fit"
    REMEDY: ClassVar[str] = REMEDY

    source: Source
    layers: tuple[int, ...] = ()
    eta: float | None = None
    rounds: int = 0
    strengths: tuple[tuple[float, float], ...] = ()
    covariance: Covariance = ()
    head_width: int = 0

    def __post_init__(self) -> None:
        """Check the columns, and take pairs from JSON as what they were."""
        super().__post_init__()
        object.__setattr__(self, "strengths", tuple((beta, kl) for beta, kl in self.strengths))
        object.__setattr__(self, "covariance", tuple(map(tuple, self.covariance)))


def read_card(folder: Path) -> ModelCard:
    """Read the card of a value model; see `Card.read`."""
    return ModelCard.read(folder)
