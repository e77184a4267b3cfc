"""Keys and values of many rows by (row, slot), as `transformers` models write and read them.

Rows in the buffers can be read. Rows beyond them are copies that wait: they take no more memory
than what they hold, and what copies have in common, such as the prompt of a tree, is kept once.
"""

import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

Part = list[Tensor]  # some tokens of a row: keys of every layer, then values [heads, tokens, dim]


class SlotCache(Cache):
    """Keys and values by (row, slot), written where the current call aims.

    Unlike the caches of `transformers` every row has a length of its own, and nothing is appended:
    `aim` sets where the next forward writes and how far it looks back.
    """

    def __init__(self, rows: int, slots: int) -> None:
        super().__init__(layers=[])
        self.rows, self.slots = rows, slots
        self.keys: list[Tensor] = []  # per layer [rows, heads, slots, dim]
        self.values: list[Tensor] = []
        self._rows = self._slots = torch.empty(0, dtype=torch.long)
        self._span = 0
        self._seen: slice | Tensor = slice(0)
        # How a row begins, in parts that are never written to again: all of it where it is a copy
        # that waits; where it lies in the buffers, as much as a copy of it holds.
        self._parts: dict[int, tuple[Part, ...]] = {}

    def aim(self, rows: Tensor, seen: slice | Tensor, slots: Tensor, span: int) -> None:
        """Set the rows [R] and slots [R, q] to write, and how many slots the rows show.

        `seen` are the rows again: as a slice where they lie side by side, as a view is no copy.
        """
        self._rows, self._seen, self._slots, self._span = rows[:, None], seen, slots, span

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store [R, heads, q, dim] and return what the rows can see [R, heads, span, dim]."""
        if layer_idx == len(self.keys):
            for buffers, like in ((self.keys, key_states), (self.values, value_states)):
                shape = (self.rows, like.shape[1], self.slots, like.shape[3])
                buffers.append(_zeros(shape, like))
        return (
            self._store(self.keys[layer_idx], key_states),
            self._store(self.values[layer_idx], value_states),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - the base class's signature
        """The longest visible row; positions are always given explicitly."""
        return self._span

    def grow(self, rows: int, slots: int, lengths: Sequence[int]) -> None:
        """Make the buffers larger: more rows, or more slots a row; rows keep their `lengths`."""
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                heads, dim = old.shape[1], old.shape[3]
                buffers[layer] = _zeros((rows, heads, slots, dim), old)
                for row, length in enumerate(lengths[: self.rows]):
                    buffers[layer][row, :, :length] = old[row, :, :length]
        before, self.rows, self.slots = self.rows, rows, slots
        for row in [row for row in self._parts if before <= row < rows]:
            self._put(row, self._parts[row])

    def move(self, dst: Sequence[int], src: Sequence[int], lengths: Sequence[int]) -> None:
        """Copy the rows `src`, of such lengths, to the rows `dst`."""
        if max([*dst, *src], default=0) >= self.rows:  # copies that wait
            taken = [self._take(row, length) for row, length in zip(src, lengths, strict=True)]
            for row, parts in zip(dst, taken, strict=True):
                self._put(row, parts)
            return
        begins = [self._parts.get(row) for row in src]
        self.forget(dst)
        self._parts |= {row: parts for row, parts in zip(dst, begins, strict=True) if parts}
        span = max(lengths, default=0)
        for buffer in (*self.keys, *self.values):
            if len(dst) == 1:  # by far the most common, and cheap as views
                buffer[dst[0], :, :span] = buffer[src[0], :, :span]
            else:
                buffer[torch.tensor(dst), :, :span] = buffer[torch.tensor(src), :, :span]

    def shift(self, rows: Tensor, to: Tensor, source: Tensor) -> None:
        """Copy one slot within each row."""
        for buffer in (*self.keys, *self.values):
            buffer[rows, :, to] = buffer[rows, :, source]

    def forget(self, rows: Sequence[int]) -> None:
        """Give back the memory of copies."""
        for row in rows:
            self._parts.pop(row, None)

    def _take(self, row: int, length: int) -> tuple[Part, ...]:
        """A copy of a row, in parts; those that there are already are not copied again."""
        parts = self._parts.get(row, ())
        known = sum(part[0].shape[1] for part in parts)
        if row < self.rows and known < length and self.keys:
            buffers = (*self.keys, *self.values)
            parts = (*parts, [buffer[row, :, known:length].clone() for buffer in buffers])
            self._parts[row] = parts  # the row goes on, and what is copied next begins with them
        return parts

    def _put(self, row: int, parts: tuple[Part, ...]) -> None:
        """Let a row be what these parts hold."""
        self._parts[row] = parts
        if row >= self.rows:
            return
        begin = 0
        for part in parts:
            end = begin + part[0].shape[1]
            for buffer, states in zip((*self.keys, *self.values), part, strict=True):
                buffer[row, :, begin:end] = states
            begin = end

    def _store(self, buffer: Tensor, states: Tensor) -> Tensor:
        buffer[self._rows, :, self._slots] = states.transpose(1, 2)
        return buffer[self._seen, :, : self._span]


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A buffer of zeros: what is masked is still multiplied, and must not be NaN."""
    size = torch.Size(shape).numel() * like.element_size()
    if like.device.type != "cpu" or size == 0:
        return like.new_zeros(shape)
    # Pages of its own, which are zero and take no memory before they are written to, and which the
    # system takes back when the buffer has grown: in a heap, each size would leave holes behind.
    pages = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)
