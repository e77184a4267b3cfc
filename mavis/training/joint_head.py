"""The head of a value model learned by joint credit, over the rounds of a fit."""

from typing import Any

import torch
from torch import Tensor, nn

from mavis.decoding.value_heads import ActionHead, StateHead
from mavis.training.action_features import ActionFeatures
from mavis.training.batching import Batch
from mavis.training.credit import Equations, Expectation, Foresight, Total
from mavis.training.ridge import Solution, solve
from mavis.training.state_features import NONLINEAR, StateFeatures


class JointHead(nn.Module):
    """Reads trees twice, for what their states foretell and for equations, which it solves.

    The trees of earlier rounds count as much as those of the current one: their rewards say as much
    of the tokens that were chosen, and the KL of their policies has been charged.

    Args:
        head: what is learned: a state head over the states themselves, an action head over
            `ActionFeatures`.
        table: token embeddings [V, E] of an action head.
        discount: of later increments of rewards on prefixes; at 1 whole replies alone are read.
        nonlinear: random features of a state that expectations are foretold from, beside it.
    """

    expected: Tensor

    def __init__(
        self,
        head: StateHead | ActionHead,
        table: Tensor | None = None,
        discount: float = 1.0,
        nonlinear: int = NONLINEAR,
    ) -> None:
        super().__init__()
        self.discount = discount
        self._head, self._table = [head], [table]  # in lists: saved with the value model
        self.features: ActionFeatures | None = None
        if isinstance(head, ActionHead):
            assert table is not None
            self.features = ActionFeatures(head, table)
        width, outputs = head.state.in_features, head.state.out_features
        self.states = StateFeatures(width, nonlinear)
        self.register_buffer("expected", torch.zeros(self.states.width, outputs))
        self.foresight: Foresight | None = None  # in the first pass over a round's trees
        self._expectation: Expectation | None = None  # of the round, after that
        self._mine: Equations | None = None  # of the round's trees, in this process
        self._earlier: Equations | None = None  # of the rounds before
        self.equations: Equations | None = None  # of the trees of all rounds that were read

    def begin(self) -> None:
        """Begin a round: the first pass over its trees."""
        (head,) = self._head
        after = self.features.width if self.features else head.state.in_features
        random = len(self.states.offsets)
        self.foresight = Foresight(after, self.states.width, random)
        self._earlier = self.equations

    @torch.no_grad()
    def foresee(self, hidden: Tensor, before: Tensor, batch: Batch, total: Total) -> None:
        """Read whole trees in the first pass; `total` adds a tensor up over processes.

        Args:
            hidden: the state after every token [B, T, H].
            before: the one before it [B, T, H].
            batch: the packs.
            total: adds a tensor up over processes.
        """
        if self.foresight is None:
            return
        if self.features and not self.features.ready:
            # The first batch will do, and all processes have one.
            self.features.prepare(before[batch.depth >= 0], total)
        self.foresight.add(self._after(hidden, before, batch), self.states(before), batch)

    @torch.no_grad()
    def expect(self, total: Total) -> bool:
        """End the first pass; False if this was none."""
        if self.foresight is None:
            return False
        self._expectation, self.foresight = self.foresight.solve(total), None
        mean, outputs = self._expectation.mean, self.expected.shape[1]
        self._mine = Equations.none(mean, outputs, self.discount)
        return True

    @torch.no_grad()
    def add(self, hidden: Tensor, before: Tensor, batch: Batch) -> None:
        """Read whole trees in the second pass, as in `foresee`; trees may be added later."""
        assert self._mine is not None
        assert self._expectation is not None
        after, price = self._after(hidden, before, batch), self._expectation.price
        self._mine.add(after, self.states(before), batch, price, self.discount)

    @torch.no_grad()
    def finish(self, total: Total) -> Solution:
        """Solve for the head, with all trees that were added so far."""
        assert self._mine is not None
        fresh = self._mine.totals(total)
        self.equations = fresh if self._earlier is None else self._earlier + fresh
        found, (head,) = solve(self.equations), self._head
        if self.features:
            self.features.write(found.weights)
        else:
            head.state.weight.copy_(found.weights.T)
        self.expected.copy_(found.expected)
        return found

    def _after(self, hidden: Tensor, before: Tensor, batch: Batch) -> Tensor:
        """The features of the states after tokens [B, T, D]."""
        return self.features(before, batch.tokens) if self.features else hidden

    def forward(self, hidden: Tensor, before: Tensor, batch: Batch) -> Tensor:
        """Foretell the targets of the state after each token [B, T, M].

        The head knows values up to a number per state, which the tilt does not feel. So they are
        summed up from the prompt on: its own target, and what each token brings.
        """
        (head,), (table,) = self._head, self._table
        if self.features:
            values = head(before, batch.tokens[..., None], table)[..., 0, :]
        else:
            values = head(hidden)
        advantages = values - self.states(before) @ self.expected
        foretold: Tensor = batch.start[:, None] + batch.path @ advantages
        return foretold

    def get_extra_state(self) -> dict[str, Any]:
        """The equations of the rounds so far, for a checkpoint."""
        return {} if self.equations is None else vars(self.equations)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.equations = Equations(**state) if state else None
