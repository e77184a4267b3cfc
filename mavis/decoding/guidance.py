"""The states of many rows: what the reference policy and all that guides it have read so far.

One object holds the caches of all models, so that they are read, forked and cleared together, and
one method says what a row may go on with. Sampling, rollouts and search are policies over it. Knows
nothing of jobs or draws.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mavis.decoding.guides import Guide, open_source
from mavis.decoding.kv_cache import CachedRows, Index
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.tilt import Candidates, RowSettings, candidates
from mavis.decoding.value_model import ValueModel, objectives_of

# (log_ref [R, K], values [R, K, M], weights [R, M], beta [R]) -> log π [R, K]: `tilt`, or a rival
MixingRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Guidance:
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
        networks: Sequence[ValueModel | Guide],
        rule: MixingRule,
        rows: int,
    ) -> None:
        shared = any(isinstance(n, ValueModel) and n.card.source == "shared" for n in networks)
        self.cache = CachedRows(reference.model, rows, hidden=shared)
        self.sources = [open_source(network, rows) for network in networks]
        self.rule = rule
        self.reference, self.networks = reference, networks
        self._values: list[Tensor] = []  # of the last step, one source after the other

    def read(self, rows: Index, tokens: Sequence[Sequence[int]], settings: RowSettings) -> None:
        """Read tokens behind which nobody will ask for candidates yet."""
        reading = self.cache.extend(rows, tokens, silent=True)
        for source in self.sources:
            source.extend(rows, tokens, reading, settings)

    def step(
        self, rows: Index, tokens: Sequence[Sequence[int]], settings: RowSettings
    ) -> tuple[Candidates, Tensor]:
        """Read tokens, and say what each row may go on with: candidates, and log π [R, K]."""
        reading = self.cache.extend(rows, tokens)
        for source in self.sources:
            source.extend(rows, tokens, reading, settings)
        assert reading.logits is not None
        options = candidates(reading.logits, *settings[2:])
        self._values = [source.values(rows, options.tokens) for source in self.sources]
        empty = options.log_ref.new_zeros((*options.log_ref.shape, 0))
        values = torch.cat([empty, *self._values], dim=-1)
        return options, self.rule(options.log_ref, values, *settings[:2])

    def fault(self, at: int, options: Candidates, before: Sequence[int]) -> ValueError:
        """Say which model is to blame for numbers that are not finite.

        Args:
            at: which row of the last step has them.
            options: the candidates of that step [R, K].
            before: the tokens that the row held.
        """
        text = self.reference.spelling.text(before, last=24)
        where = f"for the token after {text!r}"
        advice = "its weights are broken, or too large for its number format."
        if not options.log_ref[at, 0].isfinite():
            return ValueError(f"reference {self.reference.name} gave NaN {where}: {advice}")
        inside = options.log_ref[at] > -torch.inf
        for network, values in zip(self.networks, self._values, strict=True):
            bad = values[at][inside]
            if bad.isnan().any() or (bad == torch.inf).any():
                kind = "value model" if isinstance(network, ValueModel) else "policy"
                name = ", ".join(network.objectives)
                return ValueError(f"the {kind} of {name} gave NaN {where}: {advice}")
        names = ", ".join(objectives_of(self.networks))
        return ValueError(
            f"the policies of {names} leave no distribution {where}: together they forbid all that "
            "the reference proposes, or a negative weight asks for what is forbidden. Raise top_k, "
            "or change the weights."
        )

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
