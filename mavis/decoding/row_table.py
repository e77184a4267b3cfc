"""Which request has which row of the caches, and which finished rows wait for their children."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mavis.decoding.guidance import PolicyRows
from mavis.decoding.kv_cache import Index
from mavis.decoding.reference import ReferencePolicy
from mavis.decoding.request import Request, row_settings, stream
from mavis.decoding.tilt import RowSettings

READ_CALL = 64  # tokens: what one more call costs, where prompts are read


@dataclass(eq=False)
class Row:
    """A request on its way.

    Args:
        id: number of the request.
        request: what is asked for.
        random: its stream.
        unread: of its tokens, but for the last, which is read with its first step.
        added: its new tokens.
        held: whether it has ended, and waits for children.
    """

    id: int
    request: Request
    random: np.random.Generator
    unread: list[int]
    added: list[int]
    held: bool = False

    @classmethod
    def start(cls, number: int, request: Request, read: bool) -> "Row":
        """A request's row; `read` says that all tokens but the last are in the cache."""
        unread = [] if read else list(request.tokens[:-1])
        return cls(number, request, stream(request.key), unread, [])

    @property
    def last(self) -> int:
        """The token that is read next."""
        return int(self.added[-1] if self.added else self.request.tokens[-1])

    def reason(self, reference: ReferencePolicy) -> str:
        """Why it has ended with its newest token; "" if it has not."""
        request = self.request
        begun = request.tokens[len(request.tokens) - request.response :]
        ended = reference.ending([*begun, *self.added], request.stop)
        if ended == "end" and request.endless:
            ended = ""
        return ended or ("length" if len(self.added) >= request.limit else "")


@dataclass(eq=False)
class Parked:
    """A copy of a row that children are still to go on from."""

    place: int
    children: int


class RowTable:
    """Row r of the caches belongs to the r-th of `rows`; after them lie parked copies.

    Args:
        policy: the caches.
        size: how many rows may run; twice as many may be parked, as they are needed.
    """

    def __init__(self, policy: PolicyRows, size: int) -> None:
        self.policy, self.size = policy, size
        self.rows: list[Row] = []
        self._empty: list[int] = []  # parked places
        self._places = 0
        self._settings: RowSettings | None = None

    @property
    def ready(self) -> list[Row]:
        """The rows that can take a step."""
        return [row for row in self.rows if not (row.held or row.unread)]

    def seat(self, row: Row, parked: Parked | None) -> None:
        """Give a request the next row, as a copy of a parked one, or empty."""
        at = np.array([len(self.rows)])
        if parked is None:
            self.policy.clear(at)
        else:
            self.policy.copy(at, np.array([parked.place]))
            self.unpark(parked)
        self.rows.append(row)
        self._settings = None

    def replace(self, old: Row, new: Row) -> None:
        """Let another request go on from a row, in place."""
        self.rows[self.rows.index(old)] = new
        self._settings = None

    def release(self, row: Row) -> None:
        """Give a row back, and close the gap with the last one."""
        # The last row moves into the gap, so that live rows lie side by side: reading them is then
        # a view of the caches, and no copy.
        at, last = self.rows.index(row), self.rows.pop()
        if last is not row:
            self.policy.copy(np.array([at]), np.array([len(self.rows)]))
            self.rows[at] = last
        self._settings = None

    def park(self, row: Row, children: int) -> Parked | None:
        """Copy a row to where its children can wait; None if too many wait already."""
        # Places for parked rows are made as they are needed: plain generation never forks, and has
        # no more rows than requests.
        if not self._empty and self._places < 2 * self.size:
            more = min(max(4, self._places), 2 * self.size - self._places)
            self._empty += range(self.size + self._places, self.size + self._places + more)
            self._places += more
            self.policy.reserve(self.size + self._places)
        if not self._empty:
            return None
        parked = Parked(self._empty.pop(), children)
        self.policy.copy(np.array([parked.place]), self.index([row]))
        return parked

    def unpark(self, parked: Parked) -> None:
        """One child less will go on from a parked row."""
        parked.children -= 1
        if parked.children == 0:
            self.policy.clear(np.array([parked.place]))
            self._empty.append(parked.place)

    def arrange(self, first: Sequence[Row]) -> None:
        """Let some rows lie before the others, where the caches are read without a copy."""
        if list(first) == self.rows[: len(first)]:
            return
        wanted = [*first, *(row for row in self.rows if row not in first)]
        moved = [at for at, row in enumerate(wanted) if row is not self.rows[at]]
        self.policy.copy(np.array(moved), self.index([wanted[at] for at in moved]))
        self.rows, self._settings = wanted, None

    def read_prompts(self, most: int) -> None:
        """Read prompts, but for their last tokens: all, or `most` tokens while rows are running."""
        unread = [row for row in self.rows if row.unread]
        # While others are running, a long prompt comes in parts, one with each of their tokens.
        left = most if self.ready else sum(len(row.unread) for row in unread)
        parts: list[tuple[Row, list[int]]] = []
        for row in sorted(unread, key=lambda row: row.id):
            if left:
                parts.append((row, row.unread[:left]))
                row.unread = row.unread[left:]
                left -= len(parts[-1][1])
        # Texts of like length go through the models together, as in one call all are padded.
        for group in _read_together([len(tokens) for _, tokens in parts]):
            index = self.index([parts[at][0] for at in group])
            self.policy.read(index, [parts[at][1] for at in group], self.settings(index))

    def index(self, rows: Sequence[Row]) -> Index:
        """Where rows lie in the caches."""
        place = {row.id: at for at, row in enumerate(self.rows)}
        return np.array([place[row.id] for row in rows], dtype=np.int64)

    def settings(self, index: Index) -> RowSettings:
        """How some rows sample."""
        if self._settings is None:
            reference = self.policy.reference
            params = [row.request.sampling for row in self.rows]
            self._settings = row_settings(params, reference.vocabulary, reference.model.device)
        if len(index) == len(self.rows) and (index == np.arange(len(index))).all():
            return self._settings
        return self._settings.select(torch.from_numpy(index).to(self._settings.beta.device))


def _read_together(lengths: Sequence[int]) -> list[list[int]]:
    """Group texts of so many tokens, so that little is padded.

    >>> _read_together([3, 200, 4])
    [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    total = 0
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        length = lengths[at]
        if not groups or length * (len(groups[-1]) + 1) > total + length + READ_CALL:
            groups.append([])
            total = 0
        groups[-1].append(at)
        total += length
    return groups
