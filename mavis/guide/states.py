"""The states of many rows: what the reference policy and all that guides it have read so far.

One object holds the caches of all models, so that they are read, forked and cleared together, and
one method says what a row may go on with. Sampling, rollouts and search are policies over it. Knows
nothing of jobs or draws.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mavis.guide.network import ValueNetwork
from mavis.guide.reference import ReferencePolicy
from mavis.guide.rows import Index, Rows
from mavis.guide.tilt import Candidates, Settings, candidates
from mavis.guide.values import Guide, open_source

# (log_ref [R, K], values [R, K, M], weights [R, M], beta [R]) -> log π [R, K]: `tilt`, or a rival
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class States:
    """Rows of the reference policy, and of a source for everything that guides it.

    Args:
        reference: π_ref.
        networks: the value models, or other guides.
        rule: how their values bend the reference policy.
        rows: how many rows there is room for.
    """

    def __init__(
        self,
        reference: ReferencePolicy,
        networks: Sequence[ValueNetwork | Guide],
        rule: Rule,
        rows: int,
    ) -> None:
        shared = any(isinstance(n, ValueNetwork) and n.card.source == "shared" for n in networks)
        self.cache = Rows(reference.model, rows, hidden=shared)
        self.sources = [open_source(network, rows) for network in networks]
        self.rule = rule

    def read(self, rows: Index, tokens: Sequence[Sequence[int]], settings: Settings) -> None:
        """Read tokens behind which nobody will ask for candidates yet."""
        reading = self.cache.extend(rows, tokens, silent=True)
        for source in self.sources:
            source.extend(rows, tokens, reading, settings)

    def step(
        self, rows: Index, tokens: Sequence[Sequence[int]], settings: Settings
    ) -> tuple[Candidates, Tensor]:
        """Read tokens, and say what each row may go on with: candidates, and log π [R, K]."""
        reading = self.cache.extend(rows, tokens)
        for source in self.sources:
            source.extend(rows, tokens, reading, settings)
        assert reading.logits is not None
        options = candidates(reading.logits, *settings[2:])
        values = [source.values(rows, options.tokens) for source in self.sources]
        empty = options.log_ref.new_zeros((*options.log_ref.shape, 0))
        log_pi = self.rule(options.log_ref, torch.cat([empty, *values], dim=-1), *settings[:2])
        return options, log_pi

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Say which of its candidates each row goes on with [R], where it is one of them."""
        for source in self.sources:
            source.commit(rows, chosen)

    def copy(self, dst: Index, src: Index) -> None:
        """Make the rows `dst` equal to the rows `src`."""
        self.cache.copy(dst, src)
        for source in self.sources:
            source.copy(dst, src)

    def clear(self, rows: Index) -> None:
        """Forget what the rows hold."""
        self.cache.clear(rows)
        for source in self.sources:
            source.clear(rows)
