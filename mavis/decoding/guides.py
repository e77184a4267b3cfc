"""Where a value comes from: three sources behind one interface, which the tilt cannot tell apart.

A source follows the rows of the reference policy (`extend`, `commit`, `copy`, `clear` mean what
they mean in `rows`) and answers one question: `values(rows, candidates[R, K]) -> [R, K, M]`.
Whatever opens such a source can guide: a value network, or (see `measure`) another policy.
"""
# ruff: noqa: ARG002 - a source hears of everything, and takes what it needs

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mavis.decoding.kv_cache import CachedRows, Index, ModelOutput
from mavis.decoding.tilt import RowSettings
from mavis.decoding.value_model import ValueModel


class GuideState(ABC):
    """Values of candidates, for rows that are read beside the reference policy's."""

    @abstractmethod
    def extend(
        self,
        rows: Index,
        tokens: Sequence[Sequence[int]],
        reading: ModelOutput,
        settings: RowSettings,
    ) -> None:
        """Follow tokens that the reference policy has read.

        Args:
            rows: which rows [R].
            tokens: one non-empty list a row.
            reading: what the reference policy said; no logits if nobody will ask for values.
            settings: how these rows sample.
        """

    @abstractmethod
    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Values float32 [R, K, M] of candidates [R, K], after an `extend` of the same rows.

        Where a model is broken they are NaN; −∞ is a token that a policy forbids.
        """

    @abstractmethod
    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Hear which of the K candidates [R] each row goes on with."""

    @abstractmethod
    def copy(self, dst: Index, src: Index) -> None:
        """Make the rows `dst` equal to the rows `src`."""

    @abstractmethod
    def clear(self, rows: Index) -> None:
        """Forget what the rows hold."""


class ActionValues(GuideState):
    """Q(s, ·) from the value trunk's state at the last token: one token read per step."""

    def __init__(self, network: ValueModel, rows: int) -> None:
        assert network.trunk is not None
        self.network = network
        self.rows = CachedRows(network.trunk, rows)
        self._hidden = torch.empty(0)

    def extend(
        self,
        rows: Index,
        tokens: Sequence[Sequence[int]],
        reading: ModelOutput,
        settings: RowSettings,
    ) -> None:
        """Read the same tokens."""
        hidden = self.rows.extend(rows, tokens).hidden
        assert hidden is not None
        self._hidden = hidden

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Gather the candidates' values from the state just read."""
        return _finite(self.network.action_values(self._hidden, candidates))

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Nothing to keep: the token is read with the next step."""

    def copy(self, dst: Index, src: Index) -> None:
        """Copy the trunk's rows."""
        self.rows.copy(dst, src)

    def clear(self, rows: Index) -> None:
        """Clear the trunk's rows."""
        self.rows.clear(rows)


class StateValues(GuideState):
    """V(s·a), each candidate read behind the row: MAVIS as published, K tokens per step."""

    def __init__(self, network: ValueModel, rows: int) -> None:
        assert network.trunk is not None
        self.network = network
        self.rows = CachedRows(network.trunk, rows)
        # Whether a row's last token was kept by `commit`, so that it need not be read again.
        self._ahead = np.zeros(rows, dtype=bool)

    def extend(
        self,
        rows: Index,
        tokens: Sequence[Sequence[int]],
        reading: ModelOutput,
        settings: RowSettings,
    ) -> None:
        """Read the tokens, but for those that are here already as the chosen candidate."""
        behind = ~self._ahead[rows]
        self._ahead[rows] = False
        if behind.any():
            unread = [t for t, is_behind in zip(tokens, behind, strict=True) if is_behind]
            self.rows.extend(rows[behind], unread)

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Read the candidates side by side."""
        hidden = self.rows.score(rows, candidates).hidden
        assert hidden is not None
        return _finite(self.network.state_values(hidden))

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Keep the chosen candidate's keys and values."""
        self.rows.commit(rows, chosen)
        self._ahead[rows] = True

    def copy(self, dst: Index, src: Index) -> None:
        """Copy the trunk's rows."""
        self.rows.copy(dst, src)
        self._ahead[dst] = self._ahead[src]

    def clear(self, rows: Index) -> None:
        """Clear the trunk's rows."""
        self.rows.clear(rows)
        self._ahead[rows] = False


class SharedValues(GuideState):
    """Q(s, ·) from the reference policy's own hidden state: nothing is read twice."""

    def __init__(self, network: ValueModel) -> None:
        self.network = network
        self._hidden = torch.empty(0)

    def extend(
        self,
        rows: Index,
        tokens: Sequence[Sequence[int]],
        reading: ModelOutput,
        settings: RowSettings,
    ) -> None:
        """Take the reference policy's state."""
        assert reading.hidden is not None
        self._hidden = reading.hidden

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Gather the candidates' values from the state just taken."""
        return _finite(self.network.action_values(self._hidden, candidates))

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Nothing to keep."""

    def copy(self, dst: Index, src: Index) -> None:
        """Nothing to copy."""

    def clear(self, rows: Index) -> None:
        """Nothing to forget."""


class Guide(Protocol):
    """What can guide beside a value network."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of its values: its part of the M axis."""
        ...

    def open(self, rows: int) -> GuideState:
        """A source with room for `rows` rows."""
        ...


def _finite(values: Tensor) -> Tensor:
    """The values of a network, which forbids nothing: an infinite one is as wrong as NaN."""
    return values + 0 * values


def open_source(network: ValueModel | Guide, rows: int) -> GuideState:
    """The source that a network's card names, or a guide's own, with room for `rows` rows."""
    if not isinstance(network, ValueModel):
        return network.open(rows)
    if network.card.source == "action":
        return ActionValues(network, rows)
    if network.card.source == "state":
        return StateValues(network, rows)
    return SharedValues(network)
