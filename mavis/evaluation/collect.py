"""What a policy wrote and what rewards said of it, as tables: made once, scored once, gone on with.

Every process makes and scores its share of the prompts; all of them then read everything. A table
is a folder of shards, so that a run that was killed goes on from there, or it is in memory.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mavis.objective import Objective
from mavis.progress import track
from mavis.prompts import Prompt, plain
from mavis.reward import identity, score, with_thoughts
from mavis.storage import Row, Shards, spent

Array = npt.NDArray[np.float64]

MADE, SCORES = "made", "scores"  # the tables in a folder
PER_SHARD = 16  # prompts that are written, and so kept, together
PER_SCORING = 256  # replies that a reward is given at once


def alone() -> None:
    """Nobody to wait for."""


@dataclass(frozen=True)
class World:
    """The processes that collect together."""

    rank: int = 0
    size: int = 1
    meet: Callable[[], object] = alone  # wait until all have come so far


class Memory:
    """A table like `Shards` that is gone with its process."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def rows(self) -> list[Row]:
        """All rows so far."""
        return self._rows

    def gather(self, rows: Iterable[Row], size: int) -> None:
        """Keep rows as they come, however many at a time."""
        del size
        self._rows.extend(rows)


@dataclass(frozen=True)
class Collector:
    """Makes and scores this process's share of the rows, and keeps count of what that took.

    Args:
        world: the processes that do this together.
        learned: whether a model was trained already on scores that are there.
        bars: whether progress is shown; not under another bar.
    """

    world: World = World()
    learned: bool = False
    bars: bool = True
    # What the last calls took, and the CPU of this process in all of them together.
    seconds: dict[str, float] = field(default_factory=lambda: {"cpu": 0.0})
    # Of the replies scored since this was last told: how many, and how many of them held thoughts.
    scored: dict[str, int] = field(default_factory=lambda: {"replies": 0, "thoughts": 0})

    def make(
        self,
        folder: Path | None,
        make: Callable[[Sequence[int]], Iterable[Row]],
        prompts: Sequence[Prompt],
        what: str,
        unit: str,
    ) -> list[Row]:
        """Make the rows that are missing; return all, in the order of the prompts.

        Args:
            folder: where they are kept; None is in memory.
            make: from the numbers of prompts, their rows: each has its number as `index`, its
                prompt as plain text, and its `responses`.
            prompts: texts or chats.
            what: what is being made, for people.
            unit: what one row is called, in the plural.

        Raises:
            ValueError: what is there was made from other prompts.
        """
        started = time.perf_counter()
        table = self._table(folder, MADE)
        have = {row["index"] for row in table.rows()}
        # Every size-th prompt: a data set sorted by length is shared out evenly.
        mine = range(self.world.rank, len(prompts), self.world.size)
        missing = [index for index in mine if index not in have]
        if missing:
            made = self._shown(make(missing), what, unit, len(mine), len(mine) - len(missing))
            self._gather(table, made, PER_SHARD)
        self.world.meet()  # the shares of all others are on disk now
        self.seconds["made"] = time.perf_counter() - started
        # A row may be there twice, made by runs that were killed at different moments.
        rows = {int(row["index"]): row for row in table.rows()}
        known = [rows[index] for index in range(len(prompts)) if index in rows]
        for row in known:
            before, now = row["prompt"], plain(prompts[row["index"]])
            if before != now:
                raise ValueError(
                    f"{folder} was made from other prompts: one was {before[:60]!r}, now it is "
                    f"{now[:60]!r}. Give another --out."
                )
        return known

    def score(
        self, folder: Path | None, rows: Sequence[Row], objectives: Sequence[Objective]
    ) -> list[Array]:
        """Score the replies of rows, but for those that the same rewards have scored before.

        Returns:
            the rewards of each row's n replies by the M objectives [n, M].

        Raises:
            ValueError: values were trained on scores of another reward, or of this one before it
                was edited.
        """
        started = time.perf_counter()
        table = self._table(folder, SCORES)
        marks = [identity(one) for one in objectives]  # scores are known by who gave them

        def giver(row: Row) -> str:
            return str(row.get("reward", marks[0]))  # once, there could be no more than one

        there = table.rows()
        known = [row for row in there if giver(row) in marks]
        # Before anything was learned from them, such scores do no harm: the new ones stand beside.
        if self.learned and len(known) < len(there):
            names = ", ".join(one.name for one in objectives)
            raise ValueError(
                f"{folder} holds scores of another reward of {names}, or of this one "
                "before it was edited: give another --out."
            )
        self._count_thoughts(rows, objectives)
        mine = [r for r in rows if r["index"] % self.world.size == self.world.rank]
        # A mapping: objectives with the same reward share its scores.
        for mark, one in dict(zip(marks, objectives, strict=True)).items():
            have = {row["index"] for row in known if giver(row) == mark}
            if missing := [row for row in mine if row["index"] not in have]:
                fresh = self._scored(missing, one, mark)
                shown = self._shown(fresh, "rewards", "prompts", len(missing))
                self._gather(table, shown, 4 * PER_SHARD)
        self.world.meet()
        self.seconds["scored"] = time.perf_counter() - started
        found = {(giver(row), row["index"]): row["rewards"] for row in table.rows()}
        columns = [[found[mark, row["index"]] for mark in marks] for row in rows]
        return [
            np.array(by, dtype=np.float64).reshape(len(marks), len(row["responses"])).T
            for by, row in zip(columns, rows, strict=True)
        ]

    def thoughts(self) -> str | None:
        """How many replies held thoughts since the last call, in words; None if none did."""
        held, replies = self.scored["thoughts"], self.scored["replies"]
        self.scored.update(replies=0, thoughts=0)
        line = f"{held:,} of {replies:,} replies hold thoughts, which the reward is not given"
        return line if held else None

    def _count_thoughts(self, rows: Sequence[Row], objectives: Sequence[Objective]) -> None:
        if not all(one.scores_thoughts for one in objectives):
            replies = [reply for row in rows for reply in row["responses"]]
            self.scored["replies"] += len(replies)
            self.scored["thoughts"] += with_thoughts(replies)

    def _scored(self, rows: Sequence[Row], one: Objective, mark: str) -> Iterator[Row]:
        """A row of scores for each row of replies; the reward is given many replies at once."""
        waiting: list[Row] = []
        for row in rows:
            waiting.append(row)
            if sum(len(r["responses"]) for r in waiting) >= PER_SCORING or row is rows[-1]:
                prompts = [r["prompt"] for r in waiting for _ in r["responses"]]
                replies = [text for r in waiting for text in r["responses"]]
                rewards = score(one.name, one.reward, prompts, replies, one.scores_thoughts)
                numbers = iter(rewards.tolist())
                for done in waiting:
                    mine = [next(numbers) for _ in done["responses"]]
                    yield {"index": done["index"], "rewards": mine, "reward": mark}
                waiting = []

    def _table(self, folder: Path | None, name: str) -> Shards | Memory:
        return Memory() if folder is None else Shards(folder / name, self.world.rank)

    def _gather(self, table: Shards | Memory, rows: Iterable[Row], size: int) -> None:
        before = time.process_time()
        table.gather(rows, size)
        self.seconds["cpu"] += time.process_time() - before

    def _shown(
        self, rows: Iterable[Row], what: str, unit: str, total: int, done: int = 0
    ) -> Iterable[Row]:
        return track(rows, what, unit, total, done) if self.bars else rows


def collected(folder: Path) -> float:
    """CPU seconds that it took to make and score what a collector keeps in a folder."""
    return spent((folder / MADE, folder / SCORES))
