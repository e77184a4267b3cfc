"""Rollouts and samples, collected on disk: made once, scored once, found again by the next run.

Every process makes and scores its share of the prompts; all of them then read everything. Knows
nothing of training.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mavis.decoding.policy import GuidedPolicy
from mavis.decoding.request import SamplingParams
from mavis.evaluation.metrics import Sample
from mavis.objective import Objective
from mavis.progress import track
from mavis.prompts import Prompt, plain
from mavis.reward import Units, identity, score, with_thoughts
from mavis.storage import Row, Shards, chunks, spent
from mavis.training.rollout import Shape, grow
from mavis.training.tree import Floats, Tree, read_tree, tree_row

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


@dataclass(frozen=True)
class Collector:
    """Who collects, for which objective, how many rows at a time, and with what behind it."""

    objective: Objective
    crew: World
    rows: int
    learned: bool = False  # whether values were trained already on scores that are there
    # What the last calls took, and the CPU of this process in all of them together.
    seconds: dict[str, float] = field(default_factory=lambda: {"cpu": 0.0})
    # Of the replies scored since this was last told: how many, and how many of them held thoughts.
    scored: dict[str, int] = field(default_factory=lambda: {"replies": 0, "thoughts": 0})

    def trees(
        self,
        folder: Path,
        policy: GuidedPolicy,
        prompts: Sequence[Prompt],
        objectives: Sequence[Objective],
        shape: Shape,
        sampling: SamplingParams,
        seed: tuple[int, int],
    ) -> list[Tree]:
        """A tree for every prompt, its leaves scored by each objective; see `rollout.grow`."""

        def make(missing: Sequence[int]) -> Iterator[Row]:
            wanted = [prompts[index] for index in missing]
            for at, tree in grow(policy, wanted, shape, sampling, seed, self.rows):
                yield tree_row(missing[at], tree)

        rows = self._make(folder, make, prompts, "rollouts", "trees")
        scores = [replace(self, objective=one)._score(folder, rows) for one in objectives]
        return [read_tree(row, np.stack([by[row["index"]] for by in scores], 1)) for row in rows]

    def samples(
        self,
        folder: Path,
        policy: GuidedPolicy,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        max_tokens: int,
        seed: int,
        n: int = 1,
    ) -> list[list[Row]]:
        """For every prompt its n scored answers, as rows with the fields of `Sample`."""
        share = max(1, 16 * self.rows // n)  # prompts at a time: few enough to be kept often

        def make(missing: Sequence[int]) -> Iterator[Row]:
            for part in chunks(missing, share):
                wanted = [prompts[index] for index in part]
                same = [sampling] * len(part)
                answers = policy.sample(
                    wanted, same, [max_tokens] * len(part), [seed] * len(part), n, self.rows
                )
                for at, index in enumerate(part):
                    mine = answers[at * n : (at + 1) * n]
                    yield {
                        "index": index,
                        "prompt": plain(prompts[index]),
                        "responses": [a.text for a in mine],
                        "tokens": [a.tokens for a in mine],
                        "kl": [a.kl for a in mine],
                        "kl_sampled": [a.kl_sampled for a in mine],
                        "kl_truncation": [a.kl_truncation for a in mine],
                    }

        rows = self._make(folder, make, prompts, "answers", "prompts")
        rewards = self._score(folder, rows)
        return [_unfold(row, rewards[row["index"]]) for row in rows]

    def thoughts(self) -> str | None:
        """How many replies held thoughts since the last call, in words; None if none did."""
        held, replies = self.scored["thoughts"], self.scored["replies"]
        self.scored.update(replies=0, thoughts=0)
        line = f"{held:,} of {replies:,} replies hold thoughts, which the reward is not given"
        return line if held else None

    def _make(
        self,
        folder: Path,
        make: Callable[[Sequence[int]], Iterable[Row]],
        prompts: Sequence[Prompt],
        what: str,
        unit: str,
    ) -> list[Row]:
        """Make the rows that are missing on disk; return all, in the order of the prompts.

        Raises:
            ValueError: what is there was made from other prompts.
        """
        started = time.perf_counter()
        shards = Shards(folder / MADE, self.crew.rank)
        have = {row["index"] for row in shards.rows()}
        mine = range(self.crew.rank, len(prompts), self.crew.size)
        missing = [index for index in mine if index not in have]
        if missing:
            made = track(make(missing), what, unit, len(mine), len(mine) - len(missing))
            self._gather(shards, made, PER_SHARD)
        self.crew.meet()
        self.seconds["made"] = time.perf_counter() - started
        rows = {int(row["index"]): row for row in shards.rows()}
        known = [rows[index] for index in range(len(prompts)) if index in rows]
        for row in known:
            before, now = row["prompt"], plain(prompts[row["index"]])
            if before != now:
                raise ValueError(
                    f"{folder} was made from other prompts: one was {before[:60]!r}, now it is "
                    f"{now[:60]!r}. Give another --out."
                )
        return known

    def _score(self, folder: Path, rows: Sequence[Row]) -> dict[int, Floats]:
        """Score what this reward has not scored yet; return the rewards of all rows by index.

        Raises:
            ValueError: values were trained on scores of another reward, or of this one before it
                was edited.
        """
        started = time.perf_counter()
        shards = Shards(folder / SCORES, self.crew.rank)
        there = shards.rows()
        scored = self._of_this_reward(there)
        if self.learned and len(scored) < len(there):
            raise ValueError(
                f"{folder} holds scores of another reward of {self.objective.name}, or of this one "
                "before it was edited: give another --out."
            )
        if not self.objective.scores_thoughts:
            said = [reply for row in rows for reply in row["responses"]]
            self.scored["replies"] += len(said)
            self.scored["thoughts"] += with_thoughts(said)
        have = {row["index"] for row in scored}
        mine = [r for r in rows if r["index"] % self.crew.size == self.crew.rank]
        missing = [row for row in mine if row["index"] not in have]
        if missing:
            fresh = track(self._scored(missing), "rewards", "prompts", len(missing))
            self._gather(shards, fresh, 4 * PER_SHARD)
        self.crew.meet()
        self.seconds["scored"] = time.perf_counter() - started
        scored = self._of_this_reward(shards.rows())
        return {row["index"]: np.array(row["rewards"], np.float32) for row in scored}

    def _gather(self, shards: Shards, rows: Iterable[Row], size: int) -> None:
        before = time.process_time()
        shards.gather(rows, size)
        self.seconds["cpu"] += time.process_time() - before

    @cached_property
    def _identity(self) -> str:
        return identity(self.objective)

    def _of_this_reward(self, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if row.get("reward", self._identity) == self._identity]

    def _scored(self, rows: Sequence[Row]) -> Iterator[Row]:
        waiting: list[Row] = []
        for row in rows:
            waiting.append(row)
            if sum(len(r["responses"]) for r in waiting) >= PER_SCORING or row is rows[-1]:
                prompts = [r["prompt"] for r in waiting for _ in r["responses"]]
                replies = [text for r in waiting for text in r["responses"]]
                one = self.objective
                rewards = score(one.name, one.reward, prompts, replies, one.scores_thoughts)
                numbers = iter(rewards.tolist())
                for done in waiting:
                    mine = [next(numbers) for _ in done["responses"]]
                    yield {"index": done["index"], "rewards": mine, "reward": self._identity}
                waiting = []


def collected(folder: Path) -> float:
    """CPU seconds that it took to make and score what a collector keeps in a folder."""
    return spent((folder / MADE, folder / SCORES))


def standard_samples(rows: Sequence[Sequence[Row]], units: Units) -> list[Sample]:
    """Answers as samples with rewards in standard units."""
    return [
        Sample(**{**row, "reward": (row["reward"] - units.mean) / units.std})
        for answers in rows
        for row in answers
    ]


def _unfold(row: Row, rewards: Floats) -> list[Row]:
    """The n answers of a row, one by one."""
    return [
        {
            "prompt": row["prompt"],
            "response": row["responses"][at],
            "tokens": row["tokens"][at],
            "reward": float(reward),
            "kl": row["kl"][at],
            "kl_sampled": row["kl_sampled"][at],
            "kl_truncation": row["kl_truncation"][at],
        }
        for at, reward in enumerate(rewards)
    ]
