"""The trees of an earlier run as those of a new one: other rewards score them, none is rolled out.

Rollouts are most of what a fit costs, and what a reward says of a reply does not depend on who
wrote it. So an objective is added to a fitted network by a fit of all of them that reads the
earlier run's trees: what has been scored stays, and the new reward scores the rest. Trees of later
rounds were guided by weights of the earlier run's objectives. In the new run they count for all
weights, as the reference's trees do: their policy's KL is charged, whoever it was.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mavis.checksums import DRAFT
from mavis.evaluation.collect import MADE, PREFIXES, SCORES
from mavis.objective import Objective
from mavis.reward import identity
from mavis.storage import CPU, Row, Shards, chunks, read_json, write_json
from mavis.training.collect import COMPLETE
from mavis.training.run_folder import CONFIG, IDENTITY, read_settings

# What may differ: how values are learned from trees, and what is the new run's own.
LEARNING = ("rounds", "epochs", "batch_tokens", "prefix_discount", "kl_budget", "eta", "beta")
FREE = (*LEARNING, "rows", "first_trees", "most_trees")
OWN = ("trees_of", "reference", "objectives")
TOGETHER = 64  # rows that are written at once


def rounds_of(source: Path, data: Mapping[str, Any]) -> list[Path]:
    """The finished rounds of a run whose trees a new run may take.

    Args:
        source: the folder of the run that has them.
        data: the new run's settings of the data module.

    Raises:
        FileNotFoundError: `source` is no run.
        ValueError: the run in `source` has no finished round, or its trees are made otherwise.
    """
    if not (source / CONFIG).is_file():
        raise FileNotFoundError(
            f"{source} holds no run of `mavis fit`: data.trees_of is a folder like runs/humor."
        )
    before = read_settings(source)["data"]
    for name, value in data.items():
        if name not in (*FREE, *OWN) and before.get(name, value) != value:
            raise ValueError(
                f"the trees of {source} were made with --data.{name} {before[name]}, not {value}: "
                f"give --data.{name} {before[name]}, or roll out new ones."
            )
    rounds = [done.parent.parent for done in source.glob(f"rollouts/round-*/train/{COMPLETE}")]
    if not rounds:
        raise ValueError(
            f"{source} holds no trees of a finished round: give another data.trees_of."
        )
    return sorted(rounds)


def take(source: Path, folder: Path, data: Mapping[str, Any], rewards: Sequence[Objective]) -> None:
    """Copy a run's answers, trees and scores into the folder of a new run, unless they are there.

    Args:
        source: the folder of the run that has them.
        folder: that of the new run.
        data: its settings of the data module.
        rewards: its objectives.

    Raises:
        FileNotFoundError: see `rounds_of`.
        ValueError: likewise.
    """
    rounds = rounds_of(source, data)
    if not (folder / IDENTITY).is_file():  # a run with another reference is refused by it
        write_json(folder / IDENTITY, read_json(source / IDENTITY))
    wanted = {identity(one) for one in rewards}
    for place in [source / "reference", *rounds]:
        for split in ("train", "validation"):
            there, here = place / split, folder / place.relative_to(source) / split
            _copy(here / MADE, map(_free, Shards(there / MADE).rows()))
            if (there / COMPLETE).is_file() and not (here / COMPLETE).is_file():
                write_json(here / COMPLETE, read_json(there / COMPLETE))
            for name in (SCORES, PREFIXES):
                rows = Shards(there / name).rows()
                _copy(here / name, (row for row in rows if row.get("reward") in wanted))


def _free(row: Row) -> Row:
    """A tree without the weights that guided it, which are of other objectives."""
    return row | {"weights": []} if "weights" in row else row


def _copy(folder: Path, rows: Iterable[Row]) -> None:
    """Write a table, all or nothing, unless it is there; that its rows cost no time is kept."""
    if folder.is_dir():
        return
    draft = folder.with_name(folder.name + DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    for part in chunks([row | {CPU: 0.0} for row in rows], TOGETHER):
        Shards(draft).append(part)
    if draft.is_dir():
        draft.rename(folder)
