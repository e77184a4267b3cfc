"""What can guide: anything that, row by row, values the candidates for the next token.

A guide is what is loaded (a value model, another policy, a reward model of PARM); `start` gives its
state for some rows, which follows the rows of the reference policy (`extend`, `commit`, `copy`,
`clear` mean what they mean in `kv_cache`) and answers one question:
`values(rows, candidates [R, K]) -> [R, K, M]`. The tilt cannot tell guides apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from mavis.decoding.kv_cache import CachedRows, Index, ModelOutput
from mavis.decoding.spread import relative_strength
from mavis.decoding.tilt import RowSettings
from mavis.reward import Units


class Reading(NamedTuple):
    """Tokens that the reference policy has read, for its guides to follow.

    Args:
        rows: which rows [R].
        tokens: one non-empty list a row.
        output: of the reference policy after them; without logits if no values will be wanted.
        settings: how these rows sample.
        every: whether `GuideState.values` will be asked for at each of q tokens, of equally long
            lists; its R is then R · q, position after position of one row after the other.
    """

    rows: Index
    tokens: Sequence[Sequence[int]]
    output: ModelOutput
    settings: RowSettings
    every: bool = False


class GuideState(ABC):
    """What a guide has read, for rows that are read beside the reference policy's."""

    rows: CachedRows | None = None  # of the guide's own model, if it has one
    layers: tuple[int, ...] = ()  # of the reference policy that it reads; see `ModelOutput`
    one_forward = True  # whether `extend` can keep the states at every token it reads
    reads_weights = False  # whether what it keeps of a row depends on the row's weights

    @abstractmethod
    def extend(self, read: Reading) -> None:
        """Follow tokens that the reference policy has read."""

    @abstractmethod
    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Values float32 [R, K, M] of candidates [R, K], after an `extend` of the same rows.

        Where a model is broken they are NaN; −∞ is a token that a policy forbids.
        """

    def commit(self, rows: Index, chosen: Tensor) -> None:  # noqa: B027 - nothing to do by default
        """Take note which of the K candidates [R] each row goes on with; `extend` brings it."""

    def copy(self, dst: Index, src: Index) -> None:
        """Make the rows `dst` equal to the rows `src`."""
        if self.rows is not None:
            self.rows.copy(dst, src)

    def clear(self, rows: Index) -> None:
        """Forget what the rows hold."""
        if self.rows is not None:
            self.rows.clear(rows)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows in all; what is there stays."""
        if self.rows is not None:
            self.rows.reserve(rows)


class Guide(Protocol):
    """What can guide a reference policy."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of its values: its part of the M axis."""

    @property
    def kind(self) -> str:
        """What it is, for errors: a value model, a policy or a reward model."""

    @property
    def needs_hidden(self) -> bool:
        """Whether it values the reference policy's own hidden states."""

    @property
    def natural_beta(self) -> float | None:
        """The strength that it was made for; None if it was made for none."""

    @property
    def units(self) -> Mapping[str, Units]:
        """Standard units of its objectives, if its values are in standard units."""

    def start(self, rows: int) -> GuideState:
        """Its state, with room for `rows` rows."""


def objectives_of(guides: Sequence[Guide]) -> tuple[str, ...]:
    """The names of all values, guide after guide: the M axis of a guided policy.

    Raises:
        ValueError: two of them are of one objective.
    """
    names = tuple(name for guide in guides for name in guide.objectives)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"values must be of different objectives, got {twice[0]} twice.")
    return names


def relative_strength_of(guides: Sequence[Guide], weights: Sequence[float]) -> float:
    """What multiplies β at weights [M], so that mixed objectives spend as much KL as one does.

    Known where one value model has all objectives that weigh something: it knows how their values
    vary together (see `spread`). Otherwise it is 1.
    """
    asked, first = [], 0
    for guide in guides:
        part = weights[first : first + len(guide.objectives)]
        if any(part):
            asked.append((part, getattr(guide, "covariance", ())))  # value models alone have one
        first += len(guide.objectives)
    return relative_strength(*asked[0]) if len(asked) == 1 and asked[0][1] else 1.0
