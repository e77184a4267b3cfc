"""The rows of a guided policy: what the reference policy and its guides have read, together.

The caches of all models are read, forked and cleared as one, and one method says what a row may go
on with. The decoder and the scoring of given texts are policies over it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mavis.decoding.guidance import Guidance, MixingRule
from mavis.decoding.guides import Guide
from mavis.decoding.kv_cache import CachedRows, Index
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.tilt import Candidates, RowSettings


class PolicyRows:
    """Rows of the reference policy, with its guidance beside them.

    Args:
        reference: π_ref.
        guides: what bends it.
        rule: how.
        rows: how many rows there is room for at first.
    """

    def __init__(
        self, reference: ReferencePolicy, guides: Sequence[Guide], rule: MixingRule, rows: int
    ) -> None:
        self.reference = reference
        self.guidance = Guidance(guides, rule, rows)
        self.cache = CachedRows(reference.model, rows, hidden=self.guidance.needs_hidden)
        self.logits = torch.empty(0)  # of the reference policy [R, V], in the last step

    def read(self, rows: Index, tokens: Sequence[Sequence[int]], settings: RowSettings) -> None:
        """Read tokens behind which nobody will ask for candidates yet."""
        output = self.cache.extend(rows, tokens, silent=True)
        self.guidance.extend(rows, tokens, output, settings)

    def step(
        self, rows: Index, tokens: Sequence[Sequence[int]], settings: RowSettings
    ) -> tuple[Candidates, Tensor]:
        """Read tokens, and say what each row may go on with: candidates, and log π [R, K]."""
        output = self.cache.extend(rows, tokens)
        self.guidance.extend(rows, tokens, output, settings)
        assert output.logits is not None
        self.logits = output.logits
        return self.guidance.policy(rows, self.logits, settings)

    def every(
        self, row: int, tokens: Sequence[int], settings: RowSettings
    ) -> tuple[Candidates, Tensor]:
        """Read T tokens of one row, and say what it might have gone on with after each of them.

        Args:
            row: which.
            tokens: T of them.
            settings: of T rows, all the same.

        Returns:
            candidates, and log π [T, K].
        """
        rows = np.array([row])
        output = self.cache.extend(rows, [tokens], every=True)
        self.guidance.extend(rows, [tokens], output, settings, every=True)
        assert output.logits is not None
        self.logits = output.logits.flatten(0, -2)
        return self.guidance.policy(rows, self.logits, settings)

    def fault(self, at: int, options: Candidates, before: Sequence[int]) -> ValueError:
        """Say which model is to blame for numbers that are not finite.

        Args:
            at: which row of the last step has them.
            options: the candidates of that step [R, K].
            before: the tokens that the row held.
        """
        # From the reference outwards: what comes first makes everything behind it NaN, too.
        text = self.reference.spelling.text(before, last=24)
        where = f"for the token after {text!r}"
        advice = "its weights are broken, or too large for its number format."
        if not options.log_ref[at, 0].isfinite():
            return ValueError(f"reference {self.reference.name} gave NaN {where}: {advice}")
        inside = options.log_ref[at] > float("-inf")
        for guide, values in zip(self.guidance.guides, self.guidance.values, strict=True):
            bad = values[at][inside]
            if bad.isnan().any() or (bad == float("inf")).any():
                name = ", ".join(guide.objectives)
                return ValueError(f"the {guide.kind} of {name} gave NaN {where}: {advice}")
        names = ", ".join(self.guidance.objectives)
        return ValueError(
            f"the policies of {names} leave no distribution {where}: together they forbid all that "
            "the reference proposes, or a negative weight asks for what is forbidden. Raise top_k, "
            "or change the weights."
        )

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Say which of its candidates each row goes on with [R], where it is one of them."""
        self.guidance.commit(rows, chosen)

    def copy(self, dst: Index, src: Index) -> None:
        """Make the rows `dst` equal to the rows `src`."""
        self.cache.copy(dst, src)
        self.guidance.copy(dst, src)

    def clear(self, rows: Index) -> None:
        """Forget what the rows hold."""
        self.cache.clear(rows)
        self.guidance.clear(rows)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows in all; what is there stays."""
        self.cache.reserve(rows)
        self.guidance.reserve(rows)
