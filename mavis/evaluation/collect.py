"""Samples, scores and caches what a policy writes: tables of rows that are made and scored once.

Each process makes and scores its share of the prompts, and then all of them read everything. A
table is a folder of shards, from which a killed run resumes, or it is in memory.
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

MADE, SCORES, PREFIXES = "made", "scores", "prefixes"  # the tables in a folder
PER_SHARD = 16  # prompts whose rows are written to disk together
PER_SCORING = 256  # replies that are passed to a reward together


@dataclass(frozen=True)
class World:
    """The processes that collect together."""

    rank: int = 0
    size: int = 1
    meet: Callable[[], object] = lambda: None  # wait for all processes


class _Memory:
    """A table like `Shards` that is not saved."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def rows(self) -> list[Row]:
        return self._rows

    def gather(self, rows: Iterable[Row], size: int) -> None:
        del size
        self._rows.extend(rows)


@dataclass(frozen=True)
class Collector:
    """Makes and scores this process's share of the rows, and measures the time.

    Args:
        world: the processes that collect together.
        learned: whether a model has already been trained on the saved scores.
        bars: whether progress is shown; not under another bar.
    """

    world: World = World()
    learned: bool = False
    bars: bool = True
    # Wall-clock time of the last calls, and CPU time of all calls in this process.
    seconds: dict[str, float] = field(default_factory=lambda: {"cpu": 0.0})
    # Since the last call of `thoughts`: replies that were scored, and those with thoughts.
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
            folder: where the rows are saved; None keeps them in memory.
            make: a function from indices of prompts to their rows, each with `index`, `prompt` (as
                plain text) and `responses`.
            prompts: texts or chats.
            what: the title of the progress bar.
            unit: the name of the rows in the progress bar.

        Raises:
            ValueError: the saved rows were made from other prompts.
        """
        started = time.perf_counter()
        table = self._table(folder, MADE)
        have = {row["index"] for row in table.rows()}
        # Every size-th prompt, so that the shares of a data set sorted by length are similar.
        mine = range(self.world.rank, len(prompts), self.world.size)
        missing = [index for index in mine if index not in have]
        if missing:
            made = self._shown(make(missing), what, unit, len(mine), len(mine) - len(missing))
            self._gather(table, made, PER_SHARD)
        self.world.meet()  # from here on, the rows of all processes are on disk
        self.seconds["made"] = time.perf_counter() - started
        # A row may occur twice, made by runs that were killed at different moments.
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
        self,
        folder: Path | None,
        rows: Sequence[Row],
        objectives: Sequence[Objective],
        name: str = SCORES,
    ) -> list[Array]:
        """Score the replies of rows, except those that the same rewards have already scored.

        Args:
            folder: where the scores are saved; None keeps them in memory.
            rows: each with `index`, `prompt` and `responses`.
            objectives: M of them.
            name: the table of the scores: SCORES of replies, PREFIXES of beginnings of replies.

        Returns:
            for each row the rewards of its n replies by the M objectives [n, M].

        Raises:
            ValueError: a model was trained on scores of another reward, or of this one before it
                was edited.
        """
        started = time.perf_counter()
        table = self._table(folder, name)
        identities = [identity(one) for one in objectives]

        def reward_of(row: Row) -> str:
            return str(row.get("reward", identities[0]))  # older tables are of one reward

        saved = table.rows()
        known = [row for row in saved if reward_of(row) in identities]
        # Other scores do no harm as long as no model was trained on them.
        if self.learned and len(known) < len(saved):
            names = ", ".join(one.name for one in objectives)
            raise ValueError(
                f"{folder} holds scores of another reward of {names}, or of this one "
                "before it was edited: give another --out."
            )
        if name == SCORES:
            self._count_thoughts(rows, objectives)
        mine = [r for r in rows if r["index"] % self.world.size == self.world.rank]
        # A mapping: objectives with the same reward share its scores.
        for reward, one in dict(zip(identities, objectives, strict=True)).items():
            have = {row["index"] for row in known if reward_of(row) == reward}
            if missing := [row for row in mine if row["index"] not in have]:
                fresh = self._scored(missing, one, reward)
                shown = self._shown(fresh, "rewards", "prompts", len(missing))
                self._gather(table, shown, 4 * PER_SHARD)
        self.world.meet()
        self.seconds["scored"] = time.perf_counter() - started
        scores = {(reward_of(row), row["index"]): row["rewards"] for row in table.rows()}
        columns = [[scores[reward, row["index"]] for reward in identities] for row in rows]
        return [
            np.array(column, dtype=np.float64).reshape(len(identities), len(row["responses"])).T
            for column, row in zip(columns, rows, strict=True)
        ]

    def thoughts(self) -> str | None:
        """A sentence on how many replies since the last call hold thoughts; None if none do."""
        held, replies = self.scored["thoughts"], self.scored["replies"]
        self.scored.update(replies=0, thoughts=0)
        line = f"{held:,} of {replies:,} replies hold thoughts, which the reward is not given"
        return line if held else None

    def _count_thoughts(self, rows: Sequence[Row], objectives: Sequence[Objective]) -> None:
        if not all(one.scores_thoughts for one in objectives):
            replies = [reply for row in rows for reply in row["responses"]]
            self.scored["replies"] += len(replies)
            self.scored["thoughts"] += with_thoughts(replies)

    def _scored(self, rows: Sequence[Row], one: Objective, reward: str) -> Iterator[Row]:
        """A row of scores for each row of replies; the reward gets many replies at once."""
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
                    yield {"index": done["index"], "rewards": mine, "reward": reward}
                waiting = []

    def _table(self, folder: Path | None, name: str) -> Shards | _Memory:
        return _Memory() if folder is None else Shards(folder / name, self.world.rank)

    def _gather(self, table: Shards | _Memory, rows: Iterable[Row], size: int) -> None:
        before = time.process_time()
        table.gather(rows, size)
        self.seconds["cpu"] += time.process_time() - before

    def _shown(
        self, rows: Iterable[Row], what: str, unit: str, total: int, done: int = 0
    ) -> Iterable[Row]:
        return track(rows, what, unit, total, done) if self.bars else rows


def collected(folder: Path) -> float:
    """CPU seconds that making and scoring the rows in a collector's folder took."""
    return spent((folder / MADE, folder / SCORES, folder / PREFIXES))
