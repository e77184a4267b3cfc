"""Guidance: all that guides a policy, and the policy that it makes of the reference's logits.

`Guidance` follows rows that somebody else decodes: our decoder, or another engine that shows it the
tokens and what the reference policy gives for them: the logits, its last hidden states where
`needs_hidden` says so, and those of the `layers` that are named (see `ModelOutput`). Knows nothing
of requests or draws. `PolicyRows` are such rows with the reference policy's own beside
them: the caches of all models are read, forked and cleared as one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mavis.decoding.guides import Guide, Reading, objectives_of
from mavis.decoding.kv_cache import CachedRows, Index, ModelOutput
from mavis.decoding.reference import ReferencePolicy
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
        # Which hidden states of the reference policy they read, beside the last.
        self.layers = tuple(sorted({at for state in self.states for at in state.layers}))
        # Whether every state along a text can be had in one forward of each model.
        self.one_forward = all(state.one_forward for state in self.states)
        # Whether what is kept of a row depends on its weights, which then cannot change.
        self.reads_weights = any(state.reads_weights for state in self.states)
        self.values: list[Tensor] = []  # [R, K, M] of each guide, in the last `policy`

    def extend(
        self,
        rows: Index,
        tokens: Sequence[Sequence[int]],
        output: ModelOutput,
        settings: RowSettings,
        every: bool = False,
    ) -> None:
        """Follow tokens that the reference policy has read; see `guides.Reading`."""
        read = Reading(rows, tokens, output, settings, every)
        for state in self.states:
            state.extend(read)

    def policy(
        self, rows: Index, logits: Tensor, settings: RowSettings
    ) -> tuple[Candidates, Tensor]:
        """What each of R rows may go on with, after an `extend` of the same rows.

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


class PolicyRows:
    """Rows of the reference policy, with its guidance beside them; arguments as of `Guidance`."""

    def __init__(
        self, reference: ReferencePolicy, guides: Sequence[Guide], rule: MixingRule, rows: int
    ) -> None:
        self.reference = reference
        self.guidance = Guidance(guides, rule, rows)
        hidden, layers = self.guidance.needs_hidden, self.guidance.layers
        self.cache = CachedRows(reference.model, rows, hidden=hidden, layers=layers)
        self.logits = torch.empty(0)  # of the reference policy [R, V], in the last step

    def read(self, rows: Index, tokens: Sequence[Sequence[int]], settings: RowSettings) -> None:
        """Read tokens after which no candidates are wanted yet."""
        output = self.cache.extend(rows, tokens, silent=True)
        self.guidance.extend(rows, tokens, output, settings)

    def step(
        self,
        rows: Index,
        tokens: Sequence[Sequence[int]],
        settings: RowSettings,
        every: bool = False,
    ) -> tuple[Candidates, Tensor]:
        """Read tokens, and say what each row may go on with: candidates, and log π [R, K].

        With `every`, that is what it might have gone on with after each of T tokens [R · T, K], and
        the settings are of R · T rows.
        """
        output = self.cache.extend(rows, tokens, every=every)
        self.guidance.extend(rows, tokens, output, settings, every)
        assert output.logits is not None
        self.logits = output.logits.flatten(0, -2)
        return self.guidance.policy(rows, self.logits, settings)

    def fault(self, at: int, options: Candidates, before: Sequence[int]) -> ValueError:
        """Say which model is to blame for numbers that are not finite.

        They are in row `at` of the last step, which had the candidates `options` [R, K], and had
        read the tokens `before`.
        """
        # From the reference outwards: what comes first makes everything after it NaN, too.
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
