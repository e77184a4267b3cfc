"""Three sources of values, each as the state of a value model beside the reference policy's rows.

action   Q(s, ·) from the value model's own backbone: one token read per step
state    V(s·a), each candidate read after the row: MAVIS as published, K tokens per step
shared   Q(s, ·) from the reference policy's own hidden states: nothing is read twice
"""
# ruff: noqa: ARG002 - a state is passed everything, and uses what it needs

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mavis.decoding.guides import GuideState, Reading
from mavis.decoding.kv_cache import CachedRows, Index

ActionHead = Callable[[Tensor, Tensor], Tensor]  # hidden [..., H], tokens [..., K] -> [..., K, M]
StateHead = Callable[[Tensor], Tensor]  # hidden [..., H] -> [..., M]

TINY = 1e-6  # a root mean square that is taken for none


class ActionValues(GuideState):
    """Q(s, ·) from the backbone's state at the last token."""

    rows: CachedRows

    def __init__(self, backbone: PreTrainedModel, head: ActionHead, rows: int) -> None:
        self.head, self.rows = head, CachedRows(backbone, rows)
        self._hidden = torch.empty(0)

    def extend(self, read: Reading) -> None:
        """Read the same tokens."""
        hidden = self.rows.extend(read.rows, read.tokens, every=read.every).hidden
        assert hidden is not None
        self._hidden = hidden.flatten(0, -2)

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Gather the candidates' values from the state just read."""
        return _finite(self.head(self._hidden, candidates))


class StateValues(GuideState):
    """V(s·a) from the backbone's last state at each candidate, or those of some of its layers."""

    rows: CachedRows
    one_forward = False  # K candidates after each token would be K · T tokens side by side

    def __init__(
        self, backbone: PreTrainedModel, head: StateHead, rows: int, read: Sequence[int] = ()
    ) -> None:
        self.head, self.rows = head, CachedRows(backbone, rows, layers=read)
        self._read = tuple(read)
        # Whether a row's last token was kept by `commit`, so that it need not be read again.
        self._ahead = np.zeros(rows, dtype=bool)

    def extend(self, read: Reading) -> None:
        """Read the tokens, but for those that are here already as the chosen candidate."""
        # A drawn candidate was read when it was valued, and `commit` has kept its keys and values;
        # a token that was no candidate, of a prompt or chosen from outside, is still to be read.
        late = ~self._ahead[read.rows]
        self._ahead[read.rows] = False
        if late.any():
            unread = [t for t, is_late in zip(read.tokens, late, strict=True) if is_late]
            self.rows.extend(read.rows[late], unread)

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Read the candidates side by side."""
        # Side by side after the row: each candidate sees the row and itself, not the others.
        output = self.rows.score(rows, candidates)
        hidden = side_by_side(output.layers, self._read) if self._read else output.hidden
        assert hidden is not None
        return _finite(self.head(hidden))

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Keep the chosen candidate's keys and values."""
        self.rows.commit(rows, chosen)
        self._ahead[rows] = True

    def copy(self, dst: Index, src: Index) -> None:
        """Copy the rows, and whether they are ahead."""
        super().copy(dst, src)
        self._ahead[dst] = self._ahead[src]

    def clear(self, rows: Index) -> None:
        """Clear the rows, which are then ahead no more."""
        super().clear(rows)
        self._ahead[rows] = False

    def reserve(self, rows: int) -> None:
        """Make room for the rows, none of them ahead."""
        super().reserve(rows)
        self._ahead = np.pad(self._ahead, (0, max(0, rows - len(self._ahead))))


class SharedValues(GuideState):
    """Q(s, ·) from the reference policy's last state, or from those of some of its layers."""

    def __init__(self, head: ActionHead, layers: Sequence[int] = ()) -> None:
        self.head, self.layers = head, tuple(layers)
        self._hidden = torch.empty(0)

    def extend(self, read: Reading) -> None:
        """Take the reference policy's state."""
        output = read.output
        hidden = side_by_side(output.layers, self.layers) if self.layers else output.hidden
        assert hidden is not None
        self._hidden = hidden.flatten(0, -2)

    def values(self, rows: Index, candidates: Tensor) -> Tensor:
        """Gather the candidates' values from the state just taken."""
        return _finite(self.head(self._hidden, candidates))


def side_by_side(states: Mapping[int, Tensor] | Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """States [..., H] of n layers, each of unit root mean square per token [..., n · H], float32.

    Layers differ in scale, and within a layer so do tokens.
    """
    chosen = [states[at].float() for at in layers]
    return torch.cat(
        [h / h.square().mean(-1, keepdim=True).sqrt().clamp(min=TINY) for h in chosen], -1
    )


def _finite(values: Tensor) -> Tensor:
    """The values of a network, which forbids nothing: an infinite one is as wrong as NaN."""
    return values + 0 * values
