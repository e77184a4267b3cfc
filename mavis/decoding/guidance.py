"""Guidance: all that guides a policy, and the policy that it makes of the reference's logits.

It follows rows that somebody else decodes: our decoder, or another engine that shows it the tokens,
the logits and, for guides that need them, the hidden states of the reference policy. Knows nothing
of requests or draws.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mavis.decoding.guides import Guide, objectives_of
from mavis.decoding.kv_cache import Index, ModelOutput
from mavis.decoding.tilt import Candidates, RowSettings, candidates, tilt

# (log_ref [R, K], values [R, K, M], weights [R, M], beta [R]) -> log π [R, K]: `tilt`, or another
MixingRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Guidance:
    """The state of every guide, row by row.

    Args:
        guides: value models, or others.
        rule: how their values bend the reference policy.
        rows: how many rows there is room for at first.
    """

    def __init__(self, guides: Sequence[Guide], rule: MixingRule = tilt, rows: int = 1) -> None:
        self.guides, self.rule = tuple(guides), rule
        self.objectives = objectives_of(guides)
        self.needs_hidden = any(guide.needs_hidden for guide in guides)
        self.states = [guide.start(rows) for guide in guides]
        self.values: list[Tensor] = []  # [R, K, M] of each guide, in the last `policy`

    @property
    def one_forward(self) -> bool:
        """Whether every state along a text can be had in one forward of each model."""
        return all(state.one_forward for state in self.states)

    @property
    def reads_weights(self) -> bool:
        """Whether what is kept of a row depends on its weights, which then cannot change."""
        return any(state.reads_weights for state in self.states)

    def extend(
        self,
        rows: Index,
        tokens: Sequence[Sequence[int]],
        output: ModelOutput,
        settings: RowSettings,
        every: bool = False,
    ) -> None:
        """Follow tokens that the reference policy has read; see `GuideState.extend`."""
        for state in self.states:
            state.extend(rows, tokens, output, settings, every)

    def policy(
        self, rows: Index, logits: Tensor, settings: RowSettings
    ) -> tuple[Candidates, Tensor]:
        """What each row may go on with, after an `extend` of the same rows.

        Args:
            rows: which rows [R].
            logits: of the reference policy [R, V].
            settings: how these rows sample.

        Returns:
            the candidates, and log π of each [R, K].
        """
        options = candidates(logits, settings)
        self.values = [state.values(rows, options.tokens) for state in self.states]
        # Values are asked for the candidates alone: K of them, not the whole vocabulary.
        none = options.log_ref.new_zeros((*options.log_ref.shape, 0))
        values = torch.cat([none, *self.values], dim=-1)
        return options, self.rule(options.log_ref, values, settings.weights, settings.beta)

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Say which of its candidates each row goes on with [R], where it is one of them."""
        for state in self.states:
            state.commit(rows, chosen)

    def copy(self, dst: Index, src: Index) -> None:
        """Make the rows `dst` equal to the rows `src`."""
        for state in self.states:
            state.copy(dst, src)

    def clear(self, rows: Index) -> None:
        """Forget what the rows hold."""
        for state in self.states:
            state.clear(rows)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows in all; what is there stays."""
        for state in self.states:
            state.reserve(rows)
