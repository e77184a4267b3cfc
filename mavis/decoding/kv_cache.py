"""The rows cache: keys and values of many independent rows, in one preallocated buffer per layer.

A row is a token sequence of its own length. **Slot = position**: token i of a row lies in slot i,
there is no padding, and whatever lies at or beyond a row's length is invisible by the mask. So four
primitives are all that sampling, rollout trees and search need:

    extend(rows, tokens)      write tokens at the end of each row (prefill and the decode step)
    score(rows, candidates)   K tokens side by side after the row, each seeing the row and itself
    commit(rows, chosen)      keep one of the K that were scored
    copy(dst, src)            fork, reorder, replace, compact

They run on unmodified `transformers` modules. Knows nothing of policies, values or prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel

from mavis.decoding.attention import attending, let_attend_by_length
from mavis.decoding.slot_cache import SlotCache
from mavis.decoding.windows import masks_by_kind, windows_of

Index = npt.NDArray[np.int64]

# Since transformers 5.24 a forward calls its cache by a new name, which 5.23 does not know, and
# takes a list of the hidden states that it is to give.
SELECTS = Version(transformers.__version__).release >= (5, 24)
CACHE = "cache" if SELECTS else "past_key_values"


def hidden_states(layers: Sequence[int]) -> dict[str, Any]:
    """What a forward must be told to give some hidden states, of the layers of their numbers."""
    if SELECTS and layers:  # those of a long prompt in all layers are large
        return {"output_hidden_states": list(layers)}
    return {"output_hidden_states": bool(layers)}


class ModelOutput(NamedTuple):
    """What a model gives for the tokens that it has just read."""

    hidden: Tensor | None  # after the last layer: [R, H] after `extend`, [R, K, H] after `score`
    logits: Tensor | None  # [R, V] float32 after `extend` of a causal LM
    # States of the same tokens that were asked for by their place in the `hidden_states` of
    # `transformers`: 0 the embeddings, l after layer l, the last one after the final norm.
    layers: Mapping[int, Tensor] = MappingProxyType({})


class CachedRows:
    """The rows of one model: a causal LM or the trunk of a value model.

    Args:
        model: an unmodified `transformers` model, causal LM or headless.
        rows: how many rows the buffers hold at first. Their slots grow as they are needed, and a
            row beyond them takes no more memory than what it holds, until it is read.
        hidden: whether a causal LM also gives its last hidden states.
        layers: which other hidden states the model gives; see `ModelOutput`.
        extra: more arguments of the model's forward, for the rows that it reads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: int,
        hidden: bool = False,
        layers: Sequence[int] = (),
        extra: Callable[[Index], Mapping[str, Any]] | None = None,
    ) -> None:
        self.model = model
        let_attend_by_length(model)
        self._windows = windows_of(model.config)
        self.cache = SlotCache(rows, slots=64)
        self.lengths: Index = np.zeros(rows, dtype=np.int64)
        self._causal_lm = model.get_output_embeddings() is not None
        self._hidden, self._layers, self._extra = hidden, tuple(layers), extra
        self._inner = hidden_states([-1] * hidden + [*layers])
        self._place = model.device  # asked once: `transformers` looks through all parameters for it
        self._open = torch.zeros((), dtype=model.dtype, device=self._place)
        self._shut = self._open - torch.inf

    def extend(
        self,
        rows: Index,
        tokens: Sequence[Sequence[int]],
        silent: bool = False,
        every: bool = False,
    ) -> ModelOutput:
        """Write tokens at the end of each row, and give the model's output at the last of them.

        Args:
            rows: which rows [R], each at most once.
            tokens: one non-empty list a row; lists may differ in length.
            silent: whether the logits are not needed, and not worked out.
            every: whether to give the output at each of q tokens; lists must then be
                equally long.

        Returns:
            hidden [R, H] and, from a causal LM, logits [R, V], at each row's last new token; with
            `every`, [R, q, H] and [R, q, V].
        """
        counts = np.array([len(t) for t in tokens])
        width = int(counts.max())
        padded = np.zeros((len(rows), width), dtype=np.int64)
        for line, row in zip(padded, tokens, strict=True):
            line[: len(row)] = row
        offset = np.arange(width)
        slots = self.lengths[rows][:, None] + offset  # [R, q]
        reach = self.lengths[rows] + counts
        span = int(reach.max())
        self._make_room(rows, span)
        # The last slot is never part of a row: it takes what shorter rows have nothing to put into.
        unused = offset >= counts[:, None]
        positions = np.where(unused, 0, slots)
        slots[unused] = self.cache.slots - 1
        query, seen = self._tensor(slots)[:, :, None], self._tensor(np.arange(span))
        mask, last = seen <= query, None if every else counts - 1
        output = self._forward(rows, padded, slots, positions, mask, reach, last, silent)
        self.lengths[rows] += counts
        return output

    def score(self, rows: Index, candidates: Tensor) -> ModelOutput:
        """Read K candidates side by side at each row's end; lengths stay as they are.

        Args:
            rows: which rows [R].
            candidates: token ids [R, K].

        Returns:
            hidden [R, K, H], after row + candidate.
        """
        # All K have the same position, the row's next one, in slots of their own after it. The
        # mask lets each see the row and itself; what they leave in the slots is invisible later.
        count = candidates.shape[1]
        start = self.lengths[rows]
        slots = start[:, None] + np.arange(count)  # [R, K]
        span = int(start.max()) + count
        self._make_room(rows, span)
        seen = self._tensor(np.arange(span))
        in_row = seen < self._tensor(start)[:, None, None]
        mask = in_row | (seen == self._tensor(slots)[:, :, None])
        positions = np.repeat(start[:, None], count, axis=1)
        return self._forward(rows, candidates, slots, positions, mask, start + count, None)

    def commit(self, rows: Index, chosen: Tensor) -> None:
        """Keep candidate `chosen` [R] of the last `score` as each row's next token."""
        # Keys and values carry their position, which is that of the slot they move to.
        end = self._tensor(self.lengths[rows])
        self.cache.shift(self._tensor(rows), end, end + chosen)
        self.lengths[rows] += 1

    def copy(self, dst: Index, src: Index) -> None:
        """Make the rows `dst` equal to the rows `src`."""
        self.cache.move(dst.tolist(), src.tolist(), self.lengths[src].tolist())
        self.lengths[dst] = self.lengths[src]

    def clear(self, rows: Index) -> None:
        """Forget what the rows hold."""
        self.cache.forget(rows.tolist())
        self.lengths[rows] = 0

    def reserve(self, rows: int) -> None:
        """Let there be so many rows in all; what is there stays."""
        self.lengths = np.pad(self.lengths, (0, max(0, rows - len(self.lengths))))

    def _forward(
        self,
        rows: Index,
        tokens: Index | Tensor,
        slots: Index,
        positions: Index,
        mask: Tensor,
        reach: Index,
        last: Index | None,
        silent: bool = False,
    ) -> ModelOutput:
        """One forward of the model, in which a row has `reach` [R] positions.

        `last` [R] picks one position a row, None keeps all.
        """
        # Rows that lie side by side are read as a view of the buffers; others must be gathered.
        index, side_by_side = self._tensor(rows), slice(int(rows[0]), int(rows[0]) + len(rows))
        neighbours = np.array_equal(rows, np.arange(side_by_side.start, side_by_side.stop))
        seen = side_by_side if neighbours else index
        self.cache.aim(index, seen, self._tensor(slots), int(reach.max()))
        options = dict(self._inner)
        if self._causal_lm:
            # The head over the vocabulary is the dearest layer of a small model: only the positions
            # that somebody asks for go through it.
            keep = np.unique(last) if last is not None else np.arange(slots.shape[1])
            keep = keep[:1] if silent else keep  # the least that can be asked for
            options |= {"logits_to_keep": self._tensor(keep)}
        with attending(reach.tolist(), self._place):
            output = self.model(
                input_ids=self._tensor(tokens),
                attention_mask=self._masks(mask, positions),
                position_ids=self._tensor(positions),
                use_cache=True,
                **{CACHE: self.cache},
                **options,
                **(self._extra(rows) if self._extra else {}),
            )
        logits = hidden = None
        if self._causal_lm:
            column = None if last is None else np.searchsorted(keep, last)
            logits = None if silent else self._pick(output.logits, column).float()
            hidden = self._pick(output.hidden_states[-1], last) if self._hidden else None
        else:
            hidden = self._pick(output.last_hidden_state, last)
        layers = {at: self._pick(output.hidden_states[at], last) for at in self._layers}
        return ModelOutput(hidden, logits, layers)

    def _masks(self, mask: Tensor, positions: Index) -> Tensor | dict[str, Tensor]:
        """What may be seen [R, q, span] of the queries' positions [R, q], as the model takes it."""
        if not any(self._windows.values()):
            return self._added(mask)
        # Slot = position, and a candidate, which lies further on, is in every window of its own.
        slots = torch.arange(mask.shape[-1], device=self._place, dtype=torch.int32)
        distance = self._tensor(positions.astype(np.int32))[:, :, None] - slots
        masks = masks_by_kind(mask, distance, self._windows)
        if isinstance(masks, dict):
            return {kind: self._added(one) for kind, one in masks.items()}
        return self._added(masks)

    def _added(self, mask: Tensor) -> Tensor:
        """A mask as numbers, not as bool: every layer would convert it anew."""
        return torch.where(mask, self._open, self._shut)[:, None]

    def _pick(self, states: Tensor, column: Index | None) -> Tensor:
        """[R, q, D] -> [R, D] at `column` [R], or all of it."""
        if column is None:
            return states
        if states.shape[1] == 1:  # the decode step: no copy
            return states[:, 0]
        return states[self._tensor(np.arange(len(column))), self._tensor(column)]

    def _tensor(self, array: Index | Tensor) -> Tensor:
        return torch.as_tensor(array, device=self._place)

    def _make_room(self, rows: Index, span: int) -> None:
        # By a quarter at least, so that a long row costs few copies, and little lies empty; and one
        # more, for the slot of no row.
        slots, count = self.cache.slots, max(self.cache.rows, int(rows.max()) + 1)
        if span >= slots:
            slots = max(slots * 5 // 4, span + 1)
        if (count, slots) != (self.cache.rows, self.cache.slots):
            self.cache.grow(count, slots, self.lengths.tolist())
